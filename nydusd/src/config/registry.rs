//! Blobs in a container registry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use storage::backend::registry::RegistryConfig;
use storage::http::Scheme;
use storage::secret::Secret;

use super::error::Problem;
use super::http::read_options;
use super::section::Section;

/// The keys of a registry.
pub(super) fn read(section: &mut Section) -> Result<RegistryConfig, Problem> {
    // Anything but `http` means the safe one.
    let scheme = match section.text("scheme")?.as_deref() {
        Some("http") => Scheme::Http,
        _ => Scheme::Https,
    };
    let host = section.required_text("host", "host[:port] of the registry")?;
    if host.contains(['/', '@']) || host.contains(char::is_whitespace) {
        // Not shown: it may hold a password.
        return Err(section.invalid("host", "expected host[:port] alone, found `/`, `@` or a space in it"));
    }
    let repo = section.required_text("repo", "the repository, such as library/ubuntu")?;
    let auth = section.secret("auth")?;
    if let Some(auth) = &auth {
        check_auth(&section.key("auth"), auth)?;
    }
    let blob_url_scheme = match section.text("blob_url_scheme")?.as_deref() {
        None | Some("") => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(_) => {
            return Err(section.invalid(
                "blob_url_scheme",
                "expected one of \"\", \"http\", \"https\", found another text",
            ));
        }
    };
    Ok(RegistryConfig {
        scheme,
        host,
        repo,
        auth,
        registry_token: section.secret("registry_token")?,
        blob_url_scheme,
        blob_redirected_host: section.text("blob_redirected_host")?.filter(|host| !host.is_empty()),
        docker_config: section.path("docker_config")?,
        http: read_options(section)?,
    })
}

/// Whether `auth` is base64 of `user:password`. The error names `key` and shows nothing of the value.
pub(super) fn check_auth(key: &str, auth: &Secret) -> Result<(), Problem> {
    let detail = match STANDARD.decode(auth.expose()) {
        Ok(plain) if plain.contains(&b':') => return Ok(()),
        Ok(_) => "expected base64 of user:password, found base64 of a text without `:`",
        Err(_) => "expected base64 of user:password, found a text that is not base64",
    };
    Err(Problem::value(key, detail))
}
