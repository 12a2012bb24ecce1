use std::io::{Read, Write};

use proptest::prelude::*;
use rustix::event::poll;

use super::*;

const OWNER: ClientId = ClientId(1);

fn guest() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn pipe_for_writing() -> (io::PipeReader, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    set_nonblocking(writer.as_fd()).unwrap();
    (reader, writer)
}

fn pipe_for_reading() -> (OwnedFd, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    set_nonblocking(reader.as_fd()).unwrap();
    (reader, writer)
}

fn patient(pipe: OwnedFd) -> Sink {
    Sink::new(pipe, OWNER, true)
}

fn advance(output: &mut Output) {
    output.advance(&mut [0; BUFFER], &mut |_| {});
}

/// Drives an output as the keeper does, until it is done.
fn drive(output: &mut Output) -> usize {
    let mut polls = 0;
    let mut buffer = vec![0; BUFFER];
    while !output.is_done() {
        let mut interests = Vec::new();
        output.interests(&mut interests);
        poll(&mut interests, None).unwrap();
        polls += 1;
        output.advance(&mut buffer, &mut |_| {});
    }
    polls
}

fn slow_reader(mut reader: io::PipeReader) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut some = [0; 5000];
        loop {
            match reader.read(&mut some).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&some[..count]),
            }
        }
    })
}

#[test]
fn many_bytes_through_slow_readers() {
    let (ours, mut theirs) = guest();
    let (first, first_pipe) = pipe_for_writing();
    let (second, second_pipe) = pipe_for_writing();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let expected = sent.clone();
    let producer = std::thread::spawn(move || theirs.write_all(&sent).unwrap());
    let (first, second) = (slow_reader(first), slow_reader(second));
    let mut output = Output::new(ours, vec![patient(first_pipe), Sink::new(second_pipe, ClientId(2), false)]);
    let polls = drive(&mut output);
    assert!(polls < 3_000_000 / 256, "{polls} polls are a busy loop");
    assert_eq!(output.moved(), 3_000_000);
    drop(output);
    producer.join().unwrap();
    assert!(first.join().unwrap() == expected && second.join().unwrap() == expected);
}

#[test]
fn output_without_a_reader_is_dropped_and_the_guest_goes_on() {
    let (ours, mut theirs) = guest();
    let (reader, writer) = pipe_for_writing();
    drop(reader);
    let producer = std::thread::spawn(move || theirs.write_all(&vec![1; 1 << 20]).unwrap());
    let mut output = Output::new(ours, vec![patient(writer)]);
    drive(&mut output);
    producer.join().unwrap();
    assert_eq!(output.moved(), 1 << 20);
}

#[test]
fn reader_that_is_stuck_is_let_go_and_the_others_lose_nothing() {
    let (ours, mut theirs) = guest();
    let (good, good_pipe) = pipe_for_writing();
    let (_stuck, stuck_pipe) = pipe_for_writing();
    let good = slow_reader(good);
    let mut output = Output::new(ours, vec![patient(good_pipe), Sink::new(stuck_pipe, ClientId(2), false)]);
    let producer = std::thread::spawn(move || theirs.write_all(&vec![1; 1 << 20]).unwrap());
    let mut buffer = vec![0; BUFFER];
    while output.sinks.iter().all(|sink| sink.taken == 0) || !output.is_held_up() {
        output.advance(&mut buffer, &mut |_| {});
    }
    assert!(output.deadline().unwrap() > Instant::now());
    // Its patience is over.
    for sink in output.sinks.iter_mut().filter(|sink| !sink.patient) {
        sink.moved = sink.moved.checked_sub(PATIENCE).unwrap();
    }
    advance(&mut output);
    assert_eq!(output.sinks.len(), 1);
    drive(&mut output);
    drop(output);
    producer.join().unwrap();
    assert_eq!(good.join().unwrap().len(), 1 << 20);
}

#[test]
fn late_reader_gets_what_comes_from_now_on() {
    let (ours, mut theirs) = guest();
    let mut output = Output::new(ours, Vec::new());
    theirs.write_all(b"before").unwrap();
    advance(&mut output);
    let (mut reader, writer) = pipe_for_writing();
    output.add(Sink::new(writer, OWNER, false));
    theirs.write_all(b"after").unwrap();
    advance(&mut output);
    output.remove(OWNER);
    theirs.write_all(b"too late").unwrap();
    advance(&mut output);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "after");
}

#[test]
fn everything_is_seen_once_by_whoever_keeps_it() {
    let (ours, mut theirs) = guest();
    let (_reader, writer) = pipe_for_writing();
    let mut output = Output::new(ours, vec![patient(writer)]);
    let producer = std::thread::spawn(move || theirs.write_all(&vec![7; 200_000]).unwrap());
    let mut seen = 0;
    let mut buffer = vec![0; BUFFER];
    // The pipe takes 64 KiB and nobody reads it: held up after that.
    while !output.is_held_up() {
        output.advance(&mut buffer, &mut |bytes| seen += bytes.len() as u64);
    }
    assert_eq!(seen, output.moved());
    output.detach();
    while !output.is_done() {
        output.advance(&mut buffer, &mut |bytes| seen += bytes.len() as u64);
    }
    assert_eq!(seen, 200_000);
    producer.join().unwrap();
}

#[test]
fn closed_output_reaches_the_guest() {
    let (ours, mut theirs) = guest();
    let mut output = Output::new(ours, Vec::new());
    output.close();
    assert!(output.is_done());
    assert_eq!(theirs.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn end_of_the_launchers_input_is_a_half_close() {
    let (ours, mut theirs) = guest();
    let (reader, mut writer) = pipe_for_reading();
    let mut input = Input::new(ours, false, vec![Source::new(reader, OWNER, true)]);
    writer.write_all(b"last words").unwrap();
    drop(writer);
    input.advance(&mut [0; 5]);
    let mut text = String::new();
    theirs.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

#[test]
fn input_comes_from_all_and_ends_with_none_of_them() {
    let (ours, mut theirs) = guest();
    let mut input = Input::new(ours, false, Vec::new());
    for owner in [1, 2] {
        let (reader, mut writer) = pipe_for_reading();
        input.add(Source::new(reader, ClientId(owner), false));
        writer.write_all(b"abc").unwrap();
    }
    input.advance(&mut [0; BUFFER]);
    input.advance(&mut [0; BUFFER]);
    let mut bytes = [0; 6];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcabc");
    assert!(input.sources.is_empty() && input.guest.is_some());
}

#[test]
fn input_that_nobody_reads_waits_without_spinning() {
    let (ours, _theirs) = guest();
    let (reader, mut writer) = pipe_for_reading();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut input = Input::new(ours, false, vec![Source::new(reader, OWNER, true)]);
    for _ in 0..1000 {
        while writer.write(&[7; 4096]).is_ok() {}
        input.advance(&mut [0; BUFFER]);
    }
    assert!(!input.kept.is_empty());
    let mut interests = Vec::new();
    input.interests(&mut interests);
    assert_eq!(poll(&mut interests, Some(&rustix::event::Timespec::default())).unwrap(), 0);
}

proptest! {
    #[test]
    fn bytes_arrive_in_order(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20)) {
        let (ours, mut theirs) = guest();
        let (mut reader, writer) = pipe_for_writing();
        let mut output = Output::new(ours, vec![patient(writer)]);
        for chunk in &chunks {
            theirs.write_all(chunk).unwrap();
            advance(&mut output);
        }
        drop(theirs);
        drive(&mut output);
        drop(output);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        prop_assert_eq!(all, chunks.concat());
    }
}
