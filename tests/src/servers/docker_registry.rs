//! Debian's `docker-registry`: anonymous, with a password, with tokens; in the clear or over TLS; its blobs in files or
//! in a bucket, to which it then leads with signed addresses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::authority::{Authority, Issued};
use super::client::Client;
use super::process::{Process, settled};
use super::token_server::TokenServer;
use crate::fixtures::Image;
use crate::requirements;

/// The program.
pub const PROGRAM: &str = "docker-registry";
/// Who may push and, where it is asked, pull.
pub const USER: &str = "tester";
/// Its password.
pub const PASSWORD: &str = "open sesame";
/// The password, as `bcrypt` at its least cost has it: no program is needed to make the file.
const HASH: &str = "$2b$04$nydusTestsSaltXXXXXXXu3I0vCJsMTnZoxSdpQn0GBlA3PDb0y76";
/// The repository that blobs are pushed to.
pub const REPO: &str = "library/test";

/// Who may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Anonymous,
    /// Who knows the password.
    Password,
    /// Who has a token, which a password buys.
    Token,
    /// Who has a token, which everybody may have.
    AnonymousToken,
}

/// What is to be started.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Who may read.
    pub access: Access,
    /// Over TLS, believed by whom believes this authority.
    pub authority: Option<&'a Authority>,
    /// Seconds that a token lives; `None`: 60.
    pub token_life: Option<u64>,
    /// The keys of the storage driver `s3`: blobs are in a bucket.
    pub bucket: Option<&'a Value>,
}

/// The registry. It ends when dropped.
pub struct DockerRegistry {
    // Before its files.
    process: Process,
    setup: (Access, Option<PathBuf>),
    tokens: Option<TokenServer>,
    client: Client,
    config: PathBuf,
    dir: TempDir,
}

impl DockerRegistry {
    /// Starts an empty one.
    pub fn start(setup: &Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("nydus-test.").tempdir().unwrap();
        let tokens = matches!(setup.access, Access::Token | Access::AnonymousToken).then(|| {
            let may_all = setup.access == Access::AnonymousToken;
            TokenServer::start((USER, PASSWORD), may_all, setup.token_life.unwrap_or(60), setup.authority)
        });
        let issued = setup.authority.map(Authority::server);
        let config = dir.path().join("config.yml");
        let process = Process::start("registry", dir.path(), |addr| {
            let text = configuration(dir.path(), &addr.to_string(), setup, issued.as_ref(), tokens.as_ref());
            std::fs::write(&config, text).unwrap();
            command(&config)
        });
        let authority = setup.authority.map(Authority::file);
        let client = Client::new(authority.as_deref());
        Self { process, setup: (setup.access, authority), tokens, client, config, dir }
    }

    /// Ends it, does `meanwhile`, and starts it again at the same address with what it had.
    pub fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let addr = self.process.addr();
        let Self { process, dir, .. } = self;
        drop(process);
        meanwhile();
        let process = Process::start_at("registry", dir.path(), addr, &mut command(&self.config));
        Self { process, dir, ..self }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.process.addr().to_string()
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.setup.1.is_some() { "https" } else { "http" }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.host())
    }

    /// The server of its tokens.
    pub fn tokens(&self) -> &TokenServer {
        self.tokens.as_ref().expect("this registry wants no tokens")
    }

    /// Pushes the blobs of an image.
    pub fn push(&self, image: &Image) {
        self.push_files(&image.blob_files());
    }

    /// Pushes blobs, each a file that is named by its digest.
    pub fn push_files(&self, files: &[PathBuf]) {
        let proof = match self.setup.0 {
            Access::Anonymous => None,
            Access::Password => Some(format!("Basic {}", auth())),
            Access::Token | Access::AnonymousToken => {
                Some(format!("Bearer {}", self.tokens().issue(&format!("repository:{REPO}:push,pull"), true)))
            }
        };
        self.client.push(&self.url(), REPO, proof.as_deref(), files);
    }

    /// The keys of a configuration that reads from it.
    pub fn backend(&self) -> Value {
        let mut keys = json!({ "scheme": self.scheme(), "host": self.host(), "repo": REPO });
        if matches!(self.setup.0, Access::Password | Access::Token) {
            keys["auth"] = json!(auth());
        }
        if let Some(file) = &self.setup.1 {
            keys["ca_cert_files"] = json!([file]);
        }
        keys
    }

    /// A client that believes it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The requests for blobs that it answered, as statuses.
    pub fn blob_requests(&self) -> Vec<u16> {
        let log = settled(|| self.process.log());
        let lines = log.lines().filter_map(|line| line.split_once(&format!("\"GET /v2/{REPO}/blobs/")));
        let statuses =
            lines.map(|(_, rest)| rest.split("\" ").nth(1).and_then(|rest| rest.get(..3)?.parse().ok()));
        statuses.map(|status| status.expect("a line of its log has a status")).collect()
    }
}

/// User and password, as `auth` has them.
pub fn auth() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"))
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(requirements::tool(PROGRAM).expect("required by the test"));
    // Its driver for buckets does not start with this variable.
    command.arg("serve").arg(config).env_remove("AWS_CA_BUNDLE");
    command
}

fn configuration(
    dir: &Path,
    addr: &str,
    setup: &Setup,
    issued: Option<&Issued>,
    tokens: Option<&TokenServer>,
) -> String {
    let storage = match setup.bucket {
        Some(bucket) => json!({ "s3": bucket }),
        None => json!({ "filesystem": { "rootdirectory": dir.join("data") } }),
    };
    let mut config = json!({
        "version": "0.1",
        "log": { "level": "warn" },
        "storage": storage,
        "http": { "addr": addr, "secret": "the same after a restart" },
    });
    config["storage"]["maintenance"] = json!({ "uploadpurging": { "enabled": false } });
    if let Some(issued) = issued {
        config["http"]["tls"] = json!({ "certificate": issued.certificate, "key": issued.key });
    }
    if setup.access == Access::Password {
        let path = dir.join("htpasswd");
        std::fs::write(&path, format!("{USER}:{HASH}\n")).unwrap();
        config["auth"] = json!({ "htpasswd": { "realm": "test", "path": path } });
    }
    if let Some(tokens) = tokens {
        let bundle = dir.join("tokens.pem");
        std::fs::write(&bundle, tokens.certificate()).unwrap();
        config["auth"] = json!({ "token": {
            "realm": tokens.realm(),
            "service": tokens.service(),
            "issuer": tokens.issuer(),
            "rootcertbundle": bundle,
        } });
    }
    // JSON is YAML.
    config.to_string()
}
