//! Connections that do not come about: names, ports, certificates, proxies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use registry::Unreached;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

use super::server::{Act, Server, answer, ok, raw, to};
use super::*;

/// An authority that signs certificates, and its own certificate in a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    place: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Two authorities have two names.
        let name = format!("{:?}", key.public_key_raw());
        parameters.distinguished_name.push(rcgen::DnType::CommonName, Digest::of(name.as_bytes()).hex());
        let certificate = parameters.self_signed(&key).unwrap();
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(parameters, key), certificate, place }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.place.path().join("ca.pem")
    }

    fn sign(&self, names: &[&str], change: impl Fn(&mut CertificateParams)) -> (Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// TLS with a certificate for these names.
    pub(crate) fn serve(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (certificate, key) = self.sign(names, |_| {});
        configured(&certificate, &key, None)
    }
}

fn configured(certificate: &Certificate, key: &KeyPair, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

/// Trusts an authority for one registry.
pub(crate) fn https(setup: Setup, host: &str, authority: &Authority) -> Setup {
    let json = format!(r#"{{"{host}":{{"ca":["{}"]}}}}"#, authority.path().display());
    setup.settings(json)
}

fn tls_failure(setup: Setup, host: &str) -> String {
    match failed(pull(&setup.build(), host)) {
        RegistryError::Tls { detail, .. } => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_where_nobody_listens_is_tried_once_more() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = Instant::now();
    let error = failed(pull(&client(), &free.to_string()));
    assert!(matches!(error, RegistryError::Unreachable { why: Unreached::Refused, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(error.hint().unwrap().contains("port"));
}

#[test]
fn a_name_that_does_not_exist_is_said() {
    let error = failed(pull(&client(), "registry.invalid"));
    assert!(matches!(error, RegistryError::Unreachable { why: Unreached::Name, .. }), "{error:?}");
    assert!(error.to_string().contains("registry.invalid"));
}

#[test]
fn an_unknown_authority_is_not_trusted() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["127.0.0.1"]), |_| manifest());
    let other = Authority::new();
    let detail = tls_failure(https(Setup::new(), &server.host(), &other), &server.host());
    assert!(detail.contains("UnknownIssuer"), "{detail}");
    assert_eq!(server.requests().len(), 0);
    pull(&https(Setup::new(), &server.host(), &authority).build(), &server.host()).unwrap();
}

#[test]
fn a_certificate_of_yesterday_or_tomorrow_is_not_trusted() {
    let authority = Authority::new();
    for (from, until) in [(2001, 2002), (2100, 2101)] {
        let dated = |p: &mut CertificateParams| {
            (p.not_before, p.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        };
        let (certificate, key) = authority.sign(&["127.0.0.1"], dated);
        let server = Server::tls(configured(&certificate, &key, None), |_| manifest());
        let detail = tls_failure(https(Setup::new(), &server.host(), &authority), &server.host());
        assert!(detail.contains("certificate"), "{detail}");
    }
}

#[test]
fn another_hosts_certificate_is_not_trusted() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["registry.example", "127.0.0.2"]), |_| manifest());
    let detail = tls_failure(https(Setup::new(), &server.host(), &authority), &server.host());
    assert!(detail.contains("127.0.0.1"), "{detail}");
}

#[test]
fn a_certificate_that_signed_itself_is_trusted_where_it_is_named() {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let server = Server::tls(configured(&certificate, &key, None), |_| manifest());
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("self.pem");
    std::fs::write(&path, certificate.pem()).unwrap();
    let named = |host: &str| Setup::new().settings(format!(r#"{{"{host}":{{"ca":["{}"]}}}}"#, path.display()));
    pull(&named(&server.host()).build(), &server.host()).unwrap();
    tls_failure(named("other.example"), &server.host());
    // Its name still counts.
    tls_failure(named(&server.other_host()), &server.other_host());
}

#[test]
fn certificates_in_the_directories_of_docker_are_found() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign(&["127.0.0.1"], |_| {});
    let server = Server::tls(configured(&certificate, &key, Some(&clients)), |_| manifest());
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join(server.host());
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy(authority.path(), directory.join("ca.crt")).unwrap();
    let setup = || {
        let mut setup = Setup::new();
        setup.environment.certificate_directories = vec![place.path().join("none"), place.path().to_owned()];
        setup
    };
    let error = failed(pull(&setup().build(), &server.host()));
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    let (mine, my_key) = clients.sign(&["me"], |_| {});
    std::fs::write(directory.join("client.cert"), mine.pem()).unwrap();
    let error = failed(pull(&setup().build(), &server.host()));
    assert!(matches!(&error, RegistryError::Settings { problem, .. } if problem.contains("client.key")), "{error}");
    std::fs::write(directory.join("client.key"), my_key.serialize_pem()).unwrap();
    pull(&setup().build(), &server.host()).unwrap();
}

#[test]
fn certificates_that_are_none_are_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("ca.pem");
    std::fs::write(&path, "not PEM").unwrap();
    let server = Server::plain(|_| manifest());
    let json = format!(r#"{{"{}":{{"ca":["{}"]}}}}"#, server.host(), path.display());
    let error = failed(pull(&Setup::new().settings(json).build(), &server.host()));
    assert!(matches!(&error, RegistryError::Settings { problem, .. } if problem.contains("ca.pem")), "{error}");
    let json = format!(r#"{{"{}":{{"ca":["/nowhere/ca.pem"]}}}}"#, server.host());
    let error = failed(pull(&Setup::new().settings(json).build(), &server.host()));
    assert!(matches!(error, RegistryError::SettingsFile { .. }), "{error}");
    let json = format!(r#"{{"{}":{{"client_cert":"/x"}}}}"#, server.host());
    let error = failed(pull(&Setup::new().settings(json).build(), &server.host()));
    assert!(matches!(error, RegistryError::Settings { .. }), "{error}");
}

#[test]
fn an_untrusted_certificate_on_loopback_is_no_reason_for_plain_http() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["127.0.0.1"]), |_| manifest());
    tls_failure(Setup::new(), &server.host());
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn insecure_takes_any_certificate() {
    let server = Server::tls(Authority::new().serve(&["other.example"]), |_| manifest());
    let json = format!(r#"{{"{}":{{"insecure":true}}}}"#, server.host());
    pull(&Setup::new().settings(json).build(), &server.host()).unwrap();
}

#[test]
fn a_connection_that_hangs_is_a_timeout() {
    // It accepts, and says nothing to TLS or HTTP.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let quick = |d: &mut Deadlines| {
        (d.connect, d.answer, d.tries) = (Duration::from_millis(200), Duration::from_millis(100), 2);
    };
    let error = failed(pull(&Setup::new().deadlines(quick).build(), &host));
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
}

/// A proxy that leads all tunnels to one server, and says to other requests what a registry would.
fn proxy_to(server: &Server) -> Server {
    let address = server.address();
    Server::plain(move |request| match request.method.as_str() {
        "CONNECT" => vec![Act::Send(b"HTTP/1.1 200 Connected\r\n\r\n".to_vec()), Act::Tunnel(address)],
        _ => manifest(),
    })
}

#[test]
fn tls_goes_through_a_proxys_tunnel() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["registry.example"]), |_| manifest());
    let proxy = proxy_to(&server);
    let url = format!("http://me:pr0xy@{}", proxy.host());
    let setup = https(Setup::new(), "registry.example", &authority).proxies(&[("https_proxy", &url)]);
    pull(&setup.build(), "registry.example").unwrap();
    let connect = &proxy.requests()[0];
    assert_eq!((connect.method.as_str(), connect.target.as_str()), ("CONNECT", "registry.example:443"));
    assert_eq!(connect.header("proxy-authorization"), Some("Basic bWU6cHIweHk="));
    assert_eq!(server.requests()[0].header("proxy-authorization"), None);
}

#[test]
fn plain_http_goes_through_a_proxy_where_it_is_allowed() {
    let proxy = Server::plain(|request| match request.method.as_str() {
        "CONNECT" => answer(502, &[], ""),
        _ => manifest(),
    });
    let url = format!("http://{}", proxy.host());
    let setup = || Setup::new().proxies(&[("all_proxy", &url)]);
    pull(&setup().settings(r#"{"registry.example":{"insecure":true}}"#).build(), "registry.example").unwrap();
    let last = proxy.requests().pop().unwrap();
    assert_eq!(last.target, "http://registry.example/v2/team/app/manifests/1");
    // And nowhere else.
    let error = failed(pull(&setup().build(), "registry.example"));
    assert!(matches!(error, RegistryError::Unreachable { why: Unreached::Proxy, .. }), "{error:?}");
}

#[test]
fn a_proxy_that_refuses_is_the_proxys_fault() {
    for acts in
        [answer(407, &[("Proxy-Authenticate", "Basic")], ""), answer(403, &[], ""), raw("garbage\r\n\r\n"), vec![]]
    {
        let proxy = Server::plain(move |_| acts.clone());
        let url = format!("http://{}", proxy.host());
        let error = failed(pull(&Setup::new().proxies(&[("https_proxy", &url)]).build(), "registry.example"));
        assert!(matches!(error, RegistryError::Unreachable { why: Unreached::Proxy, .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("PROXY"));
    }
}

#[test]
fn loopback_and_no_proxy_are_asked_directly() {
    let proxy = Server::plain(|_| answer(500, &[], ""));
    let server = Server::plain(|_| manifest());
    let url = format!("http://{}", proxy.host());
    let setup = Setup::new().proxies(&[("all_proxy", &url), ("no_proxy", "invalid")]);
    let client = setup.build();
    pull(&client, &server.host()).unwrap();
    let error = failed(pull(&client, "registry.invalid"));
    assert!(matches!(error, RegistryError::Unreachable { why: Unreached::Name, .. }), "{error:?}");
    assert_eq!(proxy.requests().len(), 0);
}

#[test]
fn where_tls_is_wanted_something_else_is_said() {
    let server = Server::plain(|_| manifest());
    let proxy = proxy_to(&server);
    let url = format!("http://{}", proxy.host());
    let detail = tls_failure(Setup::new().proxies(&[("https_proxy", &url)]), "registry.example");
    assert!(detail.contains("does not speak TLS"), "{detail}");
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_registry_far_away_does_not_send_us_near() {
    let authority = Authority::new();
    let near = Server::plain(|_| ok("near"));
    let port = near.host().split(':').nth(1).unwrap().to_owned();
    let targets = [
        format!("https://127.0.0.1:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://a.localhost:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://0:{port}/"),
        "https://169.254.169.254/latest/meta-data/".into(),
        "https://[fe80::1]/".into(),
        "https://[fd00:ec2::254]/".into(),
        "https://10.0.0.1/".into(),
        "https://192.168.1.1/admin".into(),
    ];
    for target in targets {
        let location = target.clone();
        let server = Server::tls(authority.serve(&["registry.example"]), move |_| to(&location));
        let proxy = proxy_to(&server);
        let url = format!("http://{}", proxy.host());
        let setup = https(Setup::new(), "registry.example", &authority).proxies(&[("https_proxy", &url)]);
        let error = failed(pull(&setup.build(), "registry.example"));
        assert!(matches!(error, RegistryError::Redirect { .. }), "{target}: {error:?}");
        assert_eq!(proxy.requests().len(), 1, "{target}");
    }
    assert_eq!(near.requests().len(), 0);
}

#[test]
fn a_name_that_leads_near_is_found_out() {
    // `localhost.localdomain` is no name of loopback by itself, but an address of it where it is one at all; so is the
    // name of this machine on many. What is behind the name decides.
    let authority = Authority::new();
    let near = Server::plain(|_| ok("near"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let location = format!("https://{name}:{}/", near.address().port());
    let server = Server::tls(authority.serve(&["registry.example"]), move |_| to(&location));
    let proxy = proxy_to(&server);
    let url = format!("http://{}", proxy.host());
    let setup =
        https(Setup::new(), "registry.example", &authority).proxies(&[("https_proxy", &url), ("no_proxy", &name)]);
    let error = failed(pull(&setup.build(), "registry.example"));
    let refused = matches!(error, RegistryError::Redirect { .. });
    assert!(refused || matches!(error, RegistryError::Unreachable { why: Unreached::Name, .. }), "{error:?}");
    assert_eq!(near.requests().len(), 0);
}

#[test]
fn a_host_that_the_user_named_may_be_near() {
    let authority = Authority::new();
    let near = Server::tls(authority.serve(&["127.0.0.1"]), |_| manifest());
    let location = format!("https://{}/", near.host());
    let server = Server::tls(authority.serve(&["registry.example"]), move |_| to(&location));
    let proxy = proxy_to(&server);
    let url = format!("http://{}", proxy.host());
    let ca = authority.path().display().to_string();
    let json = format!(r#"{{"registry.example":{{"ca":["{ca}"]}},"{}":{{"ca":["{ca}"]}}}}"#, near.host());
    let setup = Setup::new().settings(json).proxies(&[("https_proxy", &url)]);
    pull(&setup.build(), "registry.example").unwrap();
}

#[test]
fn docker_hub_is_asked_where_it_answers_with_what_is_kept_under_its_old_name() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["registry-1.docker.io"]), |r| match r.authorization() {
        Some("Basic bWU6czNjcmV0") => manifest(),
        _ => answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""),
    });
    let proxy = proxy_to(&server);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6czNjcmV0"}}}"#;
    std::fs::write(&path, json).unwrap();
    let url = format!("http://{}", proxy.host());
    let setup = https(Setup::new(), "docker.io", &authority).proxies(&[("https_proxy", &url)]);
    let client = setup.credentials(Credentials::in_file(path)).build();
    client.manifest(&Reference::parse("busybox").unwrap()).unwrap();
    assert_eq!(proxy.requests()[0].target, "registry-1.docker.io:443");
    assert_eq!(server.requests().pop().unwrap().target, "/v2/library/busybox/manifests/latest");
}

#[test]
fn the_clients_certificate_is_shown_to_the_registry_alone() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign(&["127.0.0.1", "localhost"], |_| {});
    let curious = configured(&certificate, &key, Some(&clients));
    let elsewhere = Server::tls(curious.clone(), |_| manifest());
    let location = format!("https://{}/", elsewhere.other_host());
    let server = Server::tls(curious, move |_| to(&location));
    let place = tempfile::tempdir().unwrap();
    let (mine, my_key) = clients.sign(&["me"], |_| {});
    let path = |name: &str| place.path().join(name).display().to_string();
    std::fs::write(path("me.cert"), mine.pem()).unwrap();
    std::fs::write(path("me.key"), my_key.serialize_pem()).unwrap();
    let json = format!(
        r#"{{"{}":{{"ca":["{}"],"client_cert":"{}","client_key":"{}"}}}}"#,
        server.host(),
        authority.path().display(),
        path("me.cert"),
        path("me.key")
    );
    let error = failed(pull(&Setup::new().settings(json).build(), &server.host()));
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    // Loopback is asked first whether it speaks TLS.
    assert_eq!((server.count("/manifests/1"), elsewhere.requests().len()), (1, 0));
}

#[test]
fn a_blob_over_tls_that_is_cut_without_a_word_is_continued() {
    let authority = Authority::new();
    let server = Server::tls(authority.serve(&["127.0.0.1"]), |r| {
        let bytes = content().0;
        match r.header("range") {
            None => vec![Act::Send(
                [server::head(200, &[], "Content-Length: 100000\r\n"), bytes[..30_000].to_vec()].concat(),
            )],
            Some(_) => answer(206, &[("Content-Range", "bytes 30000-99999/100000")], &bytes[30_000..]),
        }
    });
    let client = https(Setup::new(), &server.host(), &authority).build();
    assert!(fetch(&client, &server.host()).unwrap() == content().0);
}
