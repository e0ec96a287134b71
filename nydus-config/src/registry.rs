//! Blobs in a container registry.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use storage::backend::registry::RegistryConfig;
use storage::http::Scheme;
use storage::secret::Secret;

use super::error::Problem;
use super::http::read_options;
use super::section::{Section, quote};

/// The keys of a registry.
pub(super) fn read(section: &mut Section) -> Result<RegistryConfig, Problem> {
    // Anything but `http` means the safe one.
    let scheme = match section.text("scheme")?.as_deref() {
        Some("http") => Scheme::Http,
        _ => Scheme::Https,
    };
    let host = section.required_text("host", "host[:port] of the registry")?;
    check_host(section, "host", &host)?;
    let repo = section.required_text("repo", "the repository, such as library/ubuntu")?;
    let is_odd = |c: char| "?#%\\".contains(c) || c.is_whitespace() || c.is_control();
    if repo.contains(is_odd) || repo.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(section.invalid("repo", format!("expected a repository, found {}", quote(&repo))));
    }
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
    let blob_redirected_host = section.text("blob_redirected_host")?.filter(|host| !host.is_empty());
    if let Some(host) = &blob_redirected_host {
        check_host(section, "blob_redirected_host", host)?;
    }
    Ok(RegistryConfig {
        scheme,
        host,
        repo,
        auth,
        registry_token: section.secret("registry_token")?,
        blob_url_scheme,
        blob_redirected_host,
        docker_config: section.path("docker_config")?,
        http: read_options(section)?,
    })
}

/// Whether `host` is `host[:port]`. The error shows nothing of it: it may hold a password.
fn check_host(section: &Section, key: &str, host: &str) -> Result<(), Problem> {
    if host.contains(['/', '@', '?', '#']) || host.contains(char::is_whitespace) {
        return Err(section.invalid(key, "expected host[:port] alone, found `/`, `@` or the like in it"));
    }
    Ok(())
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
