//! Mirrors: asked first, trusted no more than the digest says.

use super::server::{Act, Server, answer, head, ok};
use super::*;

fn with_mirrors(registry: &Server, mirrors: &[String]) -> Setup {
    let mirrors: Vec<String> = mirrors.iter().map(|m| format!("\"{m}\"")).collect();
    Setup::new().settings(format!(r#"{{"{}":{{"mirrors":[{}]}}}}"#, registry.host(), mirrors.join(",")))
}

#[test]
fn the_first_mirror_that_has_it_is_enough() {
    let registry = Server::plain(|_| answer(500, &[], ""));
    let (empty, full) = (Server::plain(|_| answer(404, &[], "")), Server::plain(|_| manifest()));
    let client = with_mirrors(&registry, &[empty.host(), format!("http://{}/hub/", full.host())]).build();
    pull(&client, &registry.host()).unwrap();
    assert_eq!(full.requests()[0].target, "/v2/hub/team/app/manifests/1");
    assert_eq!((empty.requests().len(), registry.requests().len()), (1, 0));
}

#[test]
fn what_no_mirror_has_the_registry_is_asked_for() {
    let broken: Vec<Vec<Act>> =
        vec![answer(404, &[], ""), answer(403, &[], ""), answer(503, &[], ""), vec![], ok("<html>")];
    for acts in broken {
        let registry = Server::plain(|_| manifest());
        let mirror = Server::plain(move |_| acts.clone());
        pull(&with_mirrors(&registry, &[mirror.host()]).build(), &registry.host()).unwrap();
        assert!((1..=2).contains(&mirror.requests().len()));
    }
    let registry = Server::plain(|_| answer(404, &[], ""));
    let mirror = Server::plain(|_| answer(403, &[], ""));
    let error = failed(pull(&with_mirrors(&registry, &[mirror.host()]).build(), &registry.host()));
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
}

#[test]
fn a_dead_mirror_is_left_alone() {
    let registry = Server::plain(|_| manifest());
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = dead.local_addr().unwrap().to_string();
    drop(dead);
    let client = with_mirrors(&registry, &[host]).build();
    for _ in 0..3 {
        pull(&client, &registry.host()).unwrap();
    }
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_mirror_is_given_its_own_credentials() {
    let challenge = || answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "");
    let registry = Server::plain(move |r| if r.authorization().is_some() { manifest() } else { challenge() });
    let mirror = Server::plain(move |_| challenge());
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    credentials.store(&registry.host(), "me", "s3cret").unwrap();
    let client = with_mirrors(&registry, &[mirror.host()]).credentials(credentials.clone()).build();
    pull(&client, &registry.host()).unwrap();
    assert!(mirror.requests().iter().all(|r| r.authorization().is_none()));
    credentials.store(&mirror.host(), "mirror", "own").unwrap();
    let client = with_mirrors(&registry, &[mirror.host()]).credentials(credentials).build();
    pull(&client, &registry.host()).unwrap();
    assert_eq!(mirror.requests().pop().unwrap().authorization(), Some("Basic bWlycm9yOm93bg=="));
}

#[test]
fn a_mirror_that_breaks_in_the_middle_is_replaced() {
    let registry = Server::plain(|r| {
        let start = content().0.len() - 70_000;
        assert_eq!(r.header("range"), Some("bytes=30000-99999"));
        answer(206, &[("Content-Range", "bytes 30000-99999/100000")], &content().0[start..])
    });
    let mirror = Server::plain(|r| match r.header("range") {
        None => {
            vec![Act::Send([head(200, &[], "Content-Length: 100000\r\n"), content().0[..30_000].to_vec()].concat())]
        }
        Some(_) => answer(404, &[], ""),
    });
    let client = with_mirrors(&registry, &[mirror.host()]).build();
    assert!(fetch(&client, &registry.host()).unwrap() == content().0);
}

#[test]
fn a_mirror_with_another_manifest_is_passed_over() {
    let digest = Digest::of(MANIFEST.as_bytes());
    let registry = Server::plain(|_| manifest());
    let mirror = Server::plain(|_| answer(200, &[("Content-Type", MANIFEST_TYPE)], "{}"));
    let client = with_mirrors(&registry, &[mirror.host()]).build();
    let by_digest = Reference::parse(&format!("{}/a@{digest}", registry.host())).unwrap();
    assert_eq!(client.manifest(&by_digest).unwrap().bytes, MANIFEST.as_bytes());
}

#[test]
fn nothing_is_pushed_to_a_mirror() {
    let registry = Server::plain(|_| answer(201, &[], ""));
    let mirror = Server::plain(|_| answer(201, &[], ""));
    let client = with_mirrors(&registry, &[mirror.host()]).build();
    client.push_manifest(&image(&registry.host()), MANIFEST_TYPE, MANIFEST.as_bytes()).unwrap();
    assert_eq!((registry.requests().len(), mirror.requests().len()), (1, 0));
}

#[test]
fn mirrors_that_are_none_are_refused_at_once() {
    for mirror in ["ftp://m.example", "https://me:pw@m.example", ""] {
        let settings = serde_json::from_str(&format!(r#"{{"docker.io":{{"mirrors":["{mirror}"]}}}}"#)).unwrap();
        let made = Client::with_environment(settings, Credentials::anonymous(), Environment::empty());
        assert!(matches!(made, Err(RegistryError::Settings { .. })), "{mirror}");
    }
}

#[test]
fn a_mirror_that_wants_a_pause_is_passed_over() {
    let registry = Server::plain(|_| manifest());
    let mirror = Server::plain(|_| answer(429, &[("Retry-After", "30")], ""));
    let setup = with_mirrors(&registry, &[mirror.host()]).deadlines(|d| d.pauses = std::time::Duration::from_secs(60));
    pull(&setup.build(), &registry.host()).unwrap();
    assert_eq!(mirror.requests().len(), 1);
}
