use proptest::prelude::*;

use super::*;
use crate::{Options, Reader, Record};

const LARGE: Limits = Limits { max_size: 1 << 20, max_files: 3 };

fn read(directory: &Path) -> Vec<Record> {
    let mut reader = Reader::open(directory, &Options::default()).unwrap();
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn texts(directory: &Path) -> Vec<String> {
    read(directory).into_iter().map(|record| record.text).collect()
}

#[test]
fn lines_of_both_streams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut writer = Writer::new(&path, LARGE);
    assert!(!path.exists(), "nothing was written yet");
    writer.push(Stream::Stdout, b"one\ntw");
    writer.push(Stream::Stderr, b"error\n");
    writer.push(Stream::Stdout, b"o\nno end");
    writer.finish();
    assert_eq!(texts(&path), ["one\n", "error\n", "two\n", "no end"]);
    let records = read(&path);
    assert!(records[3].is_partial() && records[1].stream == Stream::Stderr);
    assert!(records.is_sorted_by_key(|record| record.time));
}

#[test]
fn files_are_bounded_in_size_and_number() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { max_size: 1000, max_files: 3 };
    let mut writer = Writer::new(directory.path(), limits);
    for line in 0..200 {
        writer.push(Stream::Stdout, format!("line {line}\n").as_bytes());
    }
    drop(writer);
    assert_eq!(numbers(directory.path()).unwrap().len(), 3);
    for number in numbers(directory.path()).unwrap() {
        assert!(fs::metadata(file(directory.path(), number)).unwrap().len() < 1200);
    }
    let texts = texts(directory.path());
    assert_eq!(texts.last().unwrap(), "line 199\n");
    let first: usize = texts[0].trim().strip_prefix("line ").unwrap().parse().unwrap();
    assert_eq!(texts.len(), 200 - first);
}

#[test]
fn one_push_may_fill_several_files() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), Limits { max_size: 100, max_files: 1000 });
    writer.push(Stream::Stdout, "0123456789\n".repeat(500).as_bytes());
    assert!(numbers(directory.path()).unwrap().len() >= 250);
    assert_eq!(texts(directory.path()).len(), 500);
}

#[test]
fn long_lines_are_cut_between_characters() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), LARGE);
    let line = format!("x{}\n", "é€".repeat(10_000));
    writer.push(Stream::Stdout, line.as_bytes());
    writer.push(Stream::Stdout, b"short\n");
    let records = read(directory.path());
    assert!(records[..records.len() - 2].iter().all(Record::is_partial));
    assert_eq!(records.last().unwrap().text, "short\n");
    let all: String = records[..records.len() - 1].iter().map(|record| record.text.as_str()).collect();
    assert!(all == line, "no character was torn");
}

#[test]
fn torn_line_of_a_crash_is_skipped_and_swallows_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), LARGE);
    writer.push(Stream::Stdout, b"before\n");
    drop(writer);
    let mut file = create(directory.path(), 1).unwrap();
    file.write_all(br#"{"log":"torn"#).unwrap();
    let mut writer = Writer::new(directory.path(), LARGE);
    writer.push(Stream::Stdout, b"after\n");
    assert_eq!(texts(directory.path()), ["before\n", "after\n"]);
}

#[test]
fn what_cannot_be_written_is_counted_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    // A file where the directory should be.
    fs::write(&path, "").unwrap();
    let mut writer = Writer::new(&path, LARGE);
    writer.push(Stream::Stdout, b"1\n2\n");
    writer.push(Stream::Stdout, b"3\n");
    assert_eq!(writer.lost(), 3);
    fs::remove_file(&path).unwrap();
    writer.push(Stream::Stdout, b"4\n");
    assert_eq!(writer.lost(), 0);
    let texts = texts(&path);
    assert!(texts[0].contains("3 records of output are lost"), "{texts:?}");
    assert_eq!(texts[1..], ["4\n"]);
}

#[test]
fn full_disk_tears_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), LARGE);
    writer.push(Stream::Stdout, b"fits\n");
    // As a full disk: this file cannot be written, and what was written stays.
    writer.current.as_mut().unwrap().file = File::open(file(directory.path(), 1)).unwrap();
    writer.push(Stream::Stdout, b"lost\n");
    assert_eq!(writer.lost(), 1);
    writer.push(Stream::Stdout, b"back\n");
    assert_eq!(texts(directory.path()).len(), 3);
}

#[test]
fn memory_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(directory.path(), LARGE);
    writer.push(Stream::Stdout, &vec![1; 1 << 20]);
    writer.push(Stream::Stdout, b"\n");
    assert!(writer.batch.capacity() + writer.stdout.capacity() <= 2 * BATCH);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_byte_of_text_is_there(chunks in prop::collection::vec("[a-z\n\"\\\\é\u{1}]{0,200}", 0..30)) {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(directory.path(), Limits { max_size: 2000, max_files: 10_000 });
        for chunk in &chunks {
            writer.push(Stream::Stdout, chunk.as_bytes());
        }
        drop(writer);
        prop_assert_eq!(texts(directory.path()).concat(), chunks.concat());
    }

    #[test]
    fn any_bytes_are_lines(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..10)) {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(directory.path(), LARGE);
        for chunk in &chunks {
            writer.push(Stream::Stderr, chunk);
        }
        drop(writer);
        let newlines = chunks.concat().iter().filter(|&&byte| byte == b'\n').count();
        let records = read(directory.path());
        prop_assert_eq!(records.iter().filter(|record| !record.is_partial()).count(), newlines);
    }
}
