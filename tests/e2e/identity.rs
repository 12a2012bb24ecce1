//! Who the process is and what it may do: user, environment, capabilities, namespaces, limits.

use e2e::coracle::Coracle;

fn lines(arguments: &[&str]) -> Vec<String> {
    let out = Coracle::shared().run(arguments).expect(0);
    out.text().lines().map(str::to_owned).collect()
}

#[test]
fn user_by_name_comes_from_the_image() {
    assert_eq!(
        lines(&["-u", "alice", "busybox", "id"]),
        ["uid=1000(alice) gid=1000(crew) groups=1000(crew),2000(oars)"]
    );
    assert_eq!(lines(&["-u", "alice", "busybox", "sh", "-c", "echo $HOME"]), ["/home/alice"]);
    assert_eq!(lines(&["-u", "alice:oars", "busybox", "id", "-g"]), ["2000"]);
    assert_eq!(lines(&["-u", "77:88", "busybox", "sh", "-c", "id -u; id -g"]), ["77", "88"]);
}

#[test]
fn unknown_user_is_refused() {
    let _ = Coracle::shared().run(["-u", "nobody-here", "busybox", "true"]).expect(126).says(&["nobody-here"]);
}

#[test]
fn environment_is_the_image_s_then_the_user_s() {
    let out =
        Coracle::shared().run(["-e", "SAIL=red", "-e", "BOAT=mine", "--hostname", "deck", "busybox", "env"]).expect(0);
    for line in ["PATH=/bin:/usr/bin", "SAIL=red", "BOAT=mine", "HOSTNAME=deck", "HOME=/root"] {
        assert!(out.text().lines().any(|l| l == line), "{line} is missing: {}", out.text());
    }
}

#[test]
fn process_is_pid_1_and_alone() {
    assert_eq!(lines(&["busybox", "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'"])[0], "1");
    let processes = lines(&["busybox", "sh", "-c", "ls -d /proc/[0-9]*; true"]);
    assert!(processes.len() <= 2, "{processes:?}");
}

#[test]
fn files_that_docker_gives() {
    let script = "cat /etc/hostname; hostname; grep -c deck /etc/hosts; grep -c localhost /etc/hosts; \
                  test -f /etc/resolv.conf && test -c /dev/null && test -d /dev/shm && test -e /dev/pts/ptmx && \
                  test -L /dev/fd && test -d /sys/fs/cgroup && echo all";
    let out = lines(&["--hostname", "deck", "busybox", "sh", "-c", script]);
    assert_eq!(out[..2], ["deck", "deck"]);
    assert_eq!(out.last().map(String::as_str), Some("all"));
}

#[test]
fn capabilities_are_docker_s() {
    let effective = |arguments: &[&str]| {
        let script = ["busybox", "sh", "-c", "grep CapEff /proc/self/status | cut -f2"];
        lines(&[arguments, &script].concat()).remove(0)
    };
    assert_eq!(effective(&[]), "00000000a80425fb");
    assert_eq!(effective(&["--cap-drop", "ALL"]), "0000000000000000");
    assert_eq!(effective(&["--cap-drop", "ALL", "--cap-add", "NET_RAW"]), "0000000000002000");
    assert_eq!(effective(&["--cap-add", "SYS_ADMIN"]), "00000000a82425fb");
    assert_eq!(effective(&["-u", "alice"]), "0000000000000000");
    assert_eq!(effective(&["--privileged"]), "000001ffffffffff");
}

#[test]
fn no_new_privileges_where_asked() {
    let script = ["busybox", "sh", "-c", "grep NoNewPrivs /proc/self/status | cut -f2"];
    assert_eq!(lines(&script), ["0"]);
    assert_eq!(lines(&[&["--security-opt", "no-new-privileges"], &script[..]].concat()), ["1"]);
}

#[test]
fn kernel_settings_are_read_only_unless_privileged() {
    let _ = Coracle::shared().sh("echo x > /proc/sys/kernel/hostname").expect(1);
    let privileged = [
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "echo x > /proc/sys/kernel/hostname && mount -t tmpfs t /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs t /mnt",
    ];
    let _ = Coracle::shared().run(privileged).expect(0);
}

#[test]
fn limits_hold_inside() {
    assert_eq!(lines(&["--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]), ["123", "456"]);
    assert_eq!(lines(&["--sysctl", "kernel.msgmax=4321", "busybox", "cat", "/proc/sys/kernel/msgmax"]), ["4321"]);
    assert_eq!(lines(&["--cpus", "0.5", "busybox", "cat", "/sys/fs/cgroup/cpu.max"]), ["50000 100000"]);
    assert_eq!(lines(&["--cpus", "2", "busybox", "nproc"]), ["2"]);
}

#[test]
fn memory_is_what_was_asked() {
    let total: u64 = lines(&["-m", "300m", "busybox", "sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"])[0]
        .parse()
        .expect("a number");
    assert!((200_000..=307_200).contains(&total), "MemTotal {total} kB");
}

#[test]
fn init_reaps_ten_thousand_orphans() {
    let script = "in-guest orphans 10000; until [ $(ls -d /proc/[0-9]* | wc -l) -lt 10 ]; do sleep 0.1; done; echo few";
    assert_eq!(lines(&["--init", "busybox", "sh", "-c", script]), ["made 10000", "few"]);
}

#[test]
fn working_directory_is_made() {
    assert_eq!(lines(&["-w", "/deep/er", "busybox", "pwd"]), ["/deep/er"]);
}

#[test]
fn environment_files_are_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "# comment\nOARS=2\nEMPTY=\n").expect("written");
    let path = file.path().to_str().expect("a path");
    assert_eq!(lines(&["--env-file", path, "busybox", "sh", "-c", "echo $OARS; echo ${EMPTY-unset}"]), ["2", ""]);
}

#[test]
fn cidfile_names_the_container() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cid");
    let _ = Coracle::shared().run(["--cidfile", path.to_str().expect("a path"), "busybox", "true"]).expect(0);
    let id = std::fs::read_to_string(path).expect("the file");
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id:?}");
}
