//! Answers that are no success, or no answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::server::{Act, Server, answer, head, raw};
use super::*;

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

/// Says these one after the other, the last again and again.
fn one_by_one(answers: Vec<Vec<Act>>) -> Server {
    let next = AtomicUsize::new(0);
    Server::plain(move |_| answers[next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)].clone())
}

/// What a manifest's pull fails with, and how often was asked.
fn refused_with(acts: Vec<Act>) -> (RegistryError, usize) {
    let server = one_by_one(vec![acts]);
    let error = failed(pull(&client(), &server.host()));
    (error, server.requests().len())
}

#[test]
fn refusals_are_final_and_say_what_the_registry_says() {
    let body = r#"{"errors":[{"code":"CODE","message":"words"}]}"#;
    for status in [400, 403, 404, 405, 410, 418, 451, 501] {
        let (error, asked) = refused_with(answer(status, JSON, body));
        let expected = match (status, &error) {
            (403, RegistryError::Denied { answer, .. })
            | (404, RegistryError::NotFound { answer, .. })
            | (_, RegistryError::Refused { answer, .. }) => answer.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((expected.status, asked), (status, 1));
        assert!(error.to_string().ends_with(&format!("status {status}, CODE (words)")), "{error}");
    }
}

#[test]
fn statuses_that_mean_nothing_here_are_no_answer() {
    for status in [201, 204, 206, 300, 302, 304, 399] {
        let (error, asked) = refused_with(answer(status, &[], ""));
        assert!(matches!(error, RegistryError::Protocol { .. }), "{status}: {error}");
        assert_eq!(asked, 1);
    }
}

#[test]
fn a_server_that_cannot_now_is_asked_again() {
    for status in [500, 502, 503, 504] {
        let server = one_by_one(vec![answer(status, &[], ""), answer(status, &[], ""), manifest()]);
        pull(&client(), &server.host()).unwrap();
        assert_eq!(server.requests().len(), 3);
    }
}

#[test]
fn a_server_that_never_can_is_given_up() {
    let (error, asked) = refused_with(answer(503, JSON, r#"{"errors":[{"code":"UNAVAILABLE"}]}"#));
    assert!(matches!(&error, RegistryError::Unavailable { answer, .. } if answer.status == 503), "{error}");
    assert_eq!(asked, 4);
    assert!(error.hint().is_some());
}

#[test]
fn too_many_requests_wait_as_long_as_the_registry_says() {
    let server = one_by_one(vec![answer(429, &[("Retry-After", "1")], ""), manifest()]);
    let start = Instant::now();
    pull(&client(), &server.host()).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn too_many_requests_for_an_hour_are_an_error_at_once() {
    let (error, asked) =
        refused_with(answer(429, &[("Retry-After", "3600")], r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#));
    let RegistryError::RateLimited { retry_after, .. } = &error else { panic!("{error}") };
    assert_eq!((*retry_after, asked), (Some(Duration::from_secs(3600)), 1));
    assert!(error.hint().unwrap().contains("3600 seconds"));
}

#[test]
fn too_many_requests_without_a_time_are_tried_again_with_pauses() {
    for value in [None, Some("Mon, 23 Nov 2026 22:00:00 GMT"), Some("-1"), Some("99999999999999999999999")] {
        let headers: Vec<(&str, &str)> = value.iter().map(|v| ("Retry-After", *v)).collect();
        let (error, asked) = refused_with(answer(429, &headers, ""));
        assert!(matches!(error, RegistryError::RateLimited { retry_after: None, .. }), "{error}");
        assert_eq!(asked, 4);
    }
}

#[test]
fn errors_that_would_control_the_terminal_are_escaped() {
    let body = "{\"errors\":[{\"code\":\"\\u001b]0;x\\u0007\",\"message\":\"\\r\\n\\u202egnp\"}]}";
    let (error, _) = refused_with(answer(403, JSON, body));
    assert!(!error.to_string().chars().any(|c| c.is_control() || c == '\u{202e}'), "{error:?}");
}

#[test]
fn errors_that_are_garbage_or_endless_say_nothing() {
    let garbage: Vec<Vec<Act>> = vec![
        answer(403, JSON, [0, 255, 27, 10]),
        answer(403, JSON, r#"{"errors":{"code":1}}"#),
        answer(403, &[("Content-Type", "text/html")], "<html>no</html>"),
        answer(403, JSON, "[".repeat(60_000)),
        vec![Act::Send(head(403, JSON, "")), Act::Flood(vec![b'x'; 65_536])],
        vec![Act::Send(head(403, JSON, "Content-Length: 99999999999\r\n"))],
    ];
    for acts in garbage {
        let (error, _) = refused_with(acts);
        let RegistryError::Denied { answer, .. } = &error else { panic!("{error}") };
        assert!(answer.errors.is_empty(), "{answer:?}");
    }
}

#[test]
fn what_is_not_http_is_no_answer() {
    let garbage: Vec<Vec<u8>> = vec![
        b"<html>HTTP/0.9</html>".to_vec(),
        b"HTTP/9.9 200 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 abc OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 4096],
    ];
    for bytes in garbage {
        let (error, asked) = refused_with(raw(&bytes));
        assert!(matches!(error, RegistryError::Protocol { .. }), "{:?}: {error:?}", String::from_utf8_lossy(&bytes));
        assert_eq!(asked, 1);
    }
}

#[test]
fn heads_that_are_too_long_are_no_answer() {
    let many: String = (0..1000).map(|i| format!("X-{i}: y\r\n")).collect();
    let cases = [
        vec![Act::Send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(4 << 20)).into_bytes())],
        vec![Act::Send(format!("HTTP/1.1 200 OK\r\n{many}\r\n").into_bytes())],
        vec![Act::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), Act::Flood(vec![b'y'; 65_536])],
    ];
    for acts in cases {
        let (error, _) = refused_with(acts);
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    }
}

#[test]
fn a_connection_that_closes_without_an_answer_is_tried_again() {
    let server = one_by_one(vec![vec![], vec![], manifest()]);
    pull(&client(), &server.host()).unwrap();
    let (error, asked) = refused_with(raw("HTTP/1.1 200 OK\r\nContent-Len"));
    assert!(matches!(error, RegistryError::Broken { .. }), "{error:?}");
    assert_eq!(asked, 4);
}

#[test]
fn interim_answers_are_skipped() {
    let mut bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec();
    bytes.extend(head(200, &[("Content-Type", MANIFEST_TYPE)], "Content-Length: 2\r\n"));
    bytes.extend(b"{}");
    let server = one_by_one(vec![raw(bytes)]);
    assert_eq!(pull(&client(), &server.host()).unwrap().bytes, b"{}");
}

#[test]
fn an_answer_that_does_not_come_is_a_timeout() {
    let slow: Vec<Vec<Act>> = vec![
        vec![Act::Hang],
        vec![Act::Drip(
            b"HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy".repeat(9),
            Duration::from_millis(20),
        )],
        vec![Act::Drip(b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(50), Duration::from_millis(2))],
    ];
    for acts in slow {
        let server = one_by_one(vec![acts]);
        let quick = |d: &mut Deadlines| {
            d.connect = Duration::from_millis(500);
            d.answer = Duration::from_millis(100);
            d.tries = 2;
        };
        let error = failed(pull(&Setup::new().deadlines(quick).build(), &server.host()));
        assert!(matches!(error, RegistryError::Timeout { waiting: registry::Waiting::Answer, .. }), "{error:?}");
        assert_eq!(server.requests().len(), 2);
    }
}

#[test]
fn a_manifest_that_is_another_is_refused() {
    let other = Digest::of(b"other");
    let server = one_by_one(vec![manifest()]);
    let by_digest = Reference::parse(&format!("{}/team/app@{other}", server.host())).unwrap();
    let error = failed(client().manifest(&by_digest));
    let found = Digest::of(MANIFEST.as_bytes());
    let is_it = |e: &RegistryError| matches!(e, RegistryError::DigestMismatch { expected, found: f, .. } if (*expected, *f) == (other, found));
    assert!(is_it(&error), "{error}");
    let said = other.to_string();
    let (error, asked) =
        refused_with(answer(200, &[("Docker-Content-Digest", &said), ("Content-Type", MANIFEST_TYPE)], MANIFEST));
    assert!(is_it(&error), "{error}");
    assert_eq!(asked, 1);
}

#[test]
fn digests_of_other_algorithms_say_nothing_and_garbage_is_refused() {
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let with =
        |digest: &str| answer(200, &[("Docker-Content-Digest", digest), ("Content-Type", MANIFEST_TYPE)], MANIFEST);
    let server = one_by_one(vec![with(&sha512)]);
    pull(&client(), &server.host()).unwrap();
    for garbage in ["sha256:../../etc/passwd", "x", "", "sha256:ABC"] {
        let (error, _) = refused_with(with(garbage));
        assert!(matches!(error, RegistryError::Protocol { .. }), "{garbage}: {error}");
    }
}

#[test]
fn manifests_longer_than_four_mebibytes_are_not_read() {
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(4 << 20));
    let cases = [
        answer(200, &[("Content-Type", MANIFEST_TYPE)], &long),
        vec![Act::Send(head(200, &[], "")), Act::Flood(vec![b' '; 65_536])],
        vec![Act::Send(head(200, &[], "Content-Length: 1000000000000000\r\n"))],
        vec![
            Act::Send(head(200, &[], "Transfer-Encoding: chunked\r\n")),
            Act::Flood(format!("10000\r\n{}\r\n", " ".repeat(65_536)).into_bytes()),
        ],
    ];
    for acts in cases {
        let (error, _) = refused_with(acts);
        assert!(matches!(error, RegistryError::TooLarge { limit: 4_194_304, .. }), "{error}");
    }
    let just = format!("{{\"x\":\"{}\"}}", "y".repeat((4 << 20) - 8));
    let server = one_by_one(vec![answer(200, &[("Content-Type", MANIFEST_TYPE)], just)]);
    assert_eq!(pull(&client(), &server.host()).unwrap().bytes.len(), 4 << 20);
}

#[test]
fn what_a_manifest_is_must_not_be_in_doubt() {
    let own = |media_type: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}"}}"#);
    let index = "application/vnd.oci.image.index.v1+json";
    let typed = |content_type: &str, body: &str| {
        let server = one_by_one(vec![answer(200, &[("Content-Type", content_type)], body)]);
        pull(&client(), &server.host()).map(|manifest| manifest.media_type)
    };
    assert_eq!(typed(MANIFEST_TYPE, MANIFEST).unwrap(), MANIFEST_TYPE);
    assert_eq!(typed(MANIFEST_TYPE, &own(MANIFEST_TYPE)).unwrap(), MANIFEST_TYPE);
    assert_eq!(typed("Application/JSON; charset=utf-8", &own(index)).unwrap(), index);
    assert_eq!(typed("text/plain", &own(index)).unwrap(), index);
    let wrong = [
        (MANIFEST_TYPE, own(index)),
        ("text/html", own(index)),
        ("text/html", "<html>log in to this network</html>".to_owned()),
        (MANIFEST_TYPE, "[]".to_owned()),
        (MANIFEST_TYPE, String::new()),
    ];
    for (content_type, body) in wrong {
        let error = failed(typed(content_type, &body));
        assert!(matches!(error, RegistryError::Protocol { .. }), "{content_type} {body}: {error}");
    }
}

#[test]
fn an_encoding_nobody_asked_for_is_refused_unless_the_digest_is_right() {
    let headers = [("Content-Type", MANIFEST_TYPE), ("Content-Encoding", "gzip")];
    let (error, _) = refused_with(answer(200, &headers, MANIFEST));
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
    let server = one_by_one(vec![answer(200, &headers, MANIFEST)]);
    let digest = Digest::of(MANIFEST.as_bytes());
    client().manifest(&Reference::parse(&format!("{}/a@{digest}", server.host())).unwrap()).unwrap();
    assert_eq!(server.requests()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn a_head_without_a_digest_is_asked_for_its_bytes() {
    let server = one_by_one(vec![raw(head(200, &[("Content-Type", MANIFEST_TYPE)], "")), manifest()]);
    let head = client().manifest_digest(&image(&server.host())).unwrap().unwrap();
    assert_eq!((head.digest, head.size), (Digest::of(MANIFEST.as_bytes()), MANIFEST.len() as u64));
}

#[test]
fn what_is_asked_says_who_asks_and_what_it_understands() {
    let server = one_by_one(vec![manifest()]);
    pull(&client(), &server.host()).unwrap();
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/v2/team/app/manifests/1"));
    assert!(request.header("user-agent").unwrap().starts_with("coracle/"));
    let accept = request.header("accept").unwrap();
    assert_eq!(accept.split(", ").count(), 4, "{accept}");
    assert_eq!(request.authorization(), None);
}
