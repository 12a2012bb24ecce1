//! Volumes, and disks that stand still.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use guest::{Event, Reply, Streams};
use protocol::{ContainerConfig, ExitStatus, Question, Tmpfs, VolumeMount};

use crate::image::tool;
use crate::machine::{Machine, PIPES, config, read_until, sh};

cases!(
    a_volume_is_filled_once,
    volumes_within_each_other,
    files_on_top_of_a_volume,
    read_only_volumes,
    volumes_that_cannot_be,
    a_copy_that_was_cut,
    frozen_disks,
    power_off_of_frozen_disks,
    a_thaw_does_not_overtake_its_freeze,
);

fn volume(disk: &str, path: &str) -> VolumeMount {
    VolumeMount { disk: disk.to_owned(), path: path.to_owned(), read_only: false, copy_up: true }
}

fn with(volumes: Vec<VolumeMount>) -> ContainerConfig {
    ContainerConfig { volumes, ..config() }
}

/// What an image may have where a volume goes.
fn content(root: &Path) {
    let data = root.join("data");
    fs::create_dir_all(data.join("sub/deep")).unwrap();
    fs::write(data.join("sub/file"), "from the image").unwrap();
    fs::hard_link(data.join("sub/file"), data.join("sub/deep/same")).unwrap();
    fs::write(data.join("zeros"), vec![0; 1 << 20]).unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    tool("mkfifo", &[data.join("pipe").to_str().unwrap()]);
    tool("setfattr", &["-n", "user.mark", "-v", "here", data.join("sub/file").to_str().unwrap()]);
    chown(data.join("sub/file"), Some(1000), Some(33)).unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::lchown(data.join("link"), Some(5), Some(6)).unwrap();
    chown(&data, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1770)).unwrap();
}

fn boot(serials: &[&str], config: ContainerConfig, change: impl FnOnce(&Path)) -> Machine {
    let mut machine = Machine::boot_with_volumes(serials, change);
    machine.create(config).unwrap();
    machine
}

fn a_volume_is_filled_once() {
    let mut machine = boot(&["v0"], with(vec![volume("v0", "/data")]), content);
    let script = "cd /data; stat -c '%n %F %a %u:%g %h' . sub/file sub/deep/same link pipe zeros; readlink link; \
                  cat sub/file; ls; grep -c ' /data ext4 rw' /proc/mounts";
    let expected = ". directory 1770 1000:1000 3\nsub/file regular file 4711 1000:33 2\nsub/deep/same regular file \
                    4711 1000:33 2\nlink symbolic link 777 5:6 1\npipe fifo 644 0:0 1\nzeros regular file 644 0:0 1\n\
                    /etc/passwd\nfrom the imagelink\npipe\nsub\nzeros\n1\n";
    assert_eq!(machine.shell(script).text(), expected);
    let mut machine = machine.restart();
    let image = machine.directory.path().join("v0.ext4");
    let attributes = tool("debugfs", &["-R", "ea_list /data/sub/file", image.to_str().unwrap()]);
    assert!(attributes.contains("user.mark"), "{attributes}");
    // What was changed stays changed, and what was removed stays removed.
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    machine.shell("cd /data; rm -r sub pipe; echo mine > zeros");
    let mut machine = machine.restart();
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    assert_eq!(machine.shell("cd /data; ls; cat zeros").text(), "link\nzeros\nmine\n");
    // One that was emptied is filled again, as one that was never used.
    let mut machine = machine.restart();
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    machine.shell("rm -r /data/*");
    let mut machine = machine.restart();
    machine.create(with(vec![VolumeMount { copy_up: false, ..volume("v0", "/data") }])).unwrap();
    assert_eq!(machine.shell("ls /data").text(), "");
    let mut machine = machine.restart();
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    assert_eq!(machine.shell("ls /data").text(), "link\npipe\nsub\nzeros\n");
}

fn volumes_within_each_other() {
    let volumes = vec![volume("v1", "/data/sub"), volume("v0", "/data"), volume("v2", "/link/new/deep")];
    let tmpfs = vec![Tmpfs { path: "/data/sub/deep".to_owned(), options: String::new() }];
    let config = ContainerConfig { tmpfs, ..with(volumes) };
    let mut machine = boot(&["v0", "v1", "v2"], config, |root| {
        content(root);
        symlink("../../../srv", root.join("link")).unwrap();
    });
    let outcome = machine.shell(
        "cat /data/sub/file; ls /data/sub; ls /data/sub/deep; stat -c %a /srv/new/deep; echo x > /srv/new/deep/x; \
         cut -d' ' -f2,3 /proc/mounts | grep -E '^/(data|srv)'",
    );
    let expected =
        "from the imagedeep\nfile\n755\n/data ext4\n/data/sub ext4\n/srv/new/deep ext4\n/data/sub/deep tmpfs\n";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(outcome.text()), sorted(expected), "{}", outcome.text());
    machine.power_off();
}

/// What the container has of its own in `/etc` is seen there, whatever is mounted at `/etc`.
fn files_on_top_of_a_volume() {
    let script = "cat /etc/hostname /etc/hosts; head -c 4 /etc/passwd";
    let expected = "coracle-test\n127.0.0.1 localhost\nroot";
    let mut machine = boot(&["v0"], with(vec![volume("v0", "/etc")]), |_| ());
    assert_eq!(machine.shell(script).text(), expected);
    let mut machine = machine.restart();
    machine.create(with(vec![VolumeMount { read_only: true, ..volume("v0", "/etc") }])).unwrap();
    assert_eq!(machine.shell(script).text(), expected);
    machine.power_off();
    let read_only = VolumeMount { read_only: true, ..volume("v0", "/etc") };
    let mut machine = boot(&["v0"], with(vec![read_only]), |_| ());
    assert_eq!(machine.shell("ls /etc").text(), "group\npasswd\n");
    machine.power_off();
}

fn read_only_volumes() {
    let read_only = VolumeMount { read_only: true, ..volume("v0", "/data") };
    let config = ContainerConfig { read_only: true, ..with(vec![read_only.clone(), volume("v1", "/srv")]) };
    let mut machine = boot(&["v0", "v1"], config, content);
    let outcome = machine.shell("cat /data/sub/file; touch /data/x || touch /root/x || touch /srv/x && echo one");
    assert_eq!(outcome.text(), "from the imageone\n");
    // A disk that cannot be written to.
    let machine = machine.restart();
    let mut machine = machine;
    machine.lock("v0");
    machine.create(with(vec![read_only])).unwrap();
    assert_eq!(machine.shell("cat /data/sub/file; touch /data/x || echo refused").text(), "from the imagerefused\n");
    machine.power_off();
}

fn volumes_that_cannot_be() {
    let mut machine = Machine::boot_with_volumes(&["v0"], |_| ());
    for (volume, wanted) in [
        (volume("absent", "/data"), "\"absent\""),
        (volume("root", "/data"), "\"root\""),
        (volume("v0", "data"), "not absolute"),
        (volume("v0", "/etc/passwd"), "/etc/passwd"),
    ] {
        let error = machine.create(with(vec![volume])).unwrap_err();
        assert!(error.contains(wanted), "{wanted}: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    assert_eq!(machine.shell("echo alive").text(), "alive\n");
    machine.power_off();
}

/// A machine that died while a volume was filled has left a part of the copy aside.
fn a_copy_that_was_cut() {
    let machine = boot(&["v0"], with(vec![]), content);
    let image = machine.directory.path().join("v0.ext4");
    for command in ["mkdir data.new", "mkdir data.new/sub", "write /bin/busybox data.new/sub/half"] {
        tool("debugfs", &["-w", "-R", command, image.to_str().unwrap()]);
    }
    let mut machine = machine.restart();
    machine.create(with(vec![volume("v0", "/data")])).unwrap();
    assert_eq!(machine.shell("cd /data; ls; ls sub").text(), "link\npipe\nsub\nzeros\ndeep\nfile\n");
    let machine = machine.restart();
    let listing = tool("debugfs", &["-R", "ls -p /", image.to_str().unwrap()]);
    assert!(listing.contains("/data/") && !listing.contains("data.new"), "{listing}");
    drop(machine);
}

fn frozen_disks() {
    let mut machine = boot(&["v0"], with(vec![volume("v0", "/data")]), |_| ());
    let writer = "echo start > /root/log; echo up; i=0; while :; do i=$((i+1)); echo $i >> /root/log; echo $i >> /data/log; done";
    let (process, streams) = machine.spawn(sh(writer), PIPES).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    for _ in 0..3 {
        assert_eq!(machine.ask(Question::Freeze), Reply::Frozen);
        // The file system is whole, without its journal; and nothing is written to it.
        let path = machine.directory.path();
        for disk in ["scratch", "v0"] {
            let image = path.join(format!("{disk}.ext4"));
            tool("e2fsck", &["-fn", image.to_str().unwrap()]);
            let (before, copy) = (fs::read(&image).unwrap(), path.join("copy.ext4"));
            std::thread::sleep(Duration::from_millis(100));
            fs::write(&copy, &before).unwrap();
            assert!(before == fs::read(&image).unwrap());
            let features = tool("dumpe2fs", &["-h", copy.to_str().unwrap()]);
            assert!(!features.contains("needs_recovery"), "{features}");
        }
        // All that does not write goes on.
        assert_eq!(machine.ask(Question::Freeze), Reply::Frozen);
        assert!(matches!(machine.ask(Question::Usage), Reply::Usage(_)));
        assert!(matches!(machine.ask(Question::Processes), Reply::Processes(rows) if !rows.is_empty()));
        assert_eq!(machine.shell("echo alive; cat /etc/passwd | head -c 4").text(), "alive\nroot");
        assert_eq!(machine.ask(Question::Thaw), Reply::Thawed);
        assert_eq!(machine.ask(Question::Thaw), Reply::Thawed);
        assert_eq!(machine.shell("echo x > /root/x; cat /root/x").text(), "x\n");
    }
    machine.session.signal(process, 9).unwrap();
    assert_eq!(machine.exit(process), ExitStatus::Signal(9));
    machine.power_off();
}

fn power_off_of_frozen_disks() {
    let mut machine = Machine::plain();
    let (_, streams) = machine.spawn(sh("echo up; while :; do echo x >> /root/log; done"), PIPES).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    assert_eq!(machine.ask(Question::Freeze), Reply::Frozen);
    // A process that waits for the disk while it is started.
    let writing = protocol::ProcessSpec { cwd: "/new/directory".to_owned(), ..sh("true") };
    machine.session.spawn(&crate::machine::container(), writing, PIPES).unwrap();
    machine.turn().unwrap();
    assert!(matches!(machine.ask(Question::Usage), Reply::Usage(_)));
    let started = Instant::now();
    machine.power_off();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(
        !matches!(machine.session.progress(), Ok(events) if events.iter().any(|e| matches!(e, Event::Fatal { .. })))
    );
}

fn a_thaw_does_not_overtake_its_freeze() {
    let mut machine = Machine::plain();
    let (_, streams) = machine.spawn(sh("echo up; while :; do echo x >> /root/log; done"), PIPES).unwrap();
    let Streams::Pipes { stdout: Some(mut stdout), .. } = streams else { panic!() };
    read_until(&mut stdout, "up");
    for _ in 0..20 {
        let freeze = machine.session.freeze(&crate::machine::container()).unwrap();
        assert_eq!(machine.ask(Question::Thaw), Reply::Thawed);
        machine.next(|event| matches!(event, Event::Answered { request, .. } if *request == freeze));
        assert_eq!(machine.shell("echo x > /root/x; cat /root/x").text(), "x\n");
    }
    // Neither does one at the end.
    machine.session.freeze(&crate::machine::container()).unwrap();
    machine.power_off();
}
