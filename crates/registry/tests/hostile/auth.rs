//! What registries ask for, and who is given it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::connections::{Authority, https};
use super::server::{Act, Request, Server, answer, ok, raw, to};
use super::*;

const BASIC: &str = "Basic bWU6czNjcmV0";

/// A place with the credentials `me` and `s3cret` for these registries.
fn known_to(hosts: &[&str]) -> (tempfile::TempDir, Credentials) {
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    for host in hosts {
        credentials.store(host, "me", "s3cret").unwrap();
    }
    (place, credentials)
}

fn unauthorized(challenge: &str) -> Vec<Act> {
    answer(401, &[("WWW-Authenticate", challenge)], r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
}

/// What is answered to the n-th request for a token.
type TokenServer = fn(&Request, usize) -> Vec<Act>;

/// A registry that wants tokens of itself, at `/token`, and takes those that `takes` takes.
fn with_tokens(takes: fn(&str, usize) -> bool, token: TokenServer) -> Server {
    let (asked, given) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let server = Server::plain(move |request| {
        if request.path() == "/token" {
            return token(request, given.fetch_add(1, Ordering::SeqCst));
        }
        match request.authorization() {
            Some(header) if takes(header, asked.fetch_add(1, Ordering::SeqCst)) => manifest(),
            _ => unauthorized(&format!(
                r#"Bearer realm="http://{}/token",service="the service",scope="repository:team/app:pull""#,
                host.get().unwrap()
            )),
        }
    });
    own.set(server.host()).unwrap();
    server
}

fn numbered(_: &Request, number: usize) -> Vec<Act> {
    ok(format!(r#"{{"token":"t{number}","expires_in":300}}"#))
}

#[test]
fn basic_without_credentials_is_unauthorized() {
    let server = Server::plain(|_| unauthorized("Basic realm=\"x\""));
    let error = failed(pull(&client(), &server.host()));
    assert!(matches!(error, RegistryError::Unauthorized { sent: false, .. }), "{error}");
    assert_eq!(server.requests().len(), 1);
    assert!(error.hint().unwrap().contains("log in"));
}

#[test]
fn basic_is_sent_when_asked_for_and_from_then_on() {
    let server =
        Server::plain(
            |r| if r.authorization() == Some(BASIC) { manifest() } else { unauthorized("Basic realm=\"x\"") },
        );
    let (_place, credentials) = known_to(&[&server.host(), "other.example"]);
    let client = Setup::new().credentials(credentials).build();
    pull(&client, &server.host()).unwrap();
    pull(&client, &server.host()).unwrap();
    let sent: Vec<Option<String>> = server.requests().iter().map(|r| r.authorization().map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some(BASIC.into()), Some(BASIC.into())]);
}

#[test]
fn basic_that_is_not_accepted_is_not_sent_twice() {
    let server = Server::plain(|_| unauthorized("Basic realm=\"x\""));
    let (_place, credentials) = known_to(&[&server.host()]);
    let error = failed(pull(&Setup::new().credentials(credentials).build(), &server.host()));
    assert!(matches!(error, RegistryError::Unauthorized { sent: true, .. }), "{error}");
    assert_eq!(server.requests().len(), 2);
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}

#[test]
fn a_token_is_asked_for_once_and_used_again() {
    let server = with_tokens(|header, _| header == "Bearer t0", numbered);
    let client = client();
    for _ in 0..3 {
        pull(&client, &server.host()).unwrap();
    }
    let requests = server.requests();
    let token = requests.iter().find(|r| r.path() == "/token").unwrap();
    assert_eq!(token.target, "/token?service=the+service&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!((token.authorization(), server.count("/token"), requests.len()), (None, 1, 5));
}

#[test]
fn many_at_once_need_one_token() {
    let server = with_tokens(|header, _| header == "Bearer t0", numbered);
    let client = client();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| pull(&client, &server.host()).unwrap());
        }
    });
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn the_password_goes_to_the_token_server_alone() {
    let server = with_tokens(|header, _| header == "Bearer t0", numbered);
    let (_place, credentials) = known_to(&[&server.host()]);
    pull(&Setup::new().credentials(credentials).build(), &server.host()).unwrap();
    for request in server.requests() {
        let expected = match request.path() {
            "/token" => Some(BASIC),
            _ => request.authorization().filter(|a| *a == "Bearer t0"),
        };
        assert_eq!(request.authorization(), expected);
    }
    let token = server.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    assert!(token.target.contains("account=me"), "{}", token.target);
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_pull_is_renewed_once() {
    let server =
        with_tokens(|header, asked| if asked < 2 { header == "Bearer t0" } else { header == "Bearer t1" }, numbered);
    let client = client();
    for _ in 0..4 {
        pull(&client, &server.host()).unwrap();
    }
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_token_that_says_when_it_ends_is_renewed_before() {
    let server = with_tokens(
        |header, asked| header == format!("Bearer t{asked}"),
        |_, n| ok(format!(r#"{{"token":"t{n}","expires_in":1}}"#)),
    );
    let client = client();
    pull(&client, &server.host()).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    pull(&client, &server.host()).unwrap();
    let refused = server.requests().iter().filter(|r| r.path() != "/token" && r.authorization().is_none()).count();
    assert_eq!((server.count("/token"), refused), (2, 1));
}

#[test]
fn tokens_that_are_never_accepted_are_given_up() {
    let server = with_tokens(|_, _| false, numbered);
    let client = client();
    let error = failed(pull(&client, &server.host()));
    assert!(matches!(error, RegistryError::Unauthorized { sent: false, .. }), "{error}");
    assert_eq!(server.requests().len(), 3);
    assert!(!format!("{client:?}").contains("t0"), "{client:?}");
}

#[test]
fn a_refresh_token_goes_into_a_form() {
    let server = with_tokens(|header, _| header == "Bearer a0", |_, n| ok(format!(r#"{{"access_token":"a{n}"}}"#)));
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"{}":{{"identitytoken":"r3fresh"}}}}}}"#, server.host())).unwrap();
    pull(&Setup::new().credentials(Credentials::in_file(path)).build(), &server.host()).unwrap();
    let token = server.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    let form = String::from_utf8(token.body.clone()).unwrap();
    assert_eq!((token.method.as_str(), token.target.as_str(), token.authorization()), ("POST", "/token", None));
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(form.contains("grant_type=refresh_token") && form.contains("refresh_token=r3fresh"), "{form}");
}

#[test]
fn a_refresh_token_follows_no_redirect() {
    let thief = Server::plain(|_| ok(r#"{"token":"t0"}"#));
    let target = format!("http://{}/token", thief.host());
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let server = Server::plain(move |request| match request.path() {
        "/token" => to(&target),
        _ => unauthorized(&format!(r#"Bearer realm="http://{}/token""#, host.get().unwrap())),
    });
    own.set(server.host()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"{}":{{"identitytoken":"r3fresh"}}}}}}"#, server.host())).unwrap();
    let error = failed(pull(&Setup::new().credentials(Credentials::in_file(path)).build(), &server.host()));
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert_eq!(thief.requests().len(), 0);
}

#[test]
fn a_token_server_that_redirects_elsewhere_keeps_the_password_home() {
    let other = Server::plain(|_| ok(r#"{"token":"t0"}"#));
    let target = format!("http://{}/token", other.other_host());
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let server = Server::plain(move |request| match (request.path(), request.authorization()) {
        ("/token", _) => to(&target),
        (_, Some("Bearer t0")) => manifest(),
        _ => unauthorized(&format!(r#"Bearer realm="http://{}/token""#, host.get().unwrap())),
    });
    own.set(server.host()).unwrap();
    let (_place, credentials) = known_to(&[&server.host()]);
    pull(&Setup::new().credentials(credentials).build(), &server.host()).unwrap();
    assert_eq!(other.requests()[0].authorization(), None);
}

#[test]
fn realms_that_are_not_to_be_trusted_are_not_asked() {
    let thief = Server::plain(|_| ok(r#"{"token":"t0"}"#));
    let realms = [
        "http://auth.example/token".to_owned(),
        "ftp://127.0.0.1/token".into(),
        "file:///etc/passwd".into(),
        "not a url".into(),
        "/token".into(),
        String::new(),
        format!("http://u:p@{}/", thief.host()),
    ];
    for realm in realms {
        let challenge = format!(r#"Bearer realm="{realm}""#);
        let server = Server::plain(move |_| unauthorized(&challenge));
        let (_place, credentials) = known_to(&[&server.host()]);
        let error = failed(pull(&Setup::new().credentials(credentials).build(), &server.host()));
        assert!(matches!(error, RegistryError::Realm { .. }), "{realm}: {error}");
        assert_eq!(server.requests().len(), 1);
    }
    assert_eq!(thief.requests().len(), 0);
}

#[test]
fn a_registry_with_tls_has_a_token_server_with_tls() {
    let authority = Authority::new();
    let thief = Server::plain(|_| ok(r#"{"token":"t0"}"#));
    let challenge = format!(r#"Bearer realm="http://{}/token""#, thief.host());
    let server = Server::tls(authority.serve(&["127.0.0.1"]), move |_| unauthorized(&challenge));
    let (_place, credentials) = known_to(&[&server.host()]);
    let setup = https(Setup::new().credentials(credentials), &server.host(), &authority);
    let error = failed(pull(&setup.build(), &server.host()));
    assert!(matches!(error, RegistryError::Realm { problem: "credentials would go over plain HTTP", .. }), "{error}");
    assert_eq!(thief.requests().len(), 0);
}

#[test]
fn token_servers_that_fail_are_named() {
    let cases: [(TokenServer, &str); 7] = [
        (|_, _| answer(401, &[], r#"{"details":"bad password"}"#), "Unauthorized"),
        (|_, _| answer(403, &[], ""), "Denied"),
        (|_, _| answer(404, &[], ""), "NotFound"),
        (|_, _| answer(503, &[], ""), "Unavailable"),
        (|_, _| ok("not json"), "Protocol"),
        (|_, _| ok(r#"{"token":"a\u000d\u000aX-Injected: y"}"#), "Protocol"),
        (|_, _| ok(vec![b' '; 2 << 20]), "TooLarge"),
    ];
    for (token, expected) in cases {
        let server = with_tokens(|_, _| false, token);
        let (_place, credentials) = known_to(&[&server.host()]);
        let error = failed(pull(&Setup::new().credentials(credentials).build(), &server.host()));
        assert!(format!("{error:?}").starts_with(expected), "{expected}: {error:?}");
        assert!(error.to_string().contains("/token"), "{error}");
    }
}

#[test]
fn a_token_server_that_fails_once_is_asked_again() {
    let server = with_tokens(
        |header, _| header == "Bearer t1",
        |r, n| if n == 0 { answer(502, &[], "") } else { numbered(r, n) },
    );
    pull(&client(), &server.host()).unwrap();
}

#[test]
fn challenges_nobody_can_meet_are_said() {
    let server = Server::plain(|_| unauthorized("Negotiate"));
    let error = failed(pull(&client(), &server.host()));
    assert!(matches!(&error, RegistryError::Protocol { problem, .. } if problem.contains("negotiate")), "{error}");
    let silent = Server::plain(|_| answer(401, &[], ""));
    let error = failed(pull(&client(), &silent.host()));
    assert!(matches!(error, RegistryError::Unauthorized { sent: false, .. }), "{error}");
}

#[test]
fn bearer_is_preferred_and_challenges_may_share_a_header() {
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let server = Server::plain(move |request| match (request.path(), request.authorization()) {
        ("/token", _) => ok(r#"{"token":"t0"}"#),
        (_, Some("Bearer t0")) => manifest(),
        _ => unauthorized(&format!(r#"Basic realm="x", Bearer realm="http://{}/token""#, host.get().unwrap())),
    });
    own.set(server.host()).unwrap();
    pull(&client(), &server.host()).unwrap();
}

#[test]
fn login_tries_what_it_is_given_and_nothing_else() {
    let server =
        Server::plain(|r| if r.authorization() == Some(BASIC) { ok("{}") } else { unauthorized("Basic realm=\"x\"") });
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    credentials.store(&server.host(), "other", "kept").unwrap();
    let client = Setup::new().credentials(credentials).build();
    client.login(&server.host(), "me", "s3cret").unwrap();
    let error = failed(client.login(&server.host(), "me", "wr0ng"));
    assert!(matches!(error, RegistryError::Unauthorized { sent: true, .. }), "{error}");
    let missing = Server::plain(|_| answer(404, &[], ""));
    assert!(matches!(failed(client.login(&missing.host(), "me", "s3cret")), RegistryError::NotFound { .. }));
}

#[test]
fn login_with_tokens_asks_for_one() {
    let server = with_tokens(
        |header, _| header == "Bearer t0",
        |request, n| {
            if request.authorization() == Some(BASIC) { numbered(request, n) } else { answer(401, &[], "") }
        },
    );
    client().login(&server.host(), "me", "s3cret").unwrap();
    let error = failed(client().login(&server.host(), "me", "wr0ng"));
    assert!(matches!(error, RegistryError::Unauthorized { sent: true, .. }), "{error}");
}

#[test]
fn a_malformed_file_of_credentials_is_an_error_when_they_are_needed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    std::fs::write(&path, "{").unwrap();
    let open = Server::plain(|_| manifest());
    let client = Setup::new().credentials(Credentials::in_file(&path)).build();
    pull(&client, &open.host()).unwrap();
    let closed = Server::plain(|_| unauthorized("Basic realm=\"x\""));
    let error = failed(pull(&client, &closed.host()));
    assert!(matches!(error, RegistryError::Credentials(_)) && error.to_string().contains("config.json"), "{error}");
}

#[test]
fn a_flood_of_challenges_is_survived() {
    let server = Server::plain(|_| {
        raw(format!(
            "HTTP/1.1 401 No\r\nWWW-Authenticate: {}\r\nContent-Length: 0\r\n\r\n",
            "Basic a=\"b\", ".repeat(10_000)
        ))
    });
    let error = failed(pull(&client(), &server.host()));
    assert!(matches!(error, RegistryError::Unauthorized { sent: false, .. }), "{error}");
}
