//! Where registries lead, and what is carried along.

use std::sync::{Arc, OnceLock};

use super::connections::{Authority, https};
use super::server::{Act, Server, answer, ok, to};
use super::*;

/// A registry that wants Basic and then answers what `script` says, which knows its host.
fn behind_basic(
    script: impl Fn(&server::Request, &str) -> Vec<Act> + Send + Sync + 'static,
) -> (Server, Client, tempfile::TempDir) {
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let server = Server::plain(move |request| match request.authorization() {
        None if request.path().starts_with("/v2/") => answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""),
        _ => script(request, host.get().unwrap()),
    });
    own.set(server.host()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    credentials.store(&server.host(), "me", "s3cret").unwrap();
    credentials.store(&server.other_host(), "me", "s3cret").unwrap();
    let client = Setup::new().credentials(credentials).build();
    (server, client, place)
}

#[test]
fn another_host_or_port_gets_no_credentials() {
    let other = Server::plain(|_| manifest());
    for host in [other.host(), other.other_host()] {
        let location = format!("http://{host}/blob");
        let (_server, client, _place) = behind_basic(move |_, _| to(&location));
        pull(&client, &_server.host()).unwrap();
    }
    let requests = other.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|r| r.authorization().is_none() && r.header("cookie").is_none()), "{requests:?}");
}

#[test]
fn the_way_back_home_is_without_credentials_too() {
    let own: Arc<OnceLock<String>> = Arc::default();
    let back = own.clone();
    let other = Server::plain(move |_| to(&format!("http://{}/home", back.get().unwrap())));
    let location = format!("http://{}/", other.host());
    let (server, client, _place) =
        behind_basic(move |r, _| if r.path() == "/home" { manifest() } else { to(&location) });
    own.set(server.host()).unwrap();
    pull(&client, &server.host()).unwrap();
    let home = server.requests().into_iter().find(|r| r.path() == "/home").unwrap();
    assert_eq!(home.authorization(), None);
}

#[test]
fn a_challenge_of_another_host_is_not_met() {
    let thief = Server::plain(|_| answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], ""));
    let elsewhere = format!("http://{}/", thief.other_host());
    let (server, client, _place) = behind_basic(move |_, _| to(&elsewhere));
    let error = failed(pull(&client, &server.host()));
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert!(thief.requests().iter().all(|r| r.authorization().is_none()));
}

#[test]
fn another_host_does_not_choose_the_token_server() {
    let realm = Server::plain(|_| ok(r#"{"token":"t"}"#));
    let challenge = format!(r#"Bearer realm="http://{}/token""#, realm.host());
    let middle = Server::plain(move |_| answer(401, &[("WWW-Authenticate", &challenge)], ""));
    let elsewhere = format!("http://{}/", middle.host());
    let (server, client, _place) = behind_basic(move |_, _| to(&elsewhere));
    let error = failed(pull(&client, &server.host()));
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert_eq!(realm.requests().len(), 0);
}

#[test]
fn at_home_credentials_go_along() {
    let (server, client, _place) =
        behind_basic(|r, _| if r.path().ends_with("/moved") { manifest() } else { to("../moved?x=1") });
    pull(&client, &server.host()).unwrap();
    let moved = server.requests().pop().unwrap();
    assert_eq!((moved.target.as_str(), moved.authorization().is_some()), ("/v2/team/app/moved?x=1", true));
}

#[test]
fn users_in_locations_are_nobodys() {
    let other = Server::plain(|_| manifest());
    let location = format!("http://evil:pw@{}/", other.host());
    let server = Server::plain(move |_| to(&location));
    pull(&client(), &server.host()).unwrap();
    assert_eq!(other.requests()[0].authorization(), None);
}

#[test]
fn loops_are_noticed() {
    let server = Server::plain(|r| if r.path() == "/a" { to("/b") } else { to("/a") });
    let error = failed(pull(&client(), &server.host()));
    assert!(matches!(&error, RegistryError::Redirect { problem, .. } if problem.contains("loop")), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn ten_redirects_are_followed_and_no_more() {
    let hops = |most: usize| {
        Server::plain(move |r| match r.path().trim_start_matches('/').parse::<usize>() {
            Ok(hop) if hop == most => manifest(),
            Ok(hop) => to(&format!("/{}", hop + 1)),
            Err(_) => to("/1"),
        })
    };
    let ten = hops(10);
    pull(&client(), &ten.host()).unwrap();
    let twenty = hops(20);
    let error = failed(pull(&client(), &twenty.host()));
    assert!(matches!(&error, RegistryError::Redirect { problem, .. } if problem.contains("more than 10")), "{error}");
    assert_eq!(twenty.requests().len(), 11);
}

#[test]
fn other_schemes_and_metadata_services_are_not_asked() {
    let targets = [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "data:application/json,{}",
        "javascript:0",
        "http://",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://[::ffff:169.254.169.254]/",
        "http://0xa9fea9fe/",
        "//169.254.169.254/",
        "http://127.0.0.1:99999/",
    ];
    for target in targets {
        let server = Server::plain(move |_| to(target));
        let error = failed(pull(&client(), &server.host()));
        assert!(matches!(error, RegistryError::Redirect { .. }), "{target}: {error:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn https_does_not_become_http() {
    let authority = Authority::new();
    let plain = Server::plain(|_| manifest());
    let location = format!("http://{}/", plain.host());
    let server = Server::tls(authority.serve(&["127.0.0.1"]), move |_| to(&location));
    let error = failed(pull(&https(Setup::new(), &server.host(), &authority).build(), &server.host()));
    assert!(matches!(&error, RegistryError::Redirect { problem, .. } if problem.contains("https to http")), "{error}");
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn http_may_become_https() {
    let authority = Authority::new();
    let secure = Server::tls(authority.serve(&["127.0.0.1"]), |_| manifest());
    let location = format!("https://{}/", secure.host());
    let server = Server::plain(move |_| to(&location));
    pull(&https(Setup::new(), &server.host(), &authority).build(), &server.host()).unwrap();
}

#[test]
fn secrets_in_the_query_are_not_shown() {
    let other = Server::plain(|_| answer(403, &[], ""));
    let location = format!("http://{}/blob?X-Amz-Signature=s3cret", other.host());
    let server = Server::plain(move |_| to(&location));
    let error = failed(pull(&client(), &server.host()));
    assert!(
        matches!(error, RegistryError::Denied { .. }) && !format!("{error} {error:?}").contains("s3cret"),
        "{error:?}"
    );
}

#[test]
fn every_resumption_begins_at_the_registry() {
    let (bytes, digest) = content();
    let whole = bytes.clone();
    let storage = Server::plain(move |request| match request.header("range") {
        None => vec![Act::Send(
            [server::head(200, &[], &format!("Content-Length: {}\r\n", whole.len())), whole[..5000].to_vec()].concat(),
        )],
        Some(_) if request.target.ends_with("?signature=1") => answer(403, &[], "expired"),
        Some(_) => answer(
            206,
            &[("Content-Range", &format!("bytes 5000-{}/{}", whole.len() - 1, whole.len()))],
            &whole[5000..],
        ),
    });
    let count = std::sync::atomic::AtomicUsize::new(1);
    let base = format!("http://{}/blob?signature=", storage.host());
    let server =
        Server::plain(move |_| to(&format!("{base}{}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst))));
    let got = bytes_of(client().blob(&image(&server.host()), &digest, bytes.len() as u64, 0)).unwrap();
    assert!(got == bytes);
    assert_eq!(server.requests().len(), 2);
}
