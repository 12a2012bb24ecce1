//! Blobs that break, stall, lie about their length, or never end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::server::{Act, Request, Server, answer, head, ok};
use super::*;

/// Where a Range begins.
fn start_of(request: &Request) -> Option<usize> {
    let range = request.header("range")?.strip_prefix("bytes=")?;
    let (start, end) = range.split_once('-')?;
    assert_eq!(end.parse::<usize>().unwrap(), content().0.len() - 1, "the range is closed");
    start.parse().ok()
}

fn part(bytes: &[u8], start: usize) -> Vec<Act> {
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    answer(206, &[("Content-Range", &range)], &bytes[start..])
}

/// Says that all comes, sends what is before `end`, and goes.
fn broken_at(bytes: &[u8], start: usize, end: usize) -> Vec<Act> {
    let length = format!("Content-Length: {}\r\n", bytes.len() - start);
    let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    let head = if start == 0 { head(200, &[], &length) } else { head(206, &[("Content-Range", &range)], &length) };
    vec![Act::Send([head, bytes[start..end].to_vec()].concat())]
}

#[test]
fn a_blob_comes_as_it_is() {
    let server = Server::plain(|_| ok(content().0));
    assert!(fetch(&client(), &server.host()).unwrap() == content().0);
    let request = &server.requests()[0];
    assert_eq!(request.target, format!("/v2/team/app/blobs/{}", content().1));
    assert_eq!(request.header("range"), None);
}

#[test]
fn a_part_is_asked_for_with_a_range() {
    let (bytes, digest) = content();
    let server = Server::plain(move |r| part(&content().0, start_of(r).unwrap()));
    let got = bytes_of(client().blob(&image(&server.host()), &digest, bytes.len() as u64, 40_000)).unwrap();
    assert!(got == bytes[40_000..]);
}

#[test]
fn nothing_left_is_not_asked_for() {
    let server = Server::plain(|_| answer(500, &[], ""));
    let (_, digest) = content();
    for (size, offset) in [(0, 0), (10, 10), (10, 11)] {
        assert!(bytes_of(client().blob(&image(&server.host()), &digest, size, offset)).unwrap().is_empty());
    }
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_connection_that_breaks_is_continued() {
    let server = Server::plain(|r| match start_of(r) {
        None => broken_at(&content().0, 0, 30_000),
        Some(start) if start < 60_000 => broken_at(&content().0, start, 60_000),
        Some(start) => part(&content().0, start),
    });
    assert!(fetch(&client(), &server.host()).unwrap() == content().0);
    let starts: Vec<Option<usize>> = server.requests().iter().map(start_of).collect();
    assert_eq!(starts, [None, Some(30_000), Some(60_000)]);
}

#[test]
fn progress_forgets_failures() {
    let step = |start: usize| (start + 5_000).min(content().0.len());
    let server =
        Server::plain(move |r| broken_at(&content().0, start_of(r).unwrap_or(0), step(start_of(r).unwrap_or(0))));
    assert!(fetch(&client(), &server.host()).unwrap() == content().0);
    assert_eq!(server.requests().len(), 20);
}

#[test]
fn no_progress_is_given_up() {
    let server = Server::plain(|r| broken_at(&content().0, start_of(r).unwrap_or(0), 30_000));
    let error = failed(fetch(&client(), &server.host()));
    assert!(matches!(error, RegistryError::Broken { .. }), "{error:?}");
    assert!(server.requests().len() <= 6, "{}", server.requests().len());
}

#[test]
fn a_server_that_ignores_ranges_is_heard_out() {
    let server = Server::plain(|r| match start_of(r) {
        None => broken_at(&content().0, 0, 30_000),
        Some(_) => ok(content().0),
    });
    assert!(fetch(&client(), &server.host()).unwrap() == content().0);
}

#[test]
fn a_server_that_knows_no_ranges_is_asked_for_all() {
    let server = Server::plain(|r| match start_of(r) {
        None if r.header("range").is_none() => ok(content().0),
        _ => answer(416, &[], ""),
    });
    let (bytes, digest) = content();
    let got = bytes_of(client().blob(&image(&server.host()), &digest, bytes.len() as u64, 40_000)).unwrap();
    assert!(got == bytes[40_000..]);
}

#[test]
fn a_blob_that_ends_before_what_is_wanted_is_of_the_wrong_size() {
    let server = Server::plain(|_| answer(416, &[("Content-Range", "bytes */50")], ""));
    let (bytes, digest) = content();
    let error = failed(client().blob(&image(&server.host()), &digest, bytes.len() as u64, 40_000));
    assert!(matches!(error, RegistryError::SizeMismatch { found: 50, .. }), "{error:?}");
}

#[test]
fn parts_that_were_not_asked_for_are_refused() {
    let (bytes, digest) = content();
    let size = bytes.len() as u64;
    let cases: [(&[(&str, &str)], &str); 9] = [
        (&[], "Protocol"),
        (&[("Content-Range", "bytes 0-99999/100000")], "Protocol"),
        (&[("Content-Range", "bytes 40001-99999/100000")], "Protocol"),
        (&[("Content-Range", "bytes 39999-99999/100000")], "Protocol"),
        (&[("Content-Range", "bytes 40000-100000/*")], "Protocol"),
        (&[("Content-Range", "bytes 40000-39999/100000")], "Protocol"),
        (&[("Content-Range", "\x7f garbage")], "Protocol"),
        (&[("Content-Range", "bytes 40000-99999/100001")], "SizeMismatch"),
        (&[("Content-Range", "bytes 40000-50000/60000")], "SizeMismatch"),
    ];
    for (headers, expected) in cases {
        let owned: Vec<(String, String)> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let server = Server::plain(move |_| {
            let headers: Vec<(&str, &str)> = owned.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            answer(206, &headers, &content().0[40_000..])
        });
        let error = failed(client().blob(&image(&server.host()), &digest, size, 40_000));
        assert!(format!("{error:?}").starts_with(expected), "{headers:?}: {error:?}");
    }
    let server = Server::plain(|_| answer(206, &[("Content-Range", "bytes 0-99999/100000")], content().0));
    assert!(matches!(failed(fetch(&client(), &server.host())), RegistryError::Protocol { .. }));
}

#[test]
fn a_part_that_is_shorter_than_asked_for_is_continued() {
    let server = Server::plain(|r| {
        let start = start_of(r).unwrap();
        let end = (start + 20_000).min(content().0.len());
        answer(206, &[("Content-Range", &format!("bytes {start}-{}/100000", end - 1))], &content().0[start..end])
    });
    let (bytes, digest) = content();
    let got = bytes_of(client().blob(&image(&server.host()), &digest, bytes.len() as u64, 1)).unwrap();
    assert!(got == bytes[1..]);
}

#[test]
fn a_length_that_is_not_the_descriptors_is_refused_before_a_byte_is_read() {
    for length in [0, 99_999, 100_001, 1 << 40] {
        let server = Server::plain(move |_| {
            vec![Act::Send(head(200, &[], &format!("Content-Length: {length}\r\n"))), Act::Hang]
        });
        let error = failed(fetch(&client(), &server.host()));
        assert!(
            matches!(error, RegistryError::SizeMismatch { expected: 100_000, found, .. } if found == length),
            "{error:?}"
        );
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_blob_without_a_length_that_is_too_long_is_refused() {
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096)).into_bytes();
    let endless: [Vec<Act>; 3] = [
        vec![Act::Send(head(200, &[], "")), Act::Flood(vec![b'x'; 65_536])],
        vec![Act::Send(head(200, &[], "Transfer-Encoding: chunked\r\n")), Act::Flood(chunk)],
        vec![Act::Send(head(200, &[], "")), Act::Send([&content().0[..], b"x"].concat())],
    ];
    for acts in endless {
        let server = Server::plain(move |_| acts.clone());
        let error = failed(fetch(&client(), &server.host()));
        assert!(matches!(error, RegistryError::SizeMismatch { found, .. } if found > 100_000), "{error:?}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_blob_without_a_length_that_is_right_is_taken() {
    let server = Server::plain(|_| vec![Act::Send([head(200, &[], ""), content().0].concat())]);
    assert!(fetch(&client(), &server.host()).unwrap() == content().0);
}

#[test]
fn a_blob_that_always_ends_early_is_of_the_wrong_size() {
    let server = Server::plain(|_| vec![Act::Send([head(200, &[], ""), content().0[..30_000].to_vec()].concat())]);
    let error = failed(fetch(&client(), &server.host()));
    assert!(matches!(error, RegistryError::SizeMismatch { found: 30_000, .. }), "{error:?}");
    assert!(server.requests().len() <= 6);
}

#[test]
fn garbage_between_chunks_is_a_broken_connection() {
    let server = Server::plain(|_| {
        vec![Act::Send([head(200, &[], "Transfer-Encoding: chunked\r\n"), b"zz\r\nxyz".to_vec()].concat())]
    });
    let error = failed(fetch(&client(), &server.host()));
    assert!(matches!(error, RegistryError::Broken { .. }), "{error:?}");
    let huge = Server::plain(|_| {
        vec![Act::Send([head(200, &[], "Transfer-Encoding: chunked\r\n"), b"ffffffffffffffffff\r\n".to_vec()].concat())]
    });
    assert!(matches!(failed(fetch(&client(), &huge.host())), RegistryError::Broken { .. }));
}

#[test]
fn a_blob_that_stalls_is_continued_elsewhere() {
    let server = Server::plain(|r| match start_of(r) {
        None => [broken_at(&content().0, 0, 30_000), vec![Act::Hang]].concat(),
        Some(start) => part(&content().0, start),
    });
    let setup = Setup::new().deadlines(|d| d.stall = Duration::from_millis(300));
    assert!(fetch(&setup.build(), &server.host()).unwrap() == content().0);
}

#[test]
fn a_blob_that_always_stalls_is_a_timeout() {
    let server = Server::plain(|r| match start_of(r) {
        None => [broken_at(&content().0, 0, 30_000), vec![Act::Hang]].concat(),
        Some(start) => [broken_at(&content().0, start, start), vec![Act::Hang]].concat(),
    });
    let setup = Setup::new().deadlines(|d| (d.stall, d.tries) = (Duration::from_millis(200), 2));
    let error = failed(fetch(&setup.build(), &server.host()));
    assert!(matches!(error, RegistryError::Timeout { waiting: registry::Waiting::Bytes, .. }), "{error:?}");
}

#[test]
fn a_trickle_is_a_timeout() {
    let server = Server::plain(|_| {
        vec![Act::Send(head(200, &[], "Content-Length: 100000\r\n")), Act::Drip(content().0, Duration::from_millis(10))]
    });
    let setup = Setup::new().deadlines(|d| (d.speed_window, d.slowest) = (Duration::from_millis(500), 10_000));
    let error = failed(fetch(&setup.build(), &server.host()));
    assert!(matches!(error, RegistryError::Timeout { waiting: registry::Waiting::Speed, .. }), "{error:?}");
}

#[test]
fn a_trickle_through_many_connections_is_a_timeout() {
    let server = Server::plain(|r| {
        let start = start_of(r).unwrap_or(0);
        broken_at(&content().0, start, start + 1)
    });
    let slow = |d: &mut Deadlines| {
        d.first_pause = Duration::from_millis(20);
        (d.speed_window, d.slowest) = (Duration::from_millis(500), 10_000);
    };
    let error = failed(fetch(&Setup::new().deadlines(slow).build(), &server.host()));
    assert!(matches!(error, RegistryError::Timeout { waiting: registry::Waiting::Speed, .. }), "{error:?}");
}

#[test]
fn a_slow_reader_is_no_stall() {
    let server = Server::plain(|_| ok(content().0));
    let setup = Setup::new().deadlines(|d| (d.stall, d.tries) = (Duration::from_millis(300), 1));
    let (bytes, digest) = content();
    let mut download = setup.build().blob(&image(&server.host()), &digest, bytes.len() as u64, 0).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut download, &mut got).unwrap();
    assert!(got == bytes);
}

#[test]
fn a_download_nobody_reads_is_left() {
    let left = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = left.clone();
    let server = Server::plain(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        [broken_at(&content().0, 0, 10), vec![Act::Hang]].concat()
    });
    let client = client();
    let (bytes, digest) = content();
    drop(client.blob(&image(&server.host()), &digest, bytes.len() as u64, 0).unwrap());
    drop(client);
    assert_eq!(left.load(Ordering::SeqCst), 1);
}

#[test]
fn blobs_are_there_or_not() {
    let (_, digest) = content();
    let asked = |acts: Vec<Act>| {
        let server = Server::plain(move |_| acts.clone());
        let answer = client().has_blob(&image(&server.host()), &digest);
        assert_eq!(server.requests()[0].method, "HEAD");
        answer
    };
    assert_eq!(asked(vec![Act::Send(head(200, &[], "Content-Length: 77\r\n"))]).unwrap(), Some(77));
    assert_eq!(asked(answer(404, &[], "")).unwrap(), None);
    assert!(matches!(asked(answer(403, &[], "")), Err(RegistryError::Denied { .. })));
    assert!(matches!(asked(vec![Act::Send(head(200, &[], ""))]), Err(RegistryError::Protocol { .. })));
}

#[test]
fn storage_that_only_lets_get_tells_the_size_of_a_blob_all_the_same() {
    let storage = Server::plain(|r| match (r.method.as_str(), r.header("range")) {
        ("GET", Some("bytes=0-0")) => answer(206, &[("Content-Range", "bytes 0-0/77")], "x"),
        _ => answer(403, &[], ""),
    });
    let location = format!("http://{}/blob?signature=get", storage.other_host());
    let server = Server::plain(move |_| super::server::to(&location));
    assert_eq!(client().has_blob(&image(&server.host()), &content().1).unwrap(), Some(77));
}
