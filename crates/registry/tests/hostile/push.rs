//! Uploads that are sent astray, interrupted, or not believed.

use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use registry::Upload;

use super::server::{Act, Request, Server, answer, to};
use super::*;

fn accepted(location: &str) -> Vec<Act> {
    answer(202, &[("Location", location)], "")
}

/// A registry with one upload at `/up`; what `script` does not answer is as it should be.
fn uploads(script: impl Fn(&Request) -> Option<Vec<Act>> + Send + Sync + 'static) -> Server {
    Server::plain(move |request| {
        script(request).unwrap_or_else(|| match request.method.as_str() {
            "POST" => accepted("/up?state=0"),
            "PATCH" => {
                let range = request.header("content-range").unwrap();
                let end = range.split('-').nth(1).unwrap();
                answer(202, &[("Location", &format!("/up?state={end}")), ("Range", &format!("0-{end}"))], "")
            }
            "PUT" => answer(201, &[], ""),
            "HEAD" => answer(404, &[], ""),
            other => panic!("{other} {}", request.target),
        })
    })
}

fn push(client: &Client, host: &str) -> Result<(Digest, u64), RegistryError> {
    let (bytes, digest) = content();
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(content().0))) };
    client.push_blob(&image(host), Upload::Known { digest, size: bytes.len() as u64, open: &open })
}

/// Longer than one piece of a stream.
fn long() -> Vec<u8> {
    content().0.repeat(100)
}

#[test]
fn a_blob_goes_in_one_request_with_its_length() {
    let server = uploads(|_| None);
    push(&client(), &server.host()).unwrap();
    let requests = server.requests();
    let methods: Vec<&str> = requests.iter().map(|r| r.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PUT"]);
    assert_eq!(requests[0].target, "/v2/team/app/blobs/uploads/");
    assert_eq!(requests[0].header("content-length"), Some("0"));
    assert_eq!(requests[1].target, format!("/up?state=0&digest={}", content().1.to_string().replace(':', "%3A")));
    assert_eq!(requests[1].header("content-length"), Some("100000"));
    assert!(requests[1].body == content().0);
}

#[test]
fn a_blob_is_read_again_from_its_start_after_a_failure() {
    for failure in [answer(500, &[], ""), answer(503, &[], ""), vec![]] {
        let failed_once = AtomicUsize::new(0);
        let server = uploads(move |r| {
            (r.method == "PUT" && failed_once.fetch_add(1, Ordering::SeqCst) == 0).then(|| failure.clone())
        });
        push(&client(), &server.host()).unwrap();
        let last = server.requests().pop().unwrap();
        assert!(last.method == "PUT" && last.body == content().0);
    }
}

#[test]
fn a_blob_that_arrived_though_the_answer_did_not_is_not_sent_again() {
    let server = uploads(|r| match r.method.as_str() {
        "PUT" => Some(vec![]),
        "HEAD" => Some(answer(200, &[], content().0)),
        _ => None,
    });
    push(&client(), &server.host()).unwrap();
    assert_eq!(server.requests().iter().filter(|r| r.method == "PUT").count(), 1);
}

#[test]
fn refusals_of_uploads_are_final() {
    for (method, status) in [("POST", 403), ("POST", 404), ("PUT", 400), ("PUT", 403), ("PUT", 413)] {
        let server =
            uploads(move |r| (r.method == method).then(|| answer(status, &[], r#"{"errors":[{"code":"NO"}]}"#)));
        let error = failed(push(&client(), &server.host()));
        assert!(error.to_string().ends_with(&format!("status {status}, NO")), "{error}");
        assert_eq!(server.requests().iter().filter(|r| r.method == method).count(), 1);
    }
}

#[test]
fn uploads_without_a_place_are_no_uploads() {
    let cases: [(Vec<Act>, &str); 5] = [
        (answer(202, &[], ""), "Protocol"),
        (answer(200, &[], ""), "Protocol"),
        (accepted("file:///tmp/x"), "Redirect"),
        (accepted("http://169.254.169.254/"), "Redirect"),
        (accepted("http://:99999/"), "Redirect"),
    ];
    for (acts, expected) in cases {
        let server = uploads(move |r| (r.method == "POST").then(|| acts.clone()));
        let error = failed(push(&client(), &server.host()));
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
    }
}

#[test]
fn an_upload_at_another_host_is_without_credentials() {
    let storage = Server::plain(|_| answer(201, &[], ""));
    let place = format!("http://{}/bucket?signature=x", storage.other_host());
    let server = uploads(move |r| match (r.method.as_str(), r.authorization()) {
        (_, None) => Some(answer(401, &[("WWW-Authenticate", "Basic realm=\"x\"")], "")),
        ("POST", Some(_)) => Some(accepted(&place)),
        _ => None,
    });
    let files = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(files.path().join("config.json"));
    credentials.store(&server.host(), "me", "s3cret").unwrap();
    credentials.store(&storage.other_host(), "me", "s3cret").unwrap();
    push(&Setup::new().credentials(credentials).build(), &server.host()).unwrap();
    let put = &storage.requests()[0];
    assert_eq!((put.method.as_str(), put.authorization()), ("PUT", None));
    assert!(put.body == content().0);
}

#[test]
fn bytes_on_their_way_are_not_redirected() {
    let server = uploads(|r| (r.method == "PUT").then(|| to("/elsewhere")));
    let error = failed(push(&client(), &server.host()));
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
}

#[test]
fn a_token_for_pushing_is_renewed_in_the_middle() {
    let own: Arc<OnceLock<String>> = Arc::default();
    let host = own.clone();
    let tokens = AtomicUsize::new(0);
    let server = uploads(move |r| {
        if r.path() == "/token" {
            let number = tokens.fetch_add(1, Ordering::SeqCst);
            return Some(answer(200, &[], format!(r#"{{"token":"t{number}"}}"#)));
        }
        let challenge =
            format!(r#"Bearer realm="http://{}/token",scope="repository:team/app:pull,push""#, host.get().unwrap());
        let wanted = if r.method == "PUT" { "Bearer t1" } else { r.authorization().unwrap_or("none") };
        (r.authorization() != Some(wanted)).then(|| answer(401, &[("WWW-Authenticate", &challenge)], ""))
    });
    own.set(server.host()).unwrap();
    push(&client(), &server.host()).unwrap();
    let token = server.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    assert_eq!(token.target, "/token?scope=repository%3Ateam%2Fapp%3Apull%2Cpush");
    assert_eq!(server.count("/token"), 2);
}

/// A push fails with what its reader said.
fn check(server: &Server, upload: Upload<'_>, said: &str) {
    let error = failed(client().push_blob(&image(&server.host()), upload));
    let RegistryError::Upload { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains(said), "{source}");
}

#[test]
fn readers_that_fail_or_lie_are_the_uploads_fault() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let server = uploads(|_| None);
    let (digest, size) = (content().1, content().0.len() as u64);
    let short = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::repeat(0).take(10))) };
    let long = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::repeat(0).take(200_000))) };
    let broken = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(Failing)) };
    let missing = || -> io::Result<Box<dyn Read + Send>> { Err(io::Error::other("not there")) };
    check(&server, Upload::Known { digest, size, open: &short }, "shorter");
    check(&server, Upload::Known { digest, size, open: &long }, "longer");
    check(&server, Upload::Known { digest, size, open: &broken }, "the disk is gone");
    check(&server, Upload::Known { digest, size, open: &missing }, "not there");
    check(&server, Upload::Stream(Box::new(Failing)), "the disk is gone");
}

#[test]
fn a_stream_goes_in_pieces() {
    let server = uploads(|_| None);
    let bytes = long();
    let pushed = client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&bytes[..]))).unwrap();
    assert_eq!(pushed, (Digest::of(&bytes), bytes.len() as u64));
    let requests = server.requests();
    let sent: Vec<u8> = requests.iter().filter(|r| r.method == "PATCH").flat_map(|r| r.body.clone()).collect();
    assert!(sent == bytes);
    let ranges: Vec<&str> = requests.iter().filter_map(|r| r.header("content-range")).collect();
    assert_eq!(ranges, ["0-4194303", "4194304-8388607", "8388608-9999999"]);
    assert!(requests.last().unwrap().target.starts_with("/up?state=9999999&digest="));
}

#[test]
fn a_short_stream_begins_anew_where_its_upload_was_lost() {
    let puts = AtomicUsize::new(0);
    let server =
        uploads(move |r| (r.method == "PUT" && puts.fetch_add(1, Ordering::SeqCst) == 0).then(|| answer(500, &[], "")));
    let (bytes, digest) = content();
    let pushed = client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&bytes[..]))).unwrap();
    assert_eq!(pushed, (digest, bytes.len() as u64));
    let methods: Vec<String> = server.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "PUT", "HEAD", "POST", "PUT"]);
}

#[test]
fn a_registry_that_wants_longer_pieces_gets_them() {
    let server = uploads(|r| {
        (r.method == "POST").then(|| answer(202, &[("Location", "/up"), ("OCI-Chunk-Min-Length", "6000000")], ""))
    });
    let bytes = long();
    client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&bytes[..]))).unwrap();
    let requests = server.requests();
    let ranges: Vec<&str> = requests.iter().filter_map(|r| r.header("content-range")).collect();
    assert_eq!(ranges, ["0-5999999", "6000000-9999999"]);
}

#[test]
fn a_stream_that_is_interrupted_goes_on_where_the_registry_stands() {
    // The registry has this much of the second piece when its answer is lost: nothing, a part, all.
    for there in [4_194_304_usize, 5_000_000, 8_388_608] {
        let have = Arc::new(Mutex::new(Vec::new()));
        let (store, lost) = (have.clone(), AtomicUsize::new(0));
        let server = uploads(move |r| {
            let mut store = store.lock().unwrap();
            match r.method.as_str() {
                "PATCH" => {
                    let start: usize = r.header("content-range").unwrap().split('-').next().unwrap().parse().unwrap();
                    assert_eq!(start, store.len());
                    store.extend_from_slice(&r.body);
                    if start > 0 && lost.fetch_add(1, Ordering::SeqCst) == 0 {
                        store.truncate(there);
                        return Some(vec![]);
                    }
                    Some(answer(202, &[("Location", "/up"), ("Range", &format!("0-{}", store.len() - 1))], ""))
                }
                "GET" => Some(answer(204, &[("Location", "/up"), ("Range", &format!("0-{}", store.len() - 1))], "")),
                _ => None,
            }
        });
        let bytes = long();
        let (digest, _) = client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&bytes[..]))).unwrap();
        assert_eq!(digest, Digest::of(&have.lock().unwrap()), "{there}");
    }
}

#[test]
fn a_registry_that_lost_bytes_is_not_believed() {
    let server = uploads(|r| match r.method.as_str() {
        "PATCH" if r.header("content-range").unwrap().starts_with("0-") => None,
        "PATCH" => Some(vec![]),
        "GET" => Some(answer(204, &[("Location", "/up"), ("Range", "0-99")], "")),
        _ => None,
    });
    let error = failed(client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&long()[..]))));
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    let server = uploads(|r| (r.method == "PATCH").then(|| answer(202, &[("Location", "/up"), ("Range", "0-7")], "")));
    let error = failed(client().push_blob(&image(&server.host()), Upload::Stream(Box::new(&long()[..]))));
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
}

#[test]
fn another_digest_than_what_was_sent_is_refused() {
    let other = Digest::of(b"other").to_string();
    let server = Server::plain(move |r| match r.method.as_str() {
        "POST" => accepted("/up"),
        _ => answer(201, &[("Docker-Content-Digest", &other)], ""),
    });
    let error = failed(push(&client(), &server.host()));
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
    let error = failed(client().push_manifest(&image(&server.host()), MANIFEST_TYPE, MANIFEST.as_bytes()));
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn a_manifest_goes_under_its_tag_or_its_digest() {
    let failed_once = AtomicUsize::new(0);
    let server = Server::plain(move |_| {
        if failed_once.fetch_add(1, Ordering::SeqCst) == 0 { answer(502, &[], "") } else { answer(201, &[], "") }
    });
    let digest = Digest::of(MANIFEST.as_bytes());
    let by_digest = Reference::parse(&format!("{}/team/app@{digest}", server.host())).unwrap();
    for reference in [image(&server.host()), by_digest] {
        assert_eq!(client().push_manifest(&reference, MANIFEST_TYPE, MANIFEST.as_bytes()).unwrap(), digest);
    }
    let requests = server.requests();
    assert_eq!(requests[1].target, "/v2/team/app/manifests/1");
    assert_eq!(requests[2].target, format!("/v2/team/app/manifests/{digest}"));
    assert!(requests.iter().all(|r| r.header("content-type") == Some(MANIFEST_TYPE) && r.body == MANIFEST.as_bytes()));
    let other = Reference::parse(&format!("{}/team/app@{}", server.host(), Digest::of(b"other"))).unwrap();
    let error = failed(client().push_manifest(&other, MANIFEST_TYPE, MANIFEST.as_bytes()));
    assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn a_mount_is_done_or_not() {
    let (_, digest) = content();
    let mounted = |acts: Vec<Act>| {
        let server = Server::plain(move |r| if r.method == "DELETE" { answer(204, &[], "") } else { acts.clone() });
        let from = Reference::parse(&format!("{}/team/base:1", server.host())).unwrap();
        let done = client().mount_blob(&image(&server.host()), &digest, &from);
        (done, server.requests())
    };
    let (done, requests) = mounted(answer(201, &[], ""));
    assert!(done.unwrap());
    let query = format!("mount={}&from=team%2Fbase", digest.to_string().replace(':', "%3A"));
    assert_eq!(requests[0].target, format!("/v2/team/app/blobs/uploads/?{query}"));
    let (done, requests) = mounted(accepted("/up"));
    assert!(!done.unwrap());
    assert_eq!((requests[1].method.as_str(), requests[1].target.as_str()), ("DELETE", "/up"));
    for status in [403, 404, 405] {
        assert!(!mounted(answer(status, &[], "")).0.unwrap());
    }
    assert!(matches!(mounted(answer(400, &[], "")).0, Err(RegistryError::Refused { .. })));
    let elsewhere = Reference::parse("other.example/team/base").unwrap();
    assert!(!client().mount_blob(&image("127.0.0.1:1"), &digest, &elsewhere).unwrap());
}

#[test]
fn an_upload_that_is_not_taken_is_a_timeout() {
    use std::time::Duration;
    let server = uploads(|r| (r.method == "PUT").then(|| vec![Act::Hang]));
    let quick = |d: &mut Deadlines| {
        (d.connect, d.commit, d.tries) = (Duration::from_millis(500), Duration::from_millis(100), 1);
    };
    let error = failed(push(&Setup::new().deadlines(quick).build(), &server.host()));
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
}
