//! Whom a client trusts, and what it shows of itself.
//!
//! Trusted are the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` are read too), and for one
//! registry those of its settings (`ca`) and of its directories `certs.d/<host:port>/*.crt`. A certificate in these
//! that signed itself, and is what the registry shows, is trusted too, though it calls itself an authority: most
//! self-signed registries are made like this.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::error::RegistryError;
use crate::settings::HostSettings;

/// A PEM file longer than this is none.
const LONGEST_FILE: u64 = 4 << 20;

/// The certificates that a registry's settings and directories name, as files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    authorities: Vec<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Files {
    /// Those of the registry `name` (as it stands in names of images).
    pub(crate) fn of(name: &str, settings: &HostSettings, directories: &[PathBuf]) -> Result<Self, RegistryError> {
        let mut files = Self { authorities: settings.ca.clone(), identity: None };
        for directory in directories {
            files.add_directory(name, &directory.join(name))?;
        }
        match (&settings.client_cert, &settings.client_key) {
            (Some(certificate), Some(key)) => files.identity = Some((certificate.clone(), key.clone())),
            (None, None) => {}
            _ => return Err(unusable(name, "client_cert and client_key belong together")),
        }
        Ok(files)
    }

    fn add_directory(&mut self, name: &str, directory: &Path) -> Result<(), RegistryError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
            Err(source) => return Err(unreadable(name, directory, source)),
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => self.authorities.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(unusable(name, &format!("{} has no {} beside it", path.display(), key.display())));
                    }
                    self.identity = Some((path, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The system's certificate authorities, read when they are first needed, once in a process.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // What the system has, but cannot be read, is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

/// The TLS of connections to a registry: `name` is for errors. `show_identity` is false for hosts that the registry
/// only sends us to: these are trusted by the same authorities, but see no certificate of ours.
pub(crate) fn configure(
    name: &str,
    files: &Files,
    insecure: bool,
    show_identity: bool,
) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(name, files, insecure, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(name, &e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match files.identity.as_ref().filter(|_| show_identity) {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(name, certificate)?;
            let private = PrivateKeyDer::from_pem_slice(&read(name, key)?)
                .map_err(|e| unusable(name, &format!("{} is no private key: {e}", key.display())))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|e| unusable(name, &format!("{} and {}: {e}", certificate.display(), key.display())))
        }
    }
}

fn verifier(
    name: &str,
    files: &Files,
    insecure: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, RegistryError> {
    if insecure {
        return Ok(Arc::new(Blind { provider: provider.clone(), trusts: true }));
    }
    let mut named = Vec::new();
    for path in &files.authorities {
        named.extend(certificates(name, path)?);
    }
    let mut roots = system_roots().clone();
    roots.add_parsable_certificates(named.iter().cloned());
    if roots.is_empty() {
        return Ok(Arc::new(Blind { provider: provider.clone(), trusts: false }));
    }
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| unusable(name, &e.to_string()))?;
    Ok(Arc::new(Trusted { chains, named }))
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(name, path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(name, &format!("{} has no certificate in it", path.display()))),
        Err(e) => Err(unusable(name, &format!("{} is not a PEM file: {e}", path.display()))),
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    let length = fs::metadata(path).map_err(|e| unreadable(name, path, e))?.len();
    if length > LONGEST_FILE {
        return Err(unusable(name, &format!("{} is too long for a PEM file", path.display())));
    }
    fs::read(path).map_err(|e| unreadable(name, path, e))
}

fn unusable(registry: &str, problem: &str) -> RegistryError {
    RegistryError::Settings { registry: registry.to_owned(), problem: problem.to_owned() }
}

fn unreadable(registry: &str, path: &Path, source: io::Error) -> RegistryError {
    RegistryError::SettingsFile { registry: registry.to_owned(), path: path.to_owned(), source }
}

/// Chains to the authorities, and certificates that are named themselves.
#[derive(Debug)]
struct Trusted {
    chains: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chains.verify_server_cert(shown, intermediates, server, ocsp, now);
        match verified {
            // The dates are checked before this is found.
            Err(error) if is_authority_itself(&error) && self.named.iter().any(|n| n == shown) => {
                verify_server_name(&ParsedCertificate::try_from(shown)?, server)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn is_authority_itself(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return false };
    matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Everyone or nobody, whatever is shown: registries that the settings call `insecure`, and systems without a
/// certificate authority, on which plain HTTP to loopback is to work all the same.
#[derive(Debug)]
struct Blind {
    provider: Arc<CryptoProvider>,
    trusts: bool,
}

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusts {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("the system has no certificate authority to trust".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, shown, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, shown, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
