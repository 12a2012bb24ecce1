//! Further processes, questions, filters.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use guest::{Event, Reply, StdioRequest, Streams};
use protocol::{Capabilities, ExitStatus, Limits, ProcessSpec, Question};

use crate::machine::{Machine, PIPES, SIZE, container, read_all, read_until, sh, spec};

cases!(
    a_thousand_processes,
    hundreds_at_a_time,
    output_that_is_held_open,
    a_privileged_process,
    usage_and_limits,
    process_rows,
    a_process_that_makes_its_readers_wait,
    filters,
    a_filter_that_kills,
    scores,
);

/// A container whose first process sleeps.
fn running() -> Machine {
    let mut machine = Machine::plain();
    let (_, streams) = machine.spawn(sh("echo up; exec sleep 100000"), PIPES).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    machine
}

fn a_thousand_processes() {
    let mut machine = running();
    let memory = |machine: &Machine| -> u64 {
        let status = fs::read_to_string(machine.agent_file("smaps_rollup")).unwrap();
        let dirty = status.lines().filter(|line| line.starts_with("Private_Dirty:"));
        dirty.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
    };
    let descriptors = |machine: &Machine| fs::read_dir(machine.agent_file("fd")).unwrap().count();
    let turn = |machine: &mut Machine, number: usize| {
        let stdio = StdioRequest::Pipes { stdin: number.is_multiple_of(2), stdout: true, stderr: false };
        let (process, streams) = machine.spawn(spec(&["true"]), stdio).unwrap();
        assert_eq!(machine.exit(process), ExitStatus::Code(0));
        drop(streams);
        assert!(matches!(machine.ask(Question::Usage), Reply::Usage(_)));
        if number.is_multiple_of(100) {
            assert!(matches!(machine.ask(Question::Processes), Reply::Processes(_)));
        }
    };
    (0..100).for_each(|number| turn(&mut machine, number));
    let before = (memory(&machine), descriptors(&machine));
    let started = Instant::now();
    (0..1000).for_each(|number| turn(&mut machine, number));
    let after = (memory(&machine), descriptors(&machine));
    println!("  1,000 processes: {} ms; {before:?} -> {after:?} (KiB, descriptors)", started.elapsed().as_millis());
    assert!(after.0 <= before.0 + 64 && after.1 <= before.1, "{before:?} -> {after:?}");
    machine.power_off();
}

/// More than a kernel lets a process have descriptors for if nothing is said.
fn hundreds_at_a_time() {
    let mut machine = running();
    let processes: Vec<_> =
        (0..400).map(|_| machine.session.spawn(&container(), sh("echo up; read x; exit 3"), PIPES).unwrap()).collect();
    let mut streams = Vec::new();
    for _ in &processes {
        match machine.next(|event| matches!(event, Event::Spawned { .. } | Event::SpawnFailed { .. })) {
            Event::Spawned { streams: Streams::Pipes { stdin: Some(stdin), stdout: Some(stdout), .. }, .. } => {
                streams.push((stdin, stdout));
            }
            event => panic!("{event:?}"),
        }
    }
    assert!(matches!(machine.ask(Question::Processes), Reply::Processes(rows) if rows.len() == 401));
    for (stdin, stdout) in &mut streams {
        read_until(stdout, "up\n");
        stdin.write_all(b"\n").unwrap();
    }
    processes.into_iter().for_each(|process| assert_eq!(machine.exit(process), ExitStatus::Code(3)));
    machine.power_off();
}

/// What a process leaves behind does not keep its exit from being told, and no output is lost.
fn output_that_is_held_open() {
    let mut machine = running();
    let started = Instant::now();
    let outcome = machine.shell("sleep 1000 & seq 1 30000; exit 4");
    assert_eq!(outcome.status, ExitStatus::Code(4));
    assert!(outcome.text().ends_with("30000\n") && started.elapsed() > Duration::from_secs(1));
    let spec = sh("sleep 1000 & yes & seq 1 100; exit 5");
    let (process, streams) = machine.spawn(spec, StdioRequest::Terminal { size: SIZE }).unwrap();
    let Streams::Terminal(stream) = streams else { panic!() };
    let reader = read_all(stream);
    assert_eq!(machine.exit(process), ExitStatus::Code(5));
    assert!(reader.join().unwrap().starts_with(b"1\r\n") || started.elapsed() < Duration::from_secs(60));
    // A reader that does not read is waited for.
    let (process, streams) = machine.spawn(sh("seq 1 400000"), PIPES).unwrap();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        machine.turn().unwrap();
    }
    let Streams::Pipes { stdout: Some(stdout), .. } = streams else { panic!() };
    let text = read_all(stdout);
    assert_eq!(machine.exit(process), ExitStatus::Code(0));
    assert!(text.join().unwrap().ends_with(b"\n400000\n"));
    machine.power_off();
}

fn a_privileged_process() {
    let mut machine = running();
    let script = "mkdir -p /tmp/m; mount -t tmpfs none /tmp/m && echo mounted; grep CapEff /proc/self/status";
    let plain = machine.shell(script);
    assert!(!plain.text().contains("mounted") && plain.text().contains("00000000a80425fb"), "{}", plain.text());
    let all = ProcessSpec { capabilities: Capabilities { bounding: u64::MAX }, ..sh(script) };
    let privileged = machine.run(all, vec![]);
    assert!(privileged.text().contains("mounted"), "{}", privileged.text());
    assert!(!privileged.text().contains("00000000a80425fb"), "{}", privileged.text());
}

fn usage_and_limits() {
    let mut machine = running();
    let usage = |machine: &mut Machine| match machine.ask(Question::Usage) {
        Reply::Usage(usage) => usage,
        reply => panic!("{reply:?}"),
    };
    let first = usage(&mut machine);
    machine.shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/tmp/f bs=1M count=4; sync");
    let second = usage(&mut machine);
    assert!(second.cpu > first.cpu && second.at > first.at && second.cpus >= 1, "{first:?} {second:?}");
    assert!(second.cpu >= second.cpu_user && second.memory_limit > 0);
    let limits = Limits { memory: Some(64 << 20), cpu_milli: Some(500), pids: Some(20) };
    if first.memory == 0 {
        // This host's cgroup2 has no controllers: a limit that cannot be set is refused, with its name.
        let reply = machine.ask(Question::SetLimits(limits));
        assert!(matches!(&reply, Reply::Refused(text) if text.contains("memory.max")), "{reply:?}");
        assert_eq!(machine.ask(Question::SetLimits(Limits::default())), Reply::LimitsSet);
        machine.power_off();
        return;
    }
    assert!(first.memory_limit > first.memory && first.pids >= 1 && first.pids_limit == 0, "{first:?}");
    assert_eq!(machine.ask(Question::SetLimits(limits)), Reply::LimitsSet);
    let third = usage(&mut machine);
    assert_eq!((third.memory_limit, third.pids_limit), (64 << 20, 20));
    let forks = machine.shell("i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; wait");
    assert_ne!(forks.status, ExitStatus::Code(0));
    // What is not given stays; the largest number lifts.
    let limits = Limits { memory: None, cpu_milli: Some(u32::MAX), pids: Some(u64::MAX) };
    assert_eq!(machine.ask(Question::SetLimits(limits)), Reply::LimitsSet);
    let fourth = usage(&mut machine);
    assert_eq!((fourth.memory_limit, fourth.pids_limit), (64 << 20, 0));
    machine.power_off();
}

fn process_rows() {
    let mut machine = running();
    let rows = |machine: &mut Machine| match machine.ask(Question::Processes) {
        Reply::Processes(rows) => rows,
        reply => panic!("{reply:?}"),
    };
    let web = ProcessSpec { user: "web".to_owned(), ..sh("sleep 999 & echo $!; wait") };
    let (_, streams) = machine.spawn(web, StdioRequest::Terminal { size: SIZE }).unwrap();
    let Streams::Terminal(mut stream) = streams else { panic!() };
    read_until(&mut stream, "\n");
    let table = rows(&mut machine);
    let [first, shell, sleep] = table.as_slice() else { panic!("{table:?}") };
    assert_eq!((first.pid, first.ppid, first.uid, first.argv.as_slice()), (1, 0, 0, &b"sleep\x00100000\0"[..]));
    assert_eq!((first.user.as_deref(), first.tty.as_str()), (Some("root"), "?"));
    assert_eq!((shell.ppid, shell.uid, shell.user.as_deref(), shell.tty.as_str()), (0, 1000, Some("web"), "pts/0"));
    assert_eq!((sleep.ppid, sleep.argv.as_slice()), (shell.pid, &b"sleep\0999\0"[..]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(first.started.abs_diff(now) < 100 && first.rss > 0 && first.state.is_ascii_uppercase(), "{first:?}");
    // Many, and long ones.
    let (_, streams) = machine.spawn(
        sh("x=$(seq 1 1000); i=0; while [ $i -lt 300 ]; do sh -c 'sleep 500; :' $x & i=$((i+1)); done; echo up; wait"),
        PIPES,
    ).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    let table = rows(&mut machine);
    assert!(table.len() > 300 && table.iter().all(|row| row.argv.len() <= protocol::MAX_ROW_ARGV), "{}", table.len());
    machine.power_off();
}

/// Reading what a stopped or busy process says of itself does not keep anything else waiting.
fn a_process_that_makes_its_readers_wait() {
    let mut machine = running();
    let asked: Vec<_> = (0..20).map(|_| machine.session.processes(&container()).unwrap()).collect();
    assert_eq!(machine.shell("echo alive").text(), "alive\n");
    for request in asked {
        let fits = |event: &guest::Event| matches!(event, guest::Event::Answered { request: r, .. } if *r == request);
        machine.next(fits);
    }
}

/// `if nr == number return errno; return allow`.
fn deny(number: u32, action: u32) -> Vec<u8> {
    let instructions: [(u16, u8, u8, u32); 4] =
        [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, action), (0x06, 0, 0, 0x7fff_0000)];
    let encode = |(code, jt, jf, k): (u16, u8, u8, u32)| {
        [code.to_le_bytes().as_slice(), &[jt, jf], k.to_le_bytes().as_slice()].concat()
    };
    instructions.into_iter().flat_map(encode).collect()
}

const ERRNO_EPERM: u32 = 0x0005_0001;

fn filters() {
    // mkdir is refused, for each kind of process; capset may be, too.
    let script = "mkdir /tmp/denied 2>/dev/null && echo made; grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status";
    let mkdir = deny(83, ERRNO_EPERM);
    for (user, no_new_privileges, init, capabilities) in [
        ("", false, false, "00000000a80425fb"),
        ("", true, false, "00000000a80425fb"),
        ("web", false, false, "0000000000000000"),
        ("web", true, false, "0000000000000000"),
        ("web", false, true, "0000000000000000"),
        ("", false, true, "00000000a80425fb"),
    ] {
        let mut machine = Machine::plain();
        let (user, seccomp) = (user.to_owned(), Some(mkdir.clone()));
        let outcome = machine.run(ProcessSpec { user, no_new_privileges, init, seccomp, ..sh(script) }, vec![]);
        let text = outcome.text();
        assert!(!text.contains("made") && text.contains("Seccomp:\t2"), "{text}");
        assert_eq!(text.matches(capabilities).count(), 2, "{text}");
    }
    for number in [126, 435, 322, 157] {
        // capset, clone3, execveat, prctl: nothing of guest init's is called behind the filter.
        let mut machine = Machine::plain();
        let seccomp = Some(deny(number, ERRNO_EPERM));
        let outcome = machine.run(ProcessSpec { user: "web".to_owned(), seccomp, ..sh("echo ran") }, vec![]);
        assert_eq!(outcome.text(), "ran\n", "{number}");
    }
    let mut machine = Machine::plain();
    let seccomp = Some(deny(435, 0x0005_0026));
    let outcome = machine.run(ProcessSpec { init: true, seccomp, ..sh("echo ran; exit 3") }, vec![]);
    assert_eq!((outcome.text(), outcome.status), ("ran\n", ExitStatus::Code(3)));
    for bad in [vec![], vec![0; 7], vec![0; 8 * 4097], vec![0xff; 8]] {
        let error = Machine::plain().spawn(ProcessSpec { seccomp: Some(bad), ..sh("true") }, PIPES).err();
        let text = format!("{error:?}");
        assert!(text.contains("seccomp filter"), "{text}");
    }
}

fn a_filter_that_kills() {
    let mut machine = running();
    let seccomp = Some(deny(83, 0x8000_0000));
    let outcome = machine.run(ProcessSpec { seccomp, ..spec(&["mkdir", "/tmp/x"]) }, vec![]);
    assert_eq!(outcome.status, ExitStatus::Signal(31));
    // Refused before the program: whatever the filter leaves of it, it is told that it ended.
    let seccomp = Some(deny(59, 0x8000_0000));
    let outcome = machine.run(ProcessSpec { seccomp, ..sh("true") }, vec![]);
    assert_eq!(outcome.status, ExitStatus::Signal(31));
    machine.power_off();
}

fn scores() {
    let mut machine = Machine::plain();
    let with = |oom_score_adj| ProcessSpec { oom_score_adj, ..sh("cat /proc/self/oom_score_adj; cat") };
    let (_, streams) = machine.spawn(with(300), PIPES).unwrap();
    let Streams::Pipes { stdin: Some(mut stdin), stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "300\n");
    assert_eq!(machine.run(with(77), vec![]).text(), "77\n");
    stdin.write_all(b"x").unwrap();
}
