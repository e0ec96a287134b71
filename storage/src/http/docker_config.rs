//! Credentials as Docker keeps them: in its `config.json`, or with a helper program.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::credentials::Credential;
use super::failure::quoted;
use crate::secret::Secret;

/// How long a helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(5);
/// The longest file, and the longest answer of a helper.
const MAX_BYTES: u64 = 1 << 20;
/// The user that stands for "the password is an identity token".
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
struct Printed {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Why nothing is known. It shows no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub detail: String,
    /// A helper that was there did not do its work: it may the next time.
    pub may_pass: bool,
}

impl From<String> for Unknown {
    fn from(detail: String) -> Self {
        Self { detail, may_pass: false }
    }
}

/// The credential for `host` by the file at `path`; `None`: it has none. A helper for the host goes first, then the
/// store of all, then the file itself.
pub(crate) async fn look_up(path: &Path, host: &str) -> Result<Option<Credential>, Unknown> {
    let file = load(path).await.map_err(|detail| format!("docker_config {}: {detail}", path.display()))?;
    let names = names(host);
    for name in &names {
        if let Some(helper) = file.cred_helpers.get(name) {
            return ask(helper, name).await;
        }
    }
    if !file.creds_store.is_empty() {
        // Stores are asked for the name that the login was stored under.
        for name in &names {
            if let Some(credential) = ask(&file.creds_store, name).await? {
                return Ok(Some(credential));
            }
        }
    }
    for name in &names {
        if let Some(entry) = file.auths.get(name) {
            let credential = entry.credential();
            let at = || format!("docker_config {}: auths.{name}", path.display());
            return credential.map_err(|detail| format!("{}: {detail}", at()).into());
        }
    }
    Ok(None)
}

async fn load(path: &Path) -> Result<File, String> {
    let path = PathBuf::from(path);
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read as _;
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
        std::io::Result::Ok(text)
    });
    let text = read.await.map_err(|err| err.to_string())?.map_err(|err| err.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("more than {MAX_BYTES} bytes"));
    }
    parse(&text)
}

/// The file's text.
pub(crate) fn parse(text: &[u8]) -> Result<File, String> {
    // The library's own words may quote a secret.
    serde_json::from_slice(text).map_err(|err| format!("not a Docker configuration, line {}", err.line()))
}

/// The names that a login to `host` may be kept under.
fn names(host: &str) -> Vec<String> {
    let mut names = vec![host.to_owned(), format!("https://{host}"), format!("http://{host}")];
    names.extend([format!("https://{host}/v1/"), format!("https://{host}/v2/")]);
    if matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        names.extend(["https://index.docker.io/v1/", "docker.io", "index.docker.io"].map(str::to_owned));
    }
    names
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(Secret::new(&self.identitytoken))));
        }
        if !self.auth.is_empty() {
            return Credential::from_auth(&Secret::new(&self.auth)).map(Some);
        }
        if self.username.is_empty() && self.password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password(Secret::new(
            STANDARD.encode(format!("{}:{}", self.username, self.password)),
        ))))
    }
}

/// Asks a helper program. `None`: it knows no credential for the name.
async fn ask(helper: &str, name: &str) -> Result<Option<Credential>, Unknown> {
    if helper.is_empty() || !helper.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(
            format!("docker_config: {} is not the name of a credential helper", quoted(helper)).into()
        );
    }
    let program = format!("docker-credential-{helper}");
    // Dropped, it is killed: nothing is left of a helper that hangs.
    let child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let failed = |detail: String| Unknown { detail: format!("{program}: {detail}"), may_pass: true };
    match tokio::time::timeout(HELPER_LIMIT, converse(child, name)).await {
        Ok(found) => found.map_err(failed),
        Err(_) => Err(failed(format!("no answer within {HELPER_LIMIT:?}"))),
    }
}

/// Says the name, and hears the credential.
async fn converse(mut child: Child, name: &str) -> Result<Option<Credential>, String> {
    let text = |err: std::io::Error| err.to_string();
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input may still know the answer.
        let _ = stdin.write_all(name.as_bytes()).await;
    }
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_BYTES).read_to_end(&mut printed).await.map_err(text)?;
    }
    let status = child.wait().await.map_err(text)?;
    if !status.success() {
        // How helpers say that they have nothing.
        if printed.trim_ascii().starts_with(b"credentials not found") {
            return Ok(None);
        }
        return Err(status.to_string());
    }
    let printed: Printed =
        serde_json::from_slice(&printed).map_err(|_| "it printed no credential in JSON")?;
    Ok(Some(if printed.username == TOKEN_USER {
        Credential::IdentityToken(Secret::new(printed.secret))
    } else {
        Credential::Password(Secret::new(STANDARD.encode(format!("{}:{}", printed.username, printed.secret))))
    }))
}

#[cfg(test)]
mod tests;
