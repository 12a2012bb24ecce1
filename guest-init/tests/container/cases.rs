//! What guest init promises.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use guest::{Event, StdioRequest, Streams};
use protocol::{ExitStatus, Rlimit, SpawnError, TerminalSize, Tmpfs};

use crate::machine::{Machine, PIPES, SIZE, config, read_all, read_until, sh, spec};

cases!(
    hello,
    endings,
    refusals,
    world,
    privileged_world,
    read_only_root,
    hostile_image,
    directory_in_place_of_a_file,
    users,
    bulk_both_ways,
    odd_streams,
    terminal,
    init_reaps_and_forwards,
    own_init_is_the_program,
    second_process,
    mounts_and_sysctls,
    failed_set_up,
    power_off_with_everything_running,
    malformed_frame,
    lost_host,
    slow_reader,
);

fn hello() {
    let mut machine = Machine::plain();
    let outcome = machine.shell("echo out; echo err >&2; exit 42");
    assert_eq!((outcome.text(), outcome.stderr.as_slice()), ("out\n", &b"err\n"[..]));
    assert_eq!(outcome.status, ExitStatus::Code(42));
    machine.power_off();
}

fn endings() {
    for (script, status) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 255", ExitStatus::Code(255)),
        // PID 1 cannot kill itself; its child can.
        ("sh -c 'kill -TERM $$'; exit $?", ExitStatus::Code(143)),
    ] {
        assert_eq!(Machine::plain().shell(script).status, status, "{script}");
    }
    let mut machine = Machine::plain();
    let (process, _streams) = machine.spawn(sh("echo x; sleep 1000"), PIPES).unwrap();
    // PID 1 without a handler ignores it, as in Docker.
    machine.session.signal(process, 15).unwrap();
    thread::sleep(Duration::from_millis(100));
    machine.session.signal(process, 9).unwrap();
    assert_eq!(machine.exit(process), ExitStatus::Signal(9));
    assert!(machine.session.signal(process, 9).is_err());
}

fn refusals() {
    let refuse = |spec| {
        let mut machine = Machine::plain();
        let error = machine.spawn(spec, PIPES).err();
        assert!(machine.agent_lives());
        error.unwrap()
    };
    let with_user = |user: &str| protocol::ProcessSpec { user: user.to_owned(), ..sh("true") };
    let with_cwd = |cwd: &str| protocol::ProcessSpec { cwd: cwd.to_owned(), ..sh("true") };
    for command in ["absent", "/bin/absent", "/bin/sh/x", "", "orphaned-script"] {
        assert!(matches!(refuse(spec(&[command])), SpawnError::NotFound(_)), "{command}");
    }
    assert!(matches!(refuse(spec(&[])), SpawnError::NotFound(_)));
    for command in ["/bin/plain", "plain", "/bin", "broken"] {
        assert!(matches!(refuse(spec(&[command])), SpawnError::NotExecutable(_)), "{command}");
    }
    for user in ["nobody", "4294967296", "0:nogroup"] {
        assert!(matches!(refuse(with_user(user)), SpawnError::UnknownUser(_)), "{user}");
    }
    for cwd in ["/etc/passwd", "relative", "/proc/self/fd/3"] {
        assert!(matches!(refuse(with_cwd(cwd)), SpawnError::WorkingDirectory(_)), "{cwd}");
    }
    let nul = protocol::ProcessSpec { env: vec![b"A=\0".to_vec()], ..sh("true") };
    assert!(matches!(refuse(nul), SpawnError::Other(text) if text.contains("NUL")));
    let huge = protocol::ProcessSpec { argv: vec![b"true".to_vec(), vec![b'x'; 2 << 20]], ..sh("") };
    assert!(matches!(refuse(huge), SpawnError::NotExecutable(text) if text.contains("too long")));
    let init = protocol::ProcessSpec { init: true, ..spec(&["broken"]) };
    assert!(matches!(refuse(init), SpawnError::NotExecutable(_)));
}

fn world() {
    let mut machine = Machine::plain();
    let outcome = machine.shell(
        "echo $$; hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; ls /dev | tr '\\n' ' '; echo; \
         stat -c %a:%t:%T /dev/null /dev/tty /dev/random; readlink /dev/fd; readlink /dev/ptmx; \
         grep -E '^(Cap|NoNewPrivs|SigBlk|SigIgn|Seccomp)' /proc/self/status; umask; pwd; ls /proc/self/fd | wc -l; \
         cat /proc/self/oom_score_adj; grep ^0: /proc/self/cgroup; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; env",
    );
    let text = outcome.text();
    for line in [
        "1\ncoracle-test\ncoracle-test\n127.0.0.1 localhost\nnameserver 192.0.2.1\n",
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
        "666:1:3\n666:5:0\n666:1:8\n/proc/self/fd\npts/ptmx\n",
        "SigBlk:\t0000000000000000",
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t0",
        // Three streams and the directory that ls reads.
        "\n0022\n/\n4\n0\n",
        "::/\n0\n0\n",
        "HOME=/root\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}\n{}", String::from_utf8_lossy(&outcome.stderr));
    }
    let mut machine = Machine::plain();
    let text = machine
        .shell(
            "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/x /sys/fs/cgroup/x; do \
             (echo x > $f) 2>/dev/null && echo writable $f; done; echo x > /etc/hosts && cat /etc/hosts; \
             mknod /x b 7 0 && (cat /x >/dev/null 2>&1 || echo no device); cat /proc/mounts",
        )
        .text()
        .to_owned();
    assert!(!text.contains("writable") && text.starts_with("x\n"), "{text}");
    for mount in [
        "overlay / overlay rw,",
        "proc /proc proc rw,nosuid,nodev,noexec",
        "tmpfs /dev tmpfs rw,nosuid",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec",
        "/sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec",
        "proc /proc/sys proc ro,",
        "tmpfs /sys/firmware tmpfs ro,",
    ] {
        assert!(text.contains(mount), "{mount:?} is not in {text}");
    }
    let points = text.lines().filter_map(|line| line.split(' ').nth(1).filter(|point| point.starts_with('/')));
    for point in points {
        let known = ["/dev", "/proc", "/sys", "/etc/"].iter().any(|own| point.starts_with(own));
        assert!(point == "/" || known, "{point} is in sight: {text}");
    }
}

fn privileged_world() {
    let mut machine = Machine::with(protocol::ContainerConfig { privileged: true, ..config() }, |_| ());
    let spec = protocol::ProcessSpec {
        capabilities: protocol::Capabilities { bounding: u64::MAX },
        ..sh(
            "grep CapEff /proc/self/status; grep -E '^(sysfs|cgroup2?) ' /proc/mounts; ls /dev; cat /proc/keys | wc -l; \
              mount -t tmpfs none /tmp && echo mounted",
        )
    };
    let outcome = machine.run(spec, vec![]);
    let text = outcome.text();
    assert!(
        text.contains("sysfs /sys sysfs rw") && text.contains("loop-control") && text.contains("mounted"),
        "{text}"
    );
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapBnd")).unwrap().split_whitespace().nth(1).unwrap();
    assert!(text.contains(&format!("CapEff:\t{own}")), "{text}");
}

fn read_only_root() {
    let config = protocol::ContainerConfig {
        read_only: true,
        tmpfs: vec![Tmpfs { path: "/tmp".to_owned(), options: String::new() }],
        ..config()
    };
    let mut machine = Machine::with(config, |_| ());
    let outcome = machine.shell(
        "(echo x > /root/x) 2>&1; (echo x >> /etc/hosts) 2>&1; cat /etc/hosts; echo t > /tmp/t && cat /tmp/t; \
         echo d > /dev/shm/d && cat /dev/shm/d",
    );
    let text = outcome.text();
    assert!(text.matches("Read-only file system").count() == 2 && text.ends_with("localhost\nt\nd\n"), "{text}");
}

fn hostile_image() {
    let mut machine = Machine::with(config(), |root| {
        symlink("/proc/self/root", root.join("dev")).unwrap();
        symlink("../../../../../..", root.join("proc")).unwrap();
        fs::write(root.join("sys"), "a file").unwrap();
        fs::remove_dir_all(root.join("etc")).unwrap();
        symlink("/bin", root.join("etc")).unwrap();
    });
    let outcome = machine.shell("ls -ld /dev /proc /sys /etc | cut -c1; cat /etc/hostname; ls /bin/hosts 2>&1");
    assert!(outcome.text().starts_with("d\nd\nd\nd\ncoracle-test\n"), "{}", outcome.text());
    assert!(outcome.text().contains("No such file"), "a file was made through the link: {}", outcome.text());

    let mut machine = Machine::with(config(), |root| {
        for name in ["passwd", "group"] {
            fs::remove_file(root.join("etc").join(name)).unwrap();
        }
        crate::image::tool("mkfifo", &[root.join("etc/passwd").to_str().unwrap()]);
        symlink("/proc/self/environ", root.join("etc/resolv.conf")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
    });
    let error = machine.spawn(protocol::ProcessSpec { user: "web".to_owned(), ..sh("true") }, PIPES).err();
    assert!(matches!(error, Some(SpawnError::UnknownUser(text)) if text.contains("not a regular file")));
    assert!(machine.agent_lives());
}

fn directory_in_place_of_a_file() {
    let mut machine = Machine::boot(|root| fs::create_dir(root.join("etc/hosts")).unwrap());
    let error = machine.create(config()).unwrap_err();
    assert!(error.contains("/etc/hosts"), "{error}");
    assert!(machine.agent_lives());
    machine.power_off();
}

fn users() {
    let id = |user: &str, script: &str| {
        let spec = protocol::ProcessSpec { user: user.to_owned(), no_new_privileges: true, ..sh(script) };
        Machine::plain().run(spec, vec![]).text().to_owned()
    };
    let status = "grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status";
    let text = id("web", &format!("id; echo $HOME; echo again > /dev/stdout; {status}"));
    assert!(text.starts_with("uid=1000(web) gid=33(www) groups=33(www),44(extra)\n/srv/web\nagain\n"), "{text}");
    let none = "0000000000000000";
    let sets =
        format!("CapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t00000000a80425fb\nCapAmb:\t{none}\nNoNewPrivs:\t1\n");
    assert!(text.ends_with(&sets), "{text}");
    assert_eq!(id("4000:44", "id; echo $HOME"), "uid=4000 gid=44(extra) groups=44(extra)\n/\n");
    let spec = protocol::ProcessSpec {
        cwd: "/made/for/it".to_owned(),
        rlimits: vec![Rlimit { resource: 7, soft: 100, hard: 200 }],
        additional_groups: vec!["extra".to_owned(), "77".to_owned()],
        ..sh("pwd; ulimit -Sn; ulimit -Hn; id -G")
    };
    assert_eq!(Machine::plain().run(spec, vec![]).text(), "/made/for/it\n100\n200\n0 44 77\n");
}

fn bulk_both_ways() {
    const LENGTH: usize = 100 << 20;
    let input: Vec<u8> = (0..LENGTH).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect();
    let mut machine = Machine::plain();
    let started = std::time::Instant::now();
    let outcome = machine.run(sh("cat; echo done >&2"), input.clone());
    println!("  100 MiB in and out: {} ms", started.elapsed().as_millis());
    assert!(outcome.stdout == input && outcome.stderr == b"done\n");
}

fn odd_streams() {
    // What the process does not read is swallowed.
    let mut machine = Machine::plain();
    let outcome = machine.run(sh("head -c 3; exec <&-; sleep 0.2; echo end"), vec![b'x'; 4 << 20]);
    assert_eq!(outcome.text(), "xxxend\n");
    // Without stdin: the null device.
    let mut machine = Machine::plain();
    let stdio = StdioRequest::Pipes { stdin: false, stdout: true, stderr: false };
    let (process, streams) = machine.spawn(sh("cat; readlink /proc/self/fd/2; echo lost >&2"), stdio).unwrap();
    let Streams::Pipes { stdin: None, stdout: Some(stdout), stderr: None } = streams else { panic!("{streams:?}") };
    let stdout = read_all(stdout);
    assert_eq!(machine.exit(process), ExitStatus::Code(0));
    assert_eq!(stdout.join().unwrap(), b"/dev/null\n");
    // A grandchild that keeps the streams ends with PID 1.
    let mut machine = Machine::plain();
    assert_eq!(machine.shell("sleep 1000 & echo parent").text(), "parent\n");
    // A host that no longer reads ends the writer: PID 1 by an error, for signals it has not asked for do not reach it.
    let mut machine = Machine::plain();
    let (process, streams) = machine.spawn(spec(&["yes"]), PIPES).unwrap();
    drop(streams);
    assert_eq!(machine.exit(process), ExitStatus::Code(1));
}

fn terminal() {
    let mut machine = Machine::plain();
    let script = "stty size; tty; ls -l /dev/console; test -t 0 && test -t 2 && echo terminal; read x; stty size; \
                  trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.1; done";
    let (process, streams) = machine.spawn(sh(script), StdioRequest::Terminal { size: SIZE }).unwrap();
    let Streams::Terminal(mut stream) = streams else { panic!("{streams:?}") };
    let text = read_until(&mut stream, "terminal");
    assert!(text.contains("40 120\r\n/dev/pts/0\r\n") && text.contains("136,"), "{text}");
    machine.session.resize(process, TerminalSize { rows: 10, columns: 20 }).unwrap();
    thread::sleep(Duration::from_millis(100));
    machine.turn().unwrap();
    stream.write_all(b"\n").unwrap();
    let text = read_until(&mut stream, "ready");
    assert!(text.contains("10 20"), "{text}");
    stream.write_all(b"\x03").unwrap();
    read_until(&mut stream, "interrupted");
    let rest = read_all(stream);
    assert_eq!(machine.exit(process), ExitStatus::Code(7));
    rest.join().unwrap();
    // The last words of a terminal are not lost, and a half-close is no end.
    let mut machine = Machine::plain();
    let spec = sh("seq 1 20000");
    let (process, streams) = machine.spawn(spec, StdioRequest::Terminal { size: SIZE }).unwrap();
    let Streams::Terminal(stream) = streams else { panic!("{streams:?}") };
    stream.shutdown(Shutdown::Write).unwrap();
    let text = String::from_utf8(read_all(stream).join().unwrap()).unwrap();
    assert!(text.starts_with("1\r\n2\r\n") && text.ends_with("20000\r\n"), "{}", text.len());
    assert_eq!(machine.exit(process), ExitStatus::Code(0));
}

fn init_reaps_and_forwards() {
    let orphans = "i=0; while [ $i -lt 10000 ]; do (true & :); i=$((i+1)); done; sleep 0.3; \
                   grep -l zombie /proc/[0-9]*/status 2>/dev/null | wc -l; echo $$";
    let mut machine = Machine::plain();
    let reaping = protocol::ProcessSpec { init: true, ..sh(orphans) };
    let started = std::time::Instant::now();
    let outcome = machine.run(reaping, vec![]);
    println!("  10,000 orphans: {} ms", started.elapsed().as_millis());
    assert!(outcome.text().starts_with("0\n") && outcome.text() != "0\n1\n", "{}", outcome.text());
    let mut machine = Machine::plain();
    let spec = protocol::ProcessSpec { init: true, ..spec(&["sleep", "1000"]) };
    let (process, _streams) = machine.spawn(spec, PIPES).unwrap();
    machine.session.signal(process, 15).unwrap();
    assert_eq!(machine.exit(process), ExitStatus::Code(143));
}

fn own_init_is_the_program() {
    let mut machine = Machine::plain();
    let spec = protocol::ProcessSpec {
        init: true,
        user: "web".to_owned(),
        env: vec![b"PATH=/bin".to_vec(), b"ODD".to_vec(), b"HOME=/x".to_vec()],
        ..sh("tr '\\0' ' ' < /proc/1/cmdline; id -u; echo $HOME; ls /proc/self/fd | wc -l; exit 3")
    };
    let outcome = machine.run(spec, vec![]);
    assert!(outcome.text().ends_with("\n/x\n4\n") && outcome.text().contains("1000\n"), "{}", outcome.text());
    assert!(outcome.text().starts_with("coracle-container-init "), "{}", outcome.text());
    assert_eq!(outcome.status, ExitStatus::Code(3));
}

fn second_process() {
    let mut machine = Machine::plain();
    let (first, streams) = machine.spawn(sh("echo here > /root/mark; echo up; read x; exit 5"), PIPES).unwrap();
    let Streams::Pipes { stdin: Some(mut stdin), stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    let outcome = machine.shell(
        "cat /root/mark; cat /proc/1/cmdline | tr '\\0' ' '; hostname; ls /proc/self/fd | wc -l; \
                                 cat /proc/self/cgroup; exit 9",
    );
    assert!(outcome.text().starts_with("here\nsh -c"), "{}", outcome.text());
    assert!(outcome.text().ends_with("coracle-test\n4\n") || outcome.text().contains("::/\n"), "{}", outcome.text());
    assert_eq!(outcome.status, ExitStatus::Code(9));
    let error = machine.spawn(spec(&["absent"]), PIPES).err();
    assert!(matches!(error, Some(SpawnError::NotFound(_))));
    let (terminal, streams) = machine.spawn(sh("tty; stty size"), StdioRequest::Terminal { size: SIZE }).unwrap();
    let Streams::Terminal(stream) = streams else { panic!() };
    assert_eq!(read_all(stream).join().unwrap(), b"/dev/pts/0\r\n40 120\r\n");
    assert_eq!(machine.exit(terminal), ExitStatus::Code(0));
    // It ends with the first one.
    let (sleeper, _streams) = machine.spawn(spec(&["sleep", "1000"]), PIPES).unwrap();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(machine.exit(first), ExitStatus::Code(5));
    assert_eq!(machine.exit(sleeper), ExitStatus::Signal(9));
    let error = machine.spawn(sh("true"), PIPES).err();
    assert!(matches!(error, Some(SpawnError::Other(text)) if text.contains("has ended")));
    machine.power_off();
}

fn mounts_and_sysctls() {
    let tmpfs = |path: &str, options: &str| Tmpfs { path: path.to_owned(), options: options.to_owned() };
    let config = protocol::ContainerConfig {
        tmpfs: vec![tmpfs("/new/deep", ""), tmpfs("/data", "size=1m,exec"), tmpfs("/link", "mode=0711,ro")],
        sysctls: vec![
            ("net.ipv4.ip_forward".to_owned(), "1".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ],
        ..config()
    };
    let mut machine = Machine::with(config, |root| {
        symlink("/../../../../target", root.join("link")).unwrap();
        fs::create_dir(root.join("target")).unwrap();
    });
    let outcome = machine.shell(
        "stat -c %a /new/deep /data /target; grep -E ' /(new/deep|data|target) ' /proc/mounts; \
         cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced",
    );
    let text = outcome.text();
    for line in [
        "1777\n750\n711\n",
        "/new/deep tmpfs rw,nosuid,nodev,noexec",
        "/data tmpfs rw,nosuid,nodev,relatime,size=1024k",
        "/target tmpfs ro,nosuid,nodev,noexec",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(text.ends_with("1\n1\n"), "{text}");
}

fn failed_set_up() {
    let tmpfs = |path: &str, options: &str| vec![Tmpfs { path: path.to_owned(), options: options.to_owned() }];
    let long = "h".repeat(65);
    let failing = [
        (protocol::ContainerConfig { root_disk: "absent".to_owned(), ..config() }, "\"absent\""),
        (protocol::ContainerConfig { scratch_disk: "root".to_owned(), ..config() }, "scratch disk \"root\""),
        (protocol::ContainerConfig { tmpfs: tmpfs("/tmp", "frob"), ..config() }, "\"frob\""),
        (protocol::ContainerConfig { tmpfs: tmpfs("tmp", ""), ..config() }, "not absolute"),
        (protocol::ContainerConfig { tmpfs: tmpfs("/etc/passwd", ""), ..config() }, "/etc/passwd"),
        (protocol::ContainerConfig { tmpfs: tmpfs("/tmp", "size=frob"), ..config() }, "size"),
        (protocol::ContainerConfig { hostname: long, ..config() }, "host name"),
        (protocol::ContainerConfig { sysctls: vec![("no.such".into(), "1".into())], ..config() }, "no.such"),
        (protocol::ContainerConfig { sysctls: vec![("../kcore".into(), "1".into())], ..config() }, "../kcore"),
    ];
    let mut machine = Machine::boot(|_| ());
    for (config, named) in failing {
        let error = machine.create(config).unwrap_err();
        assert!(error.contains(named), "{named:?} is not in {error:?}");
        // Its process is reaped before the name is free again.
        thread::sleep(Duration::from_millis(50));
    }
    // Nothing of all that stays.
    machine.create(config()).unwrap();
    assert_eq!(machine.shell("echo alive").text(), "alive\n");
    machine.power_off();
}

fn power_off_with_everything_running() {
    let mut machine = Machine::plain();
    let busy = "trap '' TERM; (while :; do dd if=/dev/urandom of=/root/f bs=64k count=64 2>/dev/null; done) & \
                echo kept > /root/kept; sync; echo up; yes";
    let (_process, streams) = machine.spawn(sh(busy), PIPES).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    thread::sleep(Duration::from_millis(200));
    machine.power_off();
    let image = machine.directory.path().join("scratch.ext4");
    let kept = crate::image::tool("debugfs", &["-R", "cat /upper/root/kept", image.to_str().unwrap()]);
    assert_eq!(kept, "kept\n");
}

/// A machine whose control connection is in the test's own hands.
fn raw(send: &[u8]) -> Vec<u8> {
    use std::io::Read;
    use std::os::unix::net::UnixListener;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir(path.join("work")).unwrap();
    fs::write(path.join("cgroups"), "/nowhere").unwrap();
    let listener = UnixListener::bind(path.join(protocol::CONTROL_PORT.to_string())).unwrap();
    let mut agent = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--uts",
            "--ipc",
            "--kill-child",
            "--propagation",
            "private",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg("agent")
        .arg(path)
        .spawn()
        .unwrap();
    let (mut control, _) = listener.accept().unwrap();
    control.write_all(send).unwrap();
    control.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    control.read_to_end(&mut received).unwrap();
    assert!(agent.wait().unwrap().success());
    received
}

fn messages(bytes: &[u8]) -> Vec<protocol::GuestMessage> {
    let mut frames = protocol::FrameBuffer::new();
    frames.extend(bytes);
    let mut messages = Vec::new();
    while let Some(message) = frames.take_message().unwrap() {
        messages.push(message);
    }
    messages
}

fn malformed_frame() {
    for bytes in [&[0, 0, 0, 0][..], &[1, 0, 0, 0, 99], &[255, 255, 255, 255], &[2, 0, 0, 0, 4, 4]] {
        let said = messages(&raw(bytes));
        let [protocol::GuestMessage::Hello(_), protocol::GuestMessage::Fatal { error }] = said.as_slice() else {
            panic!("{bytes:?}: {said:?}")
        };
        assert!(error.contains("frame"), "{error}");
    }
}

fn lost_host() {
    // A connection that ends, also within a frame, ends the machine without another word.
    for bytes in [&[][..], &[9, 0], &[9, 0, 0, 0, 1]] {
        assert_eq!(messages(&raw(bytes)).len(), 1, "{bytes:?}");
    }
}

fn slow_reader() {
    let mut machine = Machine::plain();
    let (_first, streams) = machine.spawn(spec(&["yes"]), PIPES).unwrap();
    // Nobody reads the first one: it stands still, the second one does not, and nothing spins.
    assert_eq!(machine.shell("seq 1 3").text(), "1\n2\n3\n");
    let (before, started) = (machine.agent_ticks(), std::time::Instant::now());
    while started.elapsed() < Duration::from_secs(1) {
        machine.turn().unwrap();
    }
    assert!(machine.agent_ticks() - before <= 2, "the agent is busy while nothing happens");
    drop(streams);
    assert!(matches!(machine.next(|event| matches!(event, Event::Exited { .. })), Event::Exited { .. }));
}
