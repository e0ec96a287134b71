//! Certificates, good and bad ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::schema::Validity;

/// The authority that the daemon may believe, and another one.
pub struct Authorities {
    known: CertifiedIssuer<'static, KeyPair>,
    unknown: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authorities {
    /// Makes both; the certificate of the known one is written to `dir`.
    pub fn new(dir: &Path) -> Self {
        let make = || {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (known, unknown, file) = (make(), make(), dir.join("ca.pem"));
        std::fs::write(&file, known.pem()).unwrap();
        Self { known, unknown, file }
    }

    /// The file with the certificate of the known one.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What a server at these names shows.
    pub fn acceptor(&self, names: &[String], validity: Validity) -> TlsAcceptor {
        let names = match validity {
            Validity::OtherName => vec!["elsewhere.test".to_owned()],
            _ => names.to_vec(),
        };
        let mut params = CertificateParams::new(names).unwrap();
        match validity {
            Validity::Expired => {
                (params.not_before, params.not_after) =
                    (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
            }
            Validity::NotYet => params.not_before = date_time_ymd(4000, 1, 1),
            Validity::Valid | Validity::OtherName | Validity::UnknownAuthority => {}
        }
        let issuer = if validity == Validity::UnknownAuthority { &self.unknown } else { &self.known };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
