//! The task that unpacks: what it writes, over what, and what it refuses.

use std::fs;
use std::os::unix::fs::symlink;

use guest::{Reply, Streams};
use protocol::unpack::{Entry, Item, Kind, encode_item};
use protocol::{ExitStatus, ProcessSpec, Question, Task};

use crate::machine::{Machine, Outcome, PIPES, config, read_until, sh};

cases!(
    every_kind_of_entry,
    overwriting,
    entries_that_lead_out,
    streams_that_are_none,
    into_a_container_that_runs,
    as_the_only_process,
);

/// The specification of a task.
fn unpack(directory: &str, no_overwrite_dir_non_dir: bool) -> ProcessSpec {
    ProcessSpec {
        task: Task::Unpack { directory: directory.to_owned(), no_overwrite_dir_non_dir },
        ..Default::default()
    }
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: (1_000_000_000, 5), xattrs: vec![] }
}

fn add(stream: &mut Vec<u8>, entry: Entry) {
    stream.extend(encode_item(&Item::Entry(Box::new(entry))).unwrap());
}

fn file(stream: &mut Vec<u8>, path: &str, content: &[u8]) {
    let size = content.len() as u64;
    add(stream, Entry { mode: 0o644, ..entry(path, Kind::File { size }) });
    stream.extend_from_slice(content);
}

fn end(mut stream: Vec<u8>) -> Vec<u8> {
    stream.extend(encode_item(&Item::End).unwrap());
    stream
}

fn good(outcome: &Outcome) {
    assert_eq!((outcome.status, outcome.stderr.as_slice()), (ExitStatus::Code(0), &b""[..]), "{outcome:?}");
}

/// A container whose first process waits for its input to end.
fn running(config: protocol::ContainerConfig, change: impl FnOnce(&std::path::Path)) -> (Machine, Streams) {
    let mut machine = Machine::with(config, change);
    let (_, streams) = machine.spawn(sh("echo up; cat >/dev/null"), PIPES).unwrap();
    let Streams::Pipes { stdin, stdout: Some(mut stdout), stderr } = streams else { panic!() };
    read_until(&mut stdout, "up");
    (machine, Streams::Pipes { stdin, stdout: Some(stdout), stderr })
}

fn every_kind_of_entry() {
    let (mut machine, _streams) = running(config(), |_| ());
    let mut stream = Vec::new();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    add(&mut stream, Entry { mode: 0o1750, uid: 7, gid: 8, ..entry("dir", Kind::Directory) });
    file(&mut stream, "dir/large", &large);
    file(&mut stream, "dir/empty", b"");
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let xattrs = vec![(b"user.mine".to_vec(), b"value".to_vec()), (b"security.capability".to_vec(), capability)];
    add(&mut stream, Entry { mode: 0o4755, uid: 1000, gid: 33, xattrs, ..entry("dir/suid", Kind::File { size: 3 }) });
    stream.extend_from_slice(b"abc");
    add(&mut stream, Entry { uid: 9, ..entry("dir/link", Kind::Symlink { target: b"/etc/passwd".to_vec() }) });
    add(&mut stream, entry("made/for/it/hard", Kind::Hardlink { target: b"dir/suid".to_vec() }));
    add(&mut stream, Entry { mode: 0o622, gid: 5, ..entry("pipe", Kind::Fifo) });
    add(&mut stream, Entry { mode: 0o600, ..entry("null", Kind::Character { major: 1, minor: 3 }) });
    add(&mut stream, Entry { mode: 0o600, ..entry("disk", Kind::Block { major: 7, minor: 300 }) });
    add(&mut stream, entry("", Kind::Directory));
    good(&machine.run(unpack("/tmp", true), end(stream)));
    let outcome = machine.shell(
        "cd /tmp; for f in dir dir/large dir/empty dir/suid dir/link made/for/it/hard pipe null disk; do \
         stat -c '%n %F %a %u:%g %Y %h %t,%T' $f; done; readlink dir/link; tail -c 4 dir/large | od -An -tu4; \
         cat made/for/it/hard; stat -c %y dir/suid | cut -d. -f2 | cut -c1-9; stat -c '%a' /tmp made",
    );
    let expected = "dir directory 1750 7:8 1000000000 2 0,0
dir/large regular file 644 0:0 1000000000 1 0,0
dir/empty regular empty file 644 0:0 1000000000 1 0,0
dir/suid regular file 4755 1000:33 1000000000 2 0,0
dir/link symbolic link 777 9:0 1000000000 1 0,0
made/for/it/hard regular file 4755 1000:33 1000000000 2 0,0
pipe fifo 622 0:5 1000000000 1 0,0
null character special file 600 0:0 1000000000 1 1,3
disk block special file 600 0:0 1000000000 1 7,12c
/etc/passwd
    2999999
abc000000005
755
755
";
    let text: String = outcome.text().lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&text), squeeze(expected), "{text}");
    machine.power_off();
    let image = machine.directory.path().join("scratch.ext4");
    let attributes = crate::image::tool("debugfs", &["-R", "ea_list /upper/tmp/dir/suid", image.to_str().unwrap()]);
    assert!(attributes.contains("user.mine") && attributes.contains("security.capability"), "{attributes}");
}

fn overwriting() {
    let (mut machine, _streams) = running(config(), |root| {
        fs::create_dir_all(root.join("data/dir/deep/er")).unwrap();
        fs::write(root.join("data/dir/kept"), "kept").unwrap();
        fs::write(root.join("data/file"), "old").unwrap();
        fs::write(root.join("data/target"), "untouched").unwrap();
        symlink("target", root.join("data/link")).unwrap();
        symlink("dir", root.join("data/dirlink")).unwrap();
    });
    // Directories merge, files replace, a link is replaced and not followed, a link on the way is.
    let mut stream = Vec::new();
    add(&mut stream, entry("dir", Kind::Directory));
    file(&mut stream, "file", b"new");
    file(&mut stream, "link", b"no link");
    file(&mut stream, "dirlink/through", b"t");
    good(&machine.run(unpack("/data", true), end(stream)));
    let outcome = machine.shell("cd /data; cat dir/kept file link target dir/through; test -L link || echo; ls dir");
    assert_eq!(outcome.text(), "keptnewno linkuntouchedt\ndeep\nkept\nthrough\n");
    // Not a directory over a file, nor a file over a directory, unless that is asked for.
    for (path, kind) in [("dir", Kind::File { size: 0 }), ("file", Kind::Directory), ("dirlink", Kind::Directory)] {
        let mut stream = Vec::new();
        add(&mut stream, entry(path, kind));
        let outcome = machine.run(unpack("/data", true), end(stream));
        let error = String::from_utf8(outcome.stderr).unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(1));
        assert!(error.contains("cannot overwrite") && error.contains(&format!("/data/{path}")), "{error}");
    }
    let mut stream = Vec::new();
    file(&mut stream, "dir", b"now a file");
    add(&mut stream, entry("file", Kind::Directory));
    good(&machine.run(unpack("/data", false), end(stream)));
    let outcome = machine.shell("cd /data; cat dir; test -d file && echo; readlink dirlink");
    assert_eq!(outcome.text(), "now a file\ndir\n");
    // What is mounted is not taken away.
    let mut stream = Vec::new();
    file(&mut stream, "hosts", b"x");
    let outcome = machine.run(unpack("/etc", true), end(stream));
    assert_eq!(outcome.status, ExitStatus::Code(1), "{outcome:?}");
    machine.power_off();
}

fn entries_that_lead_out() {
    let (mut machine, _streams) = running(config(), |root| {
        symlink("/proc/1/root/..", root.join("data/magic")).unwrap();
        symlink("/proc", root.join("data/proc")).unwrap();
        symlink("../../../../../..", root.join("data/up")).unwrap();
        symlink("loop", root.join("data/loop")).unwrap();
    });
    for (path, directory, wanted) in [
        ("magic/x", "/data", "directory"),
        ("proc/sys/kernel/core_pattern", "/data", "kernel's"),
        ("x", "/sys/fs", "kernel's"),
        ("loop/x", "/data", "directory"),
        ("x", "/absent", "/absent"),
        ("x", "relative", "absolute"),
        ("x", "/etc/passwd", "/etc/passwd"),
    ] {
        let mut stream = Vec::new();
        file(&mut stream, path, b"x");
        let outcome = machine.run(unpack(directory, true), end(stream));
        let error = String::from_utf8(outcome.stderr).unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(1), "{path}: {error}");
        assert!(error.contains(wanted), "{path}: {error}");
    }
    // Up from the root is the root.
    let mut stream = Vec::new();
    file(&mut stream, "up/tmp/inside", b"in");
    good(&machine.run(unpack("/data", true), end(stream)));
    assert_eq!(machine.shell("cat /tmp/inside").text(), "in");
    let mut stream = Vec::new();
    let xattrs = vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    add(&mut stream, Entry { xattrs, ..entry("o", Kind::Directory) });
    assert_eq!(machine.run(unpack("/data", true), end(stream)).status, ExitStatus::Code(1));
    machine.power_off();
}

fn streams_that_are_none() {
    let (mut machine, _streams) = running(config(), |_| ());
    let mut cut = Vec::new();
    file(&mut cut, "cut", &[b'x'; 100]);
    let header = cut.len() - 100;
    let bad: [(Vec<u8>, &str); 7] = [
        (vec![], "too early"),
        (cut.clone(), "too early"),
        (cut[..header + 50].to_vec(), "too early"),
        (cut[..header - 3].to_vec(), "too early"),
        (vec![255; 64], "over the limit"),
        ([end(vec![]), vec![0]].concat(), "behind its end"),
        (vec![1, 0, 0, 0, 9], "malformed"),
    ];
    for (bytes, wanted) in bad {
        let outcome = machine.run(unpack("/tmp", true), bytes);
        let error = String::from_utf8(outcome.stderr).unwrap();
        assert!(outcome.status == ExitStatus::Code(1) && error.contains(wanted), "{wanted}: {error}");
    }
    let paths = ["../x", "/x", "a//b", "a/./b", "a/..", "a/", "."];
    for path in paths.into_iter().chain(["a\0b", &"n".repeat(256)]) {
        let mut stream = Vec::new();
        add(&mut stream, entry(path, Kind::Directory));
        let outcome = machine.run(unpack("/tmp", true), end(stream));
        assert_eq!(outcome.status, ExitStatus::Code(1), "{path:?}");
    }
    machine.power_off();
}

/// It is none of the container's processes, and is not ended by them.
fn into_a_container_that_runs() {
    let (mut machine, _streams) = running(config(), |_| ());
    let (process, streams) = machine.spawn(unpack("/tmp", true), PIPES).unwrap();
    let Reply::Processes(rows) = machine.ask(Question::Processes) else { panic!() };
    assert_eq!(rows.len(), 1, "{rows:?}");
    machine.session.signal(process, 15).unwrap();
    assert_eq!(machine.exit(process), ExitStatus::Signal(15));
    drop(streams);
    machine.power_off();
}

/// A machine that is booted for nothing else.
fn as_the_only_process() {
    let mut machine = Machine::with(protocol::ContainerConfig { read_only: true, ..config() }, |_| ());
    let mut stream = Vec::new();
    file(&mut stream, "dev/shm/x", b"x");
    good(&machine.run(unpack("/", true), end(stream)));
    machine.power_off();
    let mut machine = Machine::plain();
    let mut stream = Vec::new();
    file(&mut stream, "root/copied", b"content");
    good(&machine.run(unpack("/", true), end(stream)));
    machine.power_off();
    let image = machine.directory.path().join("scratch.ext4");
    let copied = crate::image::tool("debugfs", &["-R", "cat /upper/root/copied", image.to_str().unwrap()]);
    assert_eq!(copied, "content");
}
