//! Web servers with TLS, at a unix socket, and without ranges.

use nydus_tests::config::Form;
use nydus_tests::fixtures::Image;
use nydus_tests::servers::authority::Authority;
use nydus_tests::servers::nginx::{Nginx, Tls};
use nydus_tests::{require_mounts, require_tools};
use serde_json::json;

use crate::mounting::check;

const FEW: [&str; 2] = ["v5-zstd-blake3", "v6-zstd"];

#[test]
fn over_tls() {
    require_mounts!();
    require_tools!("nginx");
    let authority = Authority::new();
    for image in FEW.map(Image::named) {
        let nginx = Nginx::of_files(Some(&Tls::of(&authority)), &image.blobs());
        let addr = format!("https://localhost:{}", nginx.addr().port());
        let keys = json!({ "addr": addr, "path": "nydus", "ca_cert_files": [authority.file()] });
        check(&image, Form::V2Toml, ("http-proxy", keys), "a web server with TLS");
        let statuses = nginx.requests("/nydus/");
        assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 206), "{statuses:?}");
    }
}

#[test]
fn at_a_unix_socket() {
    require_mounts!();
    require_tools!("nginx");
    let dir = tempfile::tempdir().unwrap();
    for image in FEW.map(Image::named) {
        let socket = dir.path().join(image.name);
        let directives =
            format!("listen unix:{}; location / {{ root {}; }}", socket.display(), image.blobs().display());
        let nginx = Nginx::start(None, &directives);
        let keys = json!({ "addr": socket });
        check(&image, Form::V2Json, ("http-proxy", keys), "a web server at a socket");
        assert!(!nginx.requests("/").is_empty());
    }
}

#[test]
fn without_ranges() {
    require_mounts!();
    require_tools!("nginx");
    for image in FEW.map(Image::named) {
        let directives = format!("max_ranges 0; location /nydus/ {{ alias {}/; }}", image.blobs().display());
        let nginx = Nginx::start(None, &directives);
        let keys = json!({ "addr": format!("http://{}", nginx.addr()), "path": "nydus" });
        check(&image, Form::V2Json, ("http-proxy", keys), "a web server without ranges");
        let statuses = nginx.requests("/nydus/");
        assert!(!statuses.is_empty() && statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
}
