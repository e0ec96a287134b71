//! A token server as registries have them: gives tokens for a password, or to everybody, by GET and by POST.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, RsaKeySize, SigningKey as _};
use serde_json::{Value, json};

use super::authority::Authority;
use super::service::Service;

const ISSUER: &str = "token server of tests";
const SERVICE: &str = "registry of tests";

/// The server. It ends when dropped.
pub struct TokenServer {
    service: Service,
    shared: Arc<Shared>,
}

struct Shared {
    key: KeyPair,
    certificate: rcgen::Certificate,
    /// User and password.
    known: (String, String),
    /// Everybody may pull.
    may_all: bool,
    life: u64,
    issued: Mutex<Vec<String>>,
    refused: Mutex<usize>,
}

impl TokenServer {
    /// Starts one whose tokens live for `life` seconds.
    pub fn start(known: (&str, &str), may_all: bool, life: u64, authority: Option<&Authority>) -> Self {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let shared = Arc::new(Shared {
            key,
            certificate,
            known: (known.0.to_owned(), known.1.to_owned()),
            may_all,
            life,
            issued: Mutex::default(),
            refused: Mutex::default(),
        });
        let router = Router::new().route("/token", axum::routing::any(answer)).with_state(shared.clone());
        Self { service: Service::start(router, authority), shared }
    }

    /// Where tokens are to be had.
    pub fn realm(&self) -> String {
        format!("{}/token", self.service.url())
    }

    /// Whom they are for.
    pub fn service(&self) -> &'static str {
        SERVICE
    }

    /// Who issues them.
    pub fn issuer(&self) -> &'static str {
        ISSUER
    }

    /// What their signatures are checked with, in PEM.
    pub fn certificate(&self) -> String {
        self.shared.certificate.pem()
    }

    /// A token, not counted.
    pub fn issue(&self, scope: &str, is_known: bool) -> String {
        self.shared.token(scope, is_known)
    }

    /// The tokens that were given so far, in their order.
    pub fn issued(&self) -> Vec<String> {
        self.shared.issued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often nothing was given.
    pub fn refused(&self) -> usize {
        *self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn token(&self, scope: &str, is_known: bool) -> String {
        let access: Vec<Value> = scope.split(' ').filter_map(|part| allow(part, is_known)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let head = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(self.certificate.der())] });
        let seconds = now.as_secs();
        let claims = json!({
            "iss": ISSUER,
            "sub": if is_known { &self.known.0 } else { "" },
            "aud": SERVICE,
            "iat": seconds,
            "nbf": seconds - 10,
            "exp": seconds + self.life,
            "jti": now.as_nanos().to_string(),
            "access": access,
        });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(head), encode(claims));
        let signature = self.key.sign(text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What of `TYPE:NAME:ACTIONS` is allowed.
fn allow(scope: &str, is_known: bool) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').filter(|action| is_known || *action == "pull").collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let form = String::from_utf8_lossy(&body).into_owned();
    // A form says what the query says.
    let query = if method == Method::POST { form } else { uri.query().unwrap_or_default().to_owned() };
    let value = |name: &str| {
        let url = reqwest::Url::parse(&format!("http://x/?{query}")).ok()?;
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let (user, password) = &shared.known;
    let wanted = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let proof = headers.get(header::AUTHORIZATION);
    let in_form = value("username").as_ref() == Some(user) && value("password").as_ref() == Some(password);
    // As OAuth2 has it, POST wants user and password in its form; a header is for GET.
    let is_known = in_form || method == Method::GET && proof.is_some_and(|proof| *proof == wanted);
    let claims_to_be = proof.is_some() || value("username").is_some();
    if !is_known && (claims_to_be || !shared.may_all) {
        *shared.refused.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let body = json!({ "errors": [{ "code": "UNAUTHORIZED" }] }).to_string();
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"tokens\"")], body)
            .into_response();
    }
    let token = shared.token(&value("scope").unwrap_or_default(), is_known);
    shared.issued.lock().unwrap_or_else(PoisonError::into_inner).push(token.clone());
    axum::Json(json!({ "token": token, "access_token": token, "expires_in": shared.life })).into_response()
}
