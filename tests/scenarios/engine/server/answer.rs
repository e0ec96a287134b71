//! What would be right to answer: blobs to those who prove who they are, tokens to those with a password, and a
//! signed address where a server leads elsewhere.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::plan::Plan;
use super::talk::Request;
use super::town::Server;
use crate::schema::{Kind, Proof};

/// The password that servers want: `u:hunter2-of-scenarios`.
pub const PASSWORD: &str = "hunter2-of-scenarios";
/// User and password as a configuration has them.
pub const AUTH: &str = "dTpodW50ZXIyLW9mLXNjZW5hcmlvcw==";

/// The answer to a request: the right one, or one that the rules made wrong.
pub fn answer(server: &Arc<Server>, request: &Request) -> Plan {
    let kind = request.kind();
    let right = match kind {
        Kind::Tokens => token(server, request),
        Kind::Ping => Plan::new(200, "{}"),
        Kind::Blobs | Kind::Any => blob(server, request),
    };
    let Some(rule) = server.rule(kind) else { return right };
    let number = next(server);
    right.distorted(&rule.then, content(server, request), &request.path, number)
}

fn next(server: &Server) -> u64 {
    let mut state = server.state();
    state.serial += 1;
    state.serial
}

fn content<'a>(server: &'a Server, request: &Request) -> Option<&'a [u8]> {
    let id = request.path.rsplit(['/', ':']).next()?;
    server.blobs.get(id).map(Vec::as_slice)
}

fn blob(server: &Arc<Server>, request: &Request) -> Plan {
    if let Some(refusal) = refused(server, request) {
        return refusal;
    }
    let Some(content) = content(server, request) else {
        return Plan::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#);
    };
    match server.spec.leads_to.as_deref().and_then(|name| server.neighbour(name)) {
        None => Plan::range(content, request.range()),
        Some(store) => {
            let id = request.path.rsplit(['/', ':']).next().unwrap_or_default();
            let life = store.state().life;
            let (serial, until) = (next(store), store.now_ms() + millis(life));
            let signature = format!("signed-{}-{serial}-{until}", store.name);
            store.ledger.lock().secrets.push(signature.clone());
            let address = format!("{}/store/{id}?signature={signature}&expires={until}", store.url());
            Plan::new(307, "").with("location", address)
        }
    }
}

/// The refusal of a request that does not prove what it must.
fn refused(server: &Server, request: &Request) -> Option<Plan> {
    let proof = request.header("authorization");
    match server.spec.wants {
        Proof::Nothing => None,
        Proof::Basic if proof.is_some_and(|proof| proof == format!("Basic {AUTH}")) => None,
        Proof::Basic => {
            let refusal = Plan::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
            Some(refusal.with("www-authenticate", "Basic realm=\"scenario\""))
        }
        Proof::Token => {
            let realm = server.neighbour(server.spec.realm.as_deref()?)?;
            let token = proof.and_then(|proof| proof.strip_prefix("Bearer "));
            if token.is_some_and(|token| is_valid(realm, token)) {
                return None;
            }
            let challenge = format!(
                "Bearer realm=\"{}/token\",service=\"scenario\",scope=\"repository:library/test:pull\"",
                realm.url()
            );
            let refusal = Plan::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
            Some(refusal.with("www-authenticate", challenge))
        }
        Proof::Signature => {
            let until = request.parameter("expires").and_then(|until| until.parse().ok());
            let is_signed = request.parameter("signature").is_some_and(|text| text.starts_with("signed-"));
            let is_good = is_signed && until.is_some_and(|until: u64| until > server.now_ms());
            let refusal = || Plan::new(403, "<Error><Code>AccessDenied</Code></Error>");
            (!is_good).then(refusal)
        }
    }
}

fn token(server: &Server, request: &Request) -> Plan {
    if request.header("authorization").is_some_and(|proof| proof != format!("Basic {AUTH}")) {
        return Plan::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
    }
    let serial = next(server);
    let now = server.now_ms();
    let state = server.state();
    let token = format!("token-{}-{serial}-{}", state.generation, now + millis(state.life));
    let says = state.says.unwrap_or(state.life).as_secs_f64();
    drop(state);
    server.ledger.lock().secrets.push(token.clone());
    let issued = httpdate::fmt_http_date(server.now());
    Plan::new(200, json!({ "token": token, "expires_in": says, "issued_at": issued }).to_string())
}

/// Whether `realm` gave this token, and it still holds.
fn is_valid(realm: &Server, token: &str) -> bool {
    let mut parts = token.rsplit('-');
    let (until, _serial, generation) = (parts.next(), parts.next(), parts.next());
    let until = until.and_then(|until| until.parse().ok());
    let generation = generation.and_then(|generation| generation.parse().ok());
    let current = realm.state().generation;
    generation == Some(current) && until.is_some_and(|until: u64| until > realm.now_ms())
}

fn millis(span: Duration) -> u64 {
    span.as_millis() as u64
}
