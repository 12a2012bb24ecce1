use std::{
    fs,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use proptest::prelude::*;

use super::*;
use crate::{Limits, Stream, Writer};

const LARGE: Limits = Limits { max_size: 1 << 20, max_files: 3 };

fn written(limits: Limits, lines: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), limits);
    for line in 0..lines {
        writer.push(Stream::Stdout, format!("{line}\n").as_bytes());
    }
    directory
}

fn read(directory: &Path, options: &Options) -> Vec<String> {
    let mut reader = Reader::open(directory, options).unwrap();
    std::iter::from_fn(|| reader.next().unwrap()).map(|record| record.text.trim().to_owned()).collect()
}

fn tail(directory: &Path, count: u64) -> Vec<String> {
    read(directory, &Options { tail: Some(count), ..Options::default() })
}

#[test]
fn log_that_is_not_there_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    assert!(tail(&directory.path().join("log"), 3).is_empty());
    assert!(read(&directory.path().join("log"), &Options::default()).is_empty());
}

#[test]
fn last_records_across_files() {
    let directory = written(Limits { max_size: 300, max_files: 1000 }, 100);
    for count in [0, 1, 3, 4, 5, 50, 99, 100] {
        let texts = tail(directory.path(), count);
        let expected: Vec<String> = (100 - count..100).map(|line| line.to_string()).collect();
        assert_eq!(texts, expected);
    }
    assert_eq!(tail(directory.path(), u64::MAX).len(), 100);
}

#[test]
fn torn_and_hostile_lines_do_not_count() {
    let directory = written(LARGE, 3);
    let path = file(directory.path(), 1);
    let mut log = fs::OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(b"{\"log\":\"torn\n\n}\n{\n").unwrap();
    log.write_all(&vec![b'x'; 3 * MAX_ENCODED]).unwrap();
    log.write_all(b"\n").unwrap();
    drop(log);
    let mut writer = Writer::new(directory.path(), LARGE);
    writer.push(Stream::Stdout, b"last\n");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"log\":\"half of it").unwrap();
    assert_eq!(tail(directory.path(), 2), ["2", "last"]);
    assert_eq!(read(directory.path(), &Options::default()), ["0", "1", "2", "last"]);
}

#[test]
fn reader_holds_little_of_an_endless_line() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(file(directory.path(), 1), vec![b'x'; 4 << 20]).unwrap();
    let mut reader = Reader::open(directory.path(), &Options::default()).unwrap();
    assert_eq!(reader.next().unwrap(), None);
    assert!(reader.bytes.len() <= MAX_ENCODED + BLOCK);
}

#[test]
fn since_and_until() {
    let directory = written(LARGE, 5);
    let mut reader = Reader::open(directory.path(), &Options::default()).unwrap();
    let times: Vec<i64> = std::iter::from_fn(|| reader.next().unwrap()).map(|record| record.time).collect();
    let between = Options { since: Some(times[1]), until: Some(times[3]), tail: None };
    assert_eq!(read(directory.path(), &between), ["1", "2", "3"]);
    let tailed = Options { tail: Some(2), ..between };
    assert_eq!(read(directory.path(), &tailed), ["3"]);
}

#[test]
fn follower_gets_everything_across_rotations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Writer::new(&path, Limits { max_size: 4000, max_files: 1000 });
            for line in 0..2000 {
                writer.push(Stream::Stdout, format!("{line}\n").as_bytes());
                if line % 500 == 0 {
                    thread::sleep(Duration::from_millis(70));
                }
            }
            drop(writer);
            over.store(true, Ordering::SeqCst);
        });
        let mut reader = Reader::open(&path, &Options::default()).unwrap();
        for line in 0..2000 {
            let record = reader.follow(|| over.load(Ordering::SeqCst)).unwrap().unwrap();
            assert_eq!(record.text, format!("{line}\n"));
        }
        assert_eq!(reader.follow(|| over.load(Ordering::SeqCst)).unwrap(), None);
    });
}

#[test]
fn follower_that_is_overtaken_goes_on_with_what_is_left() {
    let directory = written(LARGE, 1);
    let limits = Limits { max_size: 200, max_files: 2 };
    let mut reader = Reader::open(directory.path(), &Options::default()).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().text, "0\n");
    let mut writer = Writer::new(directory.path(), limits);
    for line in 1..100 {
        writer.push(Stream::Stdout, format!("{line}\n").as_bytes());
    }
    let rest: Vec<_> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    assert_eq!(rest.last().unwrap().text, "99\n");
    assert!(rest.len() < 99);
}

#[test]
fn follower_ends_when_it_is_told_and_at_its_time() {
    let directory = written(LARGE, 2);
    let mut reader = Reader::open(directory.path(), &Options::default()).unwrap();
    assert!(reader.follow(|| true).unwrap().is_some());
    assert!(reader.follow(|| true).unwrap().is_some());
    assert_eq!(reader.follow(|| true).unwrap(), None);
    let until = writer::now() + 100_000_000;
    let mut reader = Reader::open(directory.path(), &Options { until: Some(until), ..Options::default() }).unwrap();
    let begun = Instant::now();
    let count = std::iter::from_fn(|| reader.follow(|| false).unwrap()).count();
    assert_eq!(count, 2);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_file_can_be_read(bytes in prop::collection::vec(prop::sample::select(b"{}\n\"logx".to_vec()), 0..500)) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(file(directory.path(), 1), bytes).unwrap();
        prop_assert!(tail(directory.path(), 3).is_empty());
    }
}
