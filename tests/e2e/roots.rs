//! The root: shared and read-only below, the container's own above.

use e2e::coracle::Coracle;

#[test]
fn writes_are_gone_in_the_next_container() {
    let shared = Coracle::shared();
    let out = shared.sh("echo mark > /mark; cat /mark; rm /etc/group; ls /etc").expect(0);
    assert!(out.text().starts_with("mark\n") && !out.text().contains("group"), "{}", out.text());
    let out = shared.sh("ls / /etc").expect(0);
    assert!(!out.text().contains("mark") && out.text().contains("group"), "{}", out.text());
}

#[test]
fn read_only_root_takes_no_writes() {
    let shared = Coracle::shared();
    let _ =
        shared.run(["--read-only", "busybox", "sh", "-c", "echo x > /x"]).expect(1).says(&["Read-only file system"]);
    let tmpfs = [
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "busybox",
        "sh",
        "-c",
        "echo x > /scratch/x && df -k /scratch | tail -1",
    ];
    let out = shared.run(tmpfs).expect(0);
    assert!(out.text().contains("1024"), "{}", out.text());
}

#[test]
fn two_containers_of_one_image_at_once_do_not_meet() {
    let script = |name: &str| format!("echo {name} > /who; sync; sleep 3; cat /who");
    std::thread::scope(|scope| {
        let run = |name: &'static str| scope.spawn(move || Coracle::shared().sh(&script(name)).expect(0));
        let (left, right) = (run("left"), run("right"));
        assert_eq!(left.join().expect("left").text(), "left\n");
        assert_eq!(right.join().expect("right").text(), "right\n");
    });
}

#[test]
fn scratch_has_the_size_that_was_asked() {
    let out = Coracle::shared()
        .run(["--storage-opt", "size=200m", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=400 2>&1"])
        .expect(1);
    assert!(out.text().contains("No space left on device"), "{}", out.text());
}

#[test]
fn large_writes_come_back_whole() {
    let script = "dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null; a=$(sha256sum < /big); sync; \
                  echo 3 > /proc/sys/vm/drop_caches; b=$(sha256sum < /big); test \"$a\" = \"$b\" && echo same";
    let out = Coracle::shared().run(["--privileged", "busybox", "sh", "-c", script]).expect(0);
    assert_eq!(out.text(), "same\n");
}
