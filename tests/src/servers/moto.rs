//! `moto`, a server of S3 that checks signatures, as far as tests need it.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::process::Process;
use super::python;
use crate::fixtures::Image;

/// Where it says that it is.
pub const REGION: &str = "us-east-1";
/// The bucket that is there.
pub const BUCKET: &str = "images";
/// Stands before the ids of blobs in the names of objects.
pub const PREFIX: &str = "nydus/";

/// The server. It ends when dropped.
pub struct Moto {
    // Before its files.
    process: Process,
    client: Client,
    key: (String, String),
    _dir: TempDir,
}

impl Moto {
    /// Starts one with an empty bucket and an access key. It believes everybody until [`Self::check_signatures`].
    pub fn start() -> Self {
        let program = python::programs().expect("required by the test").join("moto_server");
        let dir = tempfile::Builder::new().prefix("nydus-test.").tempdir().unwrap();
        let process = Process::start("moto", dir.path(), |addr| {
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &addr.port().to_string()]);
            command.env("MOTO_S3_CUSTOM_ENDPOINTS", format!("http://{addr}"));
            command.env_remove("AWS_CA_BUNDLE");
            command
        });
        let client = Client::new(None);
        let mut moto = Self { process, client, key: Default::default(), _dir: dir };
        moto.key = moto.make_key();
        moto.send(Method::PUT, &format!("/{BUCKET}"), Vec::new());
        moto
    }

    /// Puts the blobs of an image into the bucket.
    pub fn put(&self, image: &Image) {
        for file in image.blob_files() {
            self.put_object(file.file_name().unwrap().to_str().unwrap(), std::fs::read(&file).unwrap());
        }
    }

    /// Puts a blob into the bucket.
    pub fn put_object(&self, id: &str, content: Vec<u8>) {
        self.send(Method::PUT, &format!("/{BUCKET}/{PREFIX}{id}"), content);
    }

    /// From now on it refuses what is not signed with its key.
    pub fn check_signatures(&self) {
        let address = format!("{}/moto-api/reset-auth", self.url());
        self.client.must(Method::POST, &address, &[("content-type", "text/plain")], b"0".to_vec());
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.process.addr().to_string()
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// Id and secret of the access key.
    pub fn key(&self) -> (&str, &str) {
        (&self.key.0, &self.key.1)
    }

    /// The keys of a configuration that reads from it.
    pub fn backend(&self) -> Value {
        json!({
            "scheme": "http",
            "endpoint": self.host(),
            "region": REGION,
            "bucket_name": BUCKET,
            "object_prefix": PREFIX,
            "access_key_id": self.key.0,
            "access_key_secret": self.key.1,
        })
    }

    /// A client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The requests for blobs that it answered, as statuses.
    pub fn blob_requests(&self) -> Vec<u16> {
        let log = self.process.log();
        let wanted = format!("GET /{BUCKET}/{PREFIX}");
        let lines = log.lines().filter_map(|line| line.split_once(&wanted));
        // `… HTTP/1.1" 206 -`, in colours.
        let status = |rest: &str| rest.rsplit_once("\" ")?.1.get(..3)?.parse().ok();
        lines.map(|(_, rest)| status(rest).expect("a line of its log has a status")).collect()
    }

    fn make_key(&self) -> (String, String) {
        self.manage("Action=CreateUser&UserName=tester");
        let policy =
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        self.manage(&format!(
            "Action=PutUserPolicy&UserName=tester&PolicyName=all&PolicyDocument={}",
            encode(policy)
        ));
        let answer = self.manage("Action=CreateAccessKey&UserName=tester");
        let field = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).expect("an access key");
            rest.split('<').next().unwrap_or_default().to_owned()
        };
        (field("AccessKeyId"), field("SecretAccessKey"))
    }

    fn manage(&self, action: &str) -> String {
        let body = format!("Version=2010-05-08&{action}");
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("authorization", &unchecked("iam"))];
        let reply = self.client.must(Method::POST, &self.url(), &headers, body.into_bytes());
        String::from_utf8(reply.body).unwrap()
    }

    fn send(&self, method: Method, path: &str, body: Vec<u8>) {
        let headers = [("content-type", "application/octet-stream"), ("authorization", &unchecked("s3"))];
        self.client.must(method, &format!("{}{path}", self.url()), &headers, body);
    }
}

/// A header that says which service is meant, with a signature that nobody looks at.
fn unchecked(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=nobody/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
