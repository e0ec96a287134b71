//! Proofs that lie in files: certificates, and Docker's configuration with a helper program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nydus_tests::config::Form;
use nydus_tests::daemon::Scratch;
use nydus_tests::fixtures::Image;
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::docker_registry::{Access, DockerRegistry, PASSWORD, Setup, USER, auth};
use nydus_tests::servers::nginx::{Nginx, Tls};
use nydus_tests::{require_mounts, require_tools};
use serde_json::{Value, json};

use crate::mounting::{check, launch};

#[test]
fn client_certificates() {
    require_mounts!();
    require_tools!("docker-registry", "nginx");
    let (authority, registry) = (Authority::new(), DockerRegistry::start(&Setup::default()));
    let tls = Tls { issued: authority.server(), clients: Some(authority.file()) };
    let nginx = Nginx::start(Some(&tls), &format!("location / {{ proxy_pass {}; }}", registry.url()));
    let image = Image::named("v6-zstd");
    registry.push(&image);
    let client = authority.client();
    let mut keys = registry.backend();
    keys["scheme"] = json!("https");
    keys["host"] = json!(nginx.addr().to_string());
    keys["ca_cert_files"] = json!([authority.file()]);
    let without = keys.clone();
    keys["client_cert_file"] = json!(client.certificate);
    keys["client_key_file"] = json!(client.key);
    for form in [Form::V1, Form::V2Toml] {
        check(&image, form, ("registry", keys.clone()), "a server that wants certificates");
    }
    let served = nginx.requests("/v2/");
    assert!(!served.is_empty() && served.iter().all(|status| *status == 206), "{served:?}");

    // With another authority's certificate, or without any, nothing is served.
    let other = Authority::new();
    let strange = other.client();
    let scratch = Scratch::new();
    let mut keys = without;
    for with in [false, true] {
        if with {
            keys["client_cert_file"] = json!(strange.certificate);
            keys["client_key_file"] = json!(strange.key);
        }
        let daemon = launch(&scratch, &image, Form::V1, ("registry", keys.clone())).start();
        fs::read(daemon.mountpoint().join("exact1m")).unwrap_err();
        daemon.unmount();
    }
    let all = nginx.requests("/v2/");
    assert!(all[served.len()..].iter().all(|status| *status == 400), "{all:?}");
}

/// A directory with a helper program `docker-credential-x` that knows `password`, and Docker's configuration that
/// names it for `host`.
fn helper(scratch: &Scratch, host: &str, password: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let answer = json!({ "ServerURL": host, "Username": USER, "Secret": password });
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = {host} ] || exit 1\necho x >>{}\necho '{answer}'\n",
        scratch.path("asked").display()
    );
    let program = scratch.write("docker-credential-x", &script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = json!({ "credHelpers": { host: "x" } }).to_string();
    (scratch.path(""), scratch.write("docker.json", &config))
}

#[test]
fn a_password_from_a_credential_helper() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    let image = Image::named("v6-zstd");
    registry.push(&image);
    for form in [Form::V1, Form::V2Json] {
        let scratch = Scratch::new();
        let (dir, file) = helper(&scratch, &registry.host(), PASSWORD);
        let daemon = with_helper(&scratch, &image, form, keys(&registry, &file), &dir).start();
        image.manifest().assert_tree(daemon.mountpoint(), "a password from a helper");
        let stderr = daemon.unmount();
        assert!(!stderr.contains(PASSWORD) && !stderr.contains(&auth()), "{stderr}");
        let asked = fs::read_to_string(scratch.path("asked")).unwrap().lines().count();
        assert!((1..=3).contains(&asked), "the helper was asked {asked} times");
    }
}

#[test]
fn a_helper_that_is_wrong_or_missing() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    let image = Image::named("v6-zstd");
    registry.push(&image);
    for (is_there, word) in [(true, "401"), (false, "docker-credential-x")] {
        let scratch = Scratch::new();
        let (dir, file) = helper(&scratch, &registry.host(), "hunter2");
        if !is_there {
            fs::remove_file(dir.join("docker-credential-x")).unwrap();
        }
        let daemon = with_helper(&scratch, &image, Form::V1, keys(&registry, &file), &dir).start();
        fs::read(daemon.mountpoint().join("exact1m")).unwrap_err();
        let stderr = daemon.unmount();
        assert!(stderr.contains("access denied") && stderr.contains(word), "{stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

/// The keys of a configuration that knows no password but where Docker has it.
fn keys(registry: &DockerRegistry, docker_config: &std::path::Path) -> Value {
    let mut keys = registry.backend();
    keys.as_object_mut().unwrap().remove("auth");
    keys["docker_config"] = json!(docker_config);
    keys
}

fn with_helper(
    scratch: &Scratch,
    image: &Image,
    form: Form,
    keys: Value,
    dir: &std::path::Path,
) -> nydus_tests::daemon::Launch {
    let path = std::env::var("PATH").unwrap_or_default();
    launch(scratch, image, form, ("registry", keys)).environment("PATH", format!("{}:{path}", dir.display()))
}

#[test]
fn a_password_from_the_environment_goes_before_that_of_the_file() {
    require_mounts!();
    require_tools!("docker-registry");
    let registry = DockerRegistry::start(&Setup { access: Access::Password, ..Setup::default() });
    let (image, scratch) = (Image::named("v6-zstd"), Scratch::new());
    registry.push(&image);
    let mut keys = registry.backend();
    // tester:hunter2
    keys["auth"] = json!("dGVzdGVyOmh1bnRlcjI=");
    let launch =
        launch(&scratch, &image, Form::V1, ("registry", keys)).environment("IMAGE_PULL_AUTH", auth());
    let daemon = launch.start();
    image.manifest().assert_tree(daemon.mountpoint(), "a password from the environment");
    daemon.unmount();
}
