//! Object stores' side of signatures, written from their documentation and checked against the examples in it: what the
//! doubles of buckets believe.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::double::Seen;

fn hmac_sha256(key: &[u8], data: &str) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(data).finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The family that both V4 signatures belong to.
struct V4 {
    key_prefix: &'static str,
    algorithm: &'static str,
    service: &'static str,
    terminal: &'static str,
}

const S3: V4 =
    V4 { key_prefix: "AWS4", algorithm: "AWS4-HMAC-SHA256", service: "s3", terminal: "aws4_request" };
const OSS: V4 = V4 {
    key_prefix: "aliyun_v4",
    algorithm: "OSS4-HMAC-SHA256",
    service: "oss",
    terminal: "aliyun_v4_request",
};

impl V4 {
    fn signature(&self, secret: &str, region: &str, time: &str, canonical: &str) -> String {
        let date = &time[..8];
        let mut key = format!("{}{secret}", self.key_prefix).into_bytes();
        for part in [date, region, self.service, self.terminal] {
            key = hmac_sha256(&key, part);
        }
        let Self { algorithm, service, terminal, .. } = self;
        let hash = hex(&Sha256::digest(canonical));
        hex(&hmac_sha256(&key, &format!("{algorithm}\n{time}\n{date}/{region}/{service}/{terminal}\n{hash}")))
    }

    /// The parts of `Authorization`: `Credential=…, SignedHeaders=…`.
    fn parts<'a>(&self, authorization: &'a str) -> HashMap<&'a str, &'a str> {
        let rest = authorization.strip_prefix(self.algorithm).unwrap();
        rest.split(',').map(|part| part.trim().split_once('=').unwrap()).collect()
    }
}

fn header<'a>(seen: &'a Seen, host: &'a str, name: &str) -> &'a str {
    // What the bucket is called, whoever passed the request on.
    if name == "host" { host } else { seen.header(name).unwrap() }
}

/// Whether `seen` is signed by the key `key` with `secret`, for S3 at `host`.
pub fn s3(seen: &Seen, host: &str, region: &str, (key, secret): (&str, &str)) -> bool {
    let parts = S3.parts(seen.header("authorization").unwrap());
    let time = seen.header("x-amz-date").unwrap();
    assert_eq!(parts["Credential"], format!("{key}/{}/{region}/s3/aws4_request", &time[..8]));
    let signed: Vec<_> = parts["SignedHeaders"].split(';').collect();
    assert!(["host", "range", "x-amz-date"].iter().all(|name| signed.contains(name)), "{signed:?}");
    let headers: String =
        signed.iter().map(|name| format!("{name}:{}\n", header(seen, host, name))).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{}\n{}",
        seen.method,
        seen.path(),
        seen.uri.query().unwrap_or_default(),
        parts["SignedHeaders"],
        seen.header("x-amz-content-sha256").unwrap(),
    );
    S3.signature(secret, region, time, &canonical) == parts["Signature"]
}

/// Whether `seen` is signed with OSS's V4; `resource` is `/bucket/object`, encoded.
pub fn oss_v4(seen: &Seen, resource: &str, region: &str, (key, secret): (&str, &str)) -> bool {
    let parts = OSS.parts(seen.header("authorization").unwrap());
    let time = seen.header("x-oss-date").unwrap();
    assert_eq!(parts["Credential"], format!("{key}/{}/{region}/oss/aliyun_v4_request", &time[..8]));
    let additional: Vec<_> =
        parts["AdditionalHeaders"].split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let mut names: Vec<String> = additional.clone();
    let is_oss = |name: &String| name.starts_with("x-oss-");
    names.extend(seen.headers.keys().map(|name| name.as_str().to_owned()).filter(is_oss));
    names.sort();
    let headers: String =
        names.iter().map(|name| format!("{name}:{}\n", seen.header(name).unwrap())).collect();
    let canonical =
        format!("{}\n{resource}\n\n{headers}\n{}\nUNSIGNED-PAYLOAD", seen.method, additional.join(";"));
    OSS.signature(secret, region, time, &canonical) == parts["Signature"]
}

fn oss_v1_signature(secret: &str, text: &str) -> String {
    let mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap().chain_update(text);
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Whether `seen` is signed with OSS's V1; `resource` is `/bucket/object`, decoded.
pub fn oss_v1(seen: &Seen, resource: &str, (key, secret): (&str, &str)) -> bool {
    let token = match seen.header("x-oss-security-token") {
        Some(token) => format!("x-oss-security-token:{token}\n"),
        None => String::new(),
    };
    let text = format!("{}\n\n\n{}\n{token}{resource}", seen.method, seen.header("date").unwrap());
    seen.header("authorization").unwrap() == format!("OSS {key}:{}", oss_v1_signature(secret, &text))
}

#[test]
fn the_example_of_s3() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let canonical = format!(
        "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\nx-amz-content-sha256:{empty}\n\
         x-amz-date:20130524T000000Z\n\nhost;range;x-amz-content-sha256;x-amz-date\n{empty}"
    );
    assert_eq!(
        S3.signature("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", "20130524T000000Z", &canonical),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
}

#[test]
fn the_examples_of_oss() {
    let canonical = "PUT\n/bucket/1234%2B-/123/1.txt\n%2Bparam1=value3&%2Bparam2&%7Cparam1=value4&%7Cparam2&\
                     param1=value1&param2\ncontent-type:text/plain\nx-oss-content-sha256:UNSIGNED-PAYLOAD\n\
                     x-oss-date:20231216T162057Z\nx-oss-head1:value\n\n\nUNSIGNED-PAYLOAD";
    assert_eq!(
        OSS.signature("sk", "cn-hangzhou", "20231216T162057Z", canonical),
        "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"
    );
    let text = "PUT\nODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=\ntext/html\nThu, 17 Nov 2005 18:49:58 GMT\n\
                x-oss-magic:abracadabra\nx-oss-meta-author:foo@bar.com\n/oss-example/nelson";
    assert_eq!(
        oss_v1_signature("OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV", text),
        "26NBxoKdsyly4EDv6inkoDft/yA="
    );
}
