//! `nginx`: a web server, with or without TLS, and a mirror before another server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::authority::{Authority, Issued};
use super::process::{Process, settled};
use crate::requirements;

/// The program.
pub const PROGRAM: &str = "nginx";

/// The server. It ends when dropped.
pub struct Nginx {
    // Before its files.
    process: Process,
    dir: TempDir,
}

/// TLS of a server.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Its certificate.
    pub issued: Issued,
    /// Who must have issued those of clients; `None`: clients need none.
    pub clients: Option<std::path::PathBuf>,
}

impl Tls {
    /// With a certificate of `authority`, for all clients.
    pub fn of(authority: &Authority) -> Self {
        Self { issued: authority.server(), clients: None }
    }
}

impl Nginx {
    /// Starts one with these directives in its `server` block.
    pub fn start(tls: Option<&Tls>, directives: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("nydus-test.").tempdir().unwrap();
        let process = Process::start(PROGRAM, dir.path(), |addr| {
            std::fs::write(dir.path().join("nginx.conf"), configuration(addr, tls, directives)).unwrap();
            command(dir.path())
        });
        Self { process, dir }
    }

    /// A web server of the files of `root` below `/nydus/`.
    pub fn of_files(tls: Option<&Tls>, root: &Path) -> Self {
        Self::start(tls, &format!("location /nydus/ {{ alias {}/; }}", root.display()))
    }

    /// A mirror: what it is asked for it asks of `origin`, and keeps it in pieces.
    pub fn mirror_of(origin: &str) -> Self {
        let directives = format!(
            "location / {{
                 slice 64k;
                 proxy_cache pieces;
                 proxy_cache_key $uri$slice_range;
                 proxy_cache_valid 200 206 1h;
                 proxy_set_header Range $slice_range;
                 proxy_set_header Host $proxy_host;
                 proxy_http_version 1.1;
                 proxy_pass {origin};
             }}"
        );
        Self::start(None, &directives)
    }

    /// Ends it, does `meanwhile`, and starts it again at the same address with what it had.
    pub fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let addr = self.process.addr();
        let Self { process, dir } = self;
        drop(process);
        meanwhile();
        let process = Process::start_at(PROGRAM, dir.path(), addr, &mut command(dir.path()));
        Self { process, dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.process.addr()
    }

    /// The requests whose path begins with `path`, as statuses.
    pub fn requests(&self, path: &str) -> Vec<u16> {
        let log = settled(|| std::fs::read_to_string(self.dir.path().join("access.log")).unwrap());
        let wanted = format!("GET {path}");
        let lines =
            log.lines().filter_map(|line| line.split_once(' ').filter(|(_, rest)| rest.starts_with(&wanted)));
        lines.map(|(status, _)| status.parse().expect("a line of its log begins with a status")).collect()
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(requirements::tool(PROGRAM).expect("required by the test"));
    command.arg("-p").arg(dir).args(["-e", "error.log", "-c", "nginx.conf"]);
    command
}

/// One process does all, so that nothing outlives it. Paths without a slash lie in its directory.
fn configuration(addr: SocketAddr, tls: Option<&Tls>, directives: &str) -> String {
    let tls_directives = tls.map(|tls| {
        let Issued { certificate, key } = &tls.issued;
        let files =
            format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display());
        let clients = tls.clients.as_ref();
        let clients =
            clients.map(|file| format!("ssl_verify_client on; ssl_client_certificate {};", file.display()));
        format!("{files} {}", clients.unwrap_or_default())
    });
    let options = if tls.is_some() { " ssl http2" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};\n"))
        .concat();
    format!(
        "daemon off;
         master_process off;
         pid pid;
         events {{}}
         http {{
             {temporary}
             log_format short '$status $request';
             access_log access.log short;
             proxy_cache_path pieces keys_zone=pieces:1m;
             server {{
                 listen {addr}{options};
                 {}
                 {directives}
             }}
         }}",
        tls_directives.unwrap_or_default(),
    )
}
