use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Process;

use super::*;

fn password(user: &str, password: &str) -> Credential {
    Credential::Password(Secret::new(STANDARD.encode(format!("{user}:{password}"))))
}

async fn look_up_in(text: &str, host: &str) -> Result<Option<Credential>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, text).unwrap();
    look_up(&path, host).await.map_err(|unknown| unknown.detail)
}

#[tokio::test]
async fn logins_of_the_file() {
    let text = r#"{"auths": {
        "registry:5000": {"auth": "dTpw"},
        "https://index.docker.io/v1/": {"username": "hub", "password": "s"},
        "https://cloud/v2/": {"auth": "dTpw", "identitytoken": "it"},
        "empty": {}
    }, "HttpHeaders": {"x": "y"}}"#;
    for (host, expected) in [
        ("registry:5000", Some(password("u", "p"))),
        ("registry", None),
        ("registry-1.docker.io", Some(password("hub", "s"))),
        ("cloud", Some(Credential::IdentityToken(Secret::new("it")))),
        ("empty", None),
    ] {
        assert_eq!(look_up_in(text, host).await.unwrap(), expected, "{host}");
    }
}

#[tokio::test]
async fn bad_files_are_told_without_their_secrets() {
    for (text, complaint) in [
        (r#"{"auths": {"h": {"auth": ["hunter2"]}}}"#, "not a Docker configuration"),
        (r#"{"auths": {"h": {"auth": "hunter2!"}}}"#, "not base64"),
        (r#"{"auths": {"h": {"auth": "aHVudGVyMg=="}}}"#, "without `:`"),
        (r#"{"credHelpers": {"h": "../evil"}}"#, "not the name of a credential helper"),
        (r#"{"credHelpers": {"h": "that-nobody-has"}}"#, "docker-credential-that-nobody-has"),
    ] {
        let error = look_up_in(text, "h").await.unwrap_err();
        assert!(error.contains(complaint) && !error.contains("hunter2"), "{error}");
    }
    let error = look_up(Path::new("/no/such/file"), "h").await.unwrap_err().detail;
    assert!(error.contains("/no/such/file"), "{error}");
}

/// Programs are found by PATH, which only a process of its own can have changed.
#[test]
fn helpers() {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in [
        // The name to look up comes on the standard input.
        ("one", r#"read name; echo "{\"ServerURL\":\"$name\",\"Username\":\"$1-$name\",\"Secret\":\"s\"}""#),
        ("token", r#"echo '{"Username":"<token>","Secret":"it"}'"#),
        ("none", r#"echo "credentials not found in native keychain"; exit 1"#),
        ("broken", "echo hunter2; exit 3"),
        ("babble", "echo hunter2"),
        ("hangs", "sleep 60"),
    ] {
        let path = dir.path().join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let test = "http::docker_config::tests::helpers_in_the_path";
    let inner = Process::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout);
    assert!(
        inner.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&inner.stderr)
    );
}

#[tokio::test]
#[ignore = "run by `helpers`, with its helpers in the path"]
async fn helpers_in_the_path() {
    let text = r#"{
        "auths": {"filed": {"auth": "dTpw"}},
        "credHelpers": {"one": "one", "token": "token", "none": "none", "broken": "broken", "babble": "babble", "hangs": "hangs"},
        "credsStore": "none"
    }"#;
    assert_eq!(look_up_in(text, "one").await.unwrap(), Some(password("get-one", "s")));
    assert_eq!(look_up_in(text, "token").await.unwrap(), Some(Credential::IdentityToken(Secret::new("it"))));
    assert_eq!(look_up_in(text, "none").await.unwrap(), None);
    assert_eq!(look_up_in(text, "filed").await.unwrap(), Some(password("u", "p")));
    for (host, complaint) in
        [("broken", "exit status: 3"), ("babble", "no credential in JSON"), ("hangs", "within 5s")]
    {
        let start = std::time::Instant::now();
        let error = look_up_in(text, host).await.unwrap_err();
        assert!(error.contains(complaint) && !error.contains("hunter2"), "{error}");
        assert!(start.elapsed() < HELPER_LIMIT + Duration::from_secs(30));
    }
}
