//! What is traced and where it goes: the configuration, and the standard variables of OpenTelemetry over it.
//!
//! Invariant: a variable that would change traces and that we do not obey is refused by name, never ignored. Those of
//! metrics and logs, and all of them while nothing is to be traced, mean nothing here. No error shows a value that
//! may be secret.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Result, bail};

use nydus_config::Tracing;

/// The path of traces under a general address (OTLP specification, "Endpoint URLs for OTLP/HTTP").
const TRACES_PATH: &str = "v1/traces";
/// How long one request to the collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Variables of general kind, and those of traces that win over them.
const GENERAL: &str = "OTEL_EXPORTER_OTLP_";
const SPECIAL: &str = "OTEL_EXPORTER_OTLP_TRACES_";

/// Where traces go, and which.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// The whole address that spans are posted to.
    pub address: String,
    /// Headers of every request, some of which may be secret.
    pub headers: HashMap<String, String>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Traces whose first span took less are dropped.
    pub threshold: Duration,
    /// Attributes of the process: `service.name` and what else is said of it.
    pub resource: BTreeMap<String, String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password, the headers a token.
        f.debug_struct("Settings").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

impl Settings {
    /// From the configuration and the environment of the process. `None`: nothing is to be traced.
    pub fn of(config: Option<&Tracing>) -> Result<Option<Self>> {
        Self::from(
            config,
            std::env::vars_os().filter_map(|(name, value)| {
                let name = name.into_string().ok().filter(|name| name.starts_with("OTEL_"))?;
                Some((name, value.to_string_lossy().into_owned()))
            }),
        )
    }

    /// As [`Self::of`], with these variables.
    pub fn from(
        config: Option<&Tracing>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>> {
        // Empty is the same as unset, as the specification says.
        let mut variables: BTreeMap<String, String> =
            variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        variables.retain(|name, _| {
            !["_METRICS_", "_METRIC_", "_LOGS_", "_LOG_", "_BLRP_"].iter().any(|other| name.contains(other))
        });
        let mut take = |name: &str| variables.remove(name);
        let of_either = |take: &mut dyn FnMut(&str) -> Option<String>, what: &str| {
            let general = take(&format!("{GENERAL}{what}"));
            take(&format!("{SPECIAL}{what}")).or(general)
        };

        let disabled = take("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let exporter = take("OTEL_TRACES_EXPORTER");
        let general = take("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| under(&base));
        let address = take("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(general);
        let address = address.or_else(|| config.map(|config| under(config.endpoint.expose())));
        let Some(address) = address.filter(|_| !disabled && exporter.as_deref() != Some("none")) else {
            return Ok(None);
        };
        expect("OTEL_TRACES_EXPORTER", exporter, &["otlp"])?;
        expect("OTEL_EXPORTER_OTLP_PROTOCOL", of_either(&mut take, "PROTOCOL"), &["http/protobuf"])?;
        expect("OTEL_EXPORTER_OTLP_COMPRESSION", of_either(&mut take, "COMPRESSION"), &["none"])?;
        expect("OTEL_PROPAGATORS", take("OTEL_PROPAGATORS"), &["tracecontext", "tracecontext,baggage"])?;
        expect("OTEL_TRACES_SAMPLER", take("OTEL_TRACES_SAMPLER"), &["always_on", "parentbased_always_on"])?;
        if !["http://", "https://"].iter().any(|scheme| address.starts_with(scheme)) {
            bail!("OTEL_EXPORTER_OTLP_ENDPOINT: expected an address that begins with http:// or https://");
        }
        let timeout = match of_either(&mut take, "TIMEOUT") {
            None => TIMEOUT,
            Some(text) => match text.parse() {
                Ok(0) | Err(_) => bail!("OTEL_EXPORTER_OTLP_TIMEOUT: expected milliseconds, found {text:?}"),
                Ok(milliseconds) => Duration::from_millis(milliseconds),
            },
        };
        let mut headers = HashMap::new();
        for (name, value) in config.into_iter().flat_map(|config| &config.headers) {
            headers.insert(name.clone(), value.expose().to_owned());
        }
        headers.extend(pairs("OTEL_EXPORTER_OTLP_HEADERS", of_either(&mut take, "HEADERS"))?);
        let mut resource = BTreeMap::from([("service.name".to_owned(), "nydusd".to_owned())]);
        resource.extend(pairs("OTEL_RESOURCE_ATTRIBUTES", take("OTEL_RESOURCE_ATTRIBUTES"))?);
        resource.extend(take("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
        if let Some(name) = variables.keys().find(|name| concerns_traces(name)) {
            bail!("{name}: not supported; unset it");
        }
        let threshold = config.map_or(Tracing::THRESHOLD, |config| config.threshold);
        Ok(Some(Self { address, headers, timeout, threshold, resource }))
    }
}

/// The address of traces under a general one.
fn under(base: &str) -> String {
    format!("{}/{TRACES_PATH}", base.trim_end_matches('/'))
}

fn expect(name: &str, value: Option<String>, supported: &[&str]) -> Result<()> {
    match value {
        Some(value) if !supported.contains(&value.as_str()) => {
            bail!("{name}={value:?}: not supported, expected {}", supported.join(" or "))
        }
        _ => Ok(()),
    }
}

/// `name=value` pairs between commas, with the octets of values percent-encoded.
fn pairs(name: &str, text: Option<String>) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for pair in text.as_deref().unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
        let decoded = pair.split_once('=').and_then(|(key, value)| {
            let (key, value) = (key.trim(), decode(value.trim())?);
            (!key.is_empty()).then(|| (key.to_owned(), value))
        });
        // A header may hold a token: what is wrong is not shown.
        let Some(decoded) = decoded else { bail!("{name}: expected pairs key=value between commas") };
        found.push(decoded);
    }
    Ok(found)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || (rest.next()? as char).to_digit(16);
        bytes.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// True for the variables that a tracer would obey.
fn concerns_traces(name: &str) -> bool {
    const PREFIXES: [&str; 7] = [
        "OTEL_EXPORTER_OTLP_",
        "OTEL_TRACES_",
        "OTEL_BSP_",
        "OTEL_SPAN_",
        "OTEL_ATTRIBUTE_",
        "OTEL_EVENT_",
        "OTEL_LINK_",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name == "OTEL_CONFIG_FILE"
}

#[cfg(test)]
mod tests {
    use super::*;
    use nydus_config::Config;

    fn config() -> Tracing {
        let text = r#"{"version":2,"tracing":{"endpoint":"http://collector:4318/","threshold_ms":7,"headers":{"x-key":"hunter2"}}}"#;
        Config::parse(text.as_bytes(), "test").unwrap().config.tracing.unwrap()
    }

    fn settings(config: Option<&Tracing>, variables: &[(&str, &str)]) -> Result<Option<Settings>> {
        Settings::from(config, variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    #[test]
    fn without_an_address_nothing_is_traced_whatever_else_is_said() {
        assert!(settings(None, &[]).unwrap().is_none());
        assert!(settings(None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).unwrap().is_none());
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert!(settings(Some(&config()), &[off]).unwrap().is_none(), "{off:?}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_configuration() {
        let configured = settings(Some(&config()), &[]).unwrap().unwrap();
        assert_eq!(configured.address, "http://collector:4318/v1/traces");
        assert_eq!(configured.threshold, Duration::from_millis(7));
        assert_eq!(configured.headers["x-key"], "hunter2");
        assert_eq!(configured.resource["service.name"], "nydusd");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://special/path"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, other=c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1,service.name=x"),
            ("OTEL_SERVICE_NAME", "node-1"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ];
        let both = settings(Some(&config()), &variables).unwrap().unwrap();
        assert_eq!(both.address, "https://special/path");
        assert_eq!((both.headers["x-key"].as_str(), both.headers["other"].as_str()), ("a b", "c"));
        assert_eq!(both.timeout, Duration::from_millis(250));
        assert_eq!(both.resource["service.name"], "node-1");
        assert_eq!(both.resource["k8s.node.name"], "n1");
        assert!(!format!("{both:?}").contains("a b"));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/key.pem"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ] {
            let error = settings(Some(&config()), &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name), "{name}: {error}");
        }
        let error =
            settings(Some(&config()), &[("OTEL_EXPORTER_OTLP_HEADERS", "Bearer hunter2")]).unwrap_err();
        assert_eq!(error.to_string(), "OTEL_EXPORTER_OTLP_HEADERS: expected pairs key=value between commas");
    }
}
