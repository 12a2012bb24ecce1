//! An image of twelve layers that replace, delete and hide what lower ones hold.

use std::sync::OnceLock;

use e2e::coracle::Coracle;
use e2e::fixtures;

fn debian() -> &'static Coracle {
    static HOME: OnceLock<Coracle> = OnceLock::new();
    HOME.get_or_init(|| {
        let coracle = Coracle::new();
        coracle.load(&fixtures::debian());
        coracle
    })
}

#[test]
fn dpkg_lists_its_packages() {
    let out = debian().run(["debian:layers", "dpkg", "-l"]).expect(0);
    assert!(out.text().lines().any(|l| l.starts_with("ii  python3-minimal")), "{}", out.text());
}

#[test]
fn python_runs() {
    let out = debian().run(["debian:layers", "python3", "-c", "print(sum(range(10)))"]).expect(0);
    assert_eq!(out.text(), "45\n");
}

#[test]
fn layers_hide_and_replace() {
    let script = "ls /opt/boat; ls /usr/share/doc; cat /usr/share/doc/only; cat /srv/through; cat /opt/boat/b; \
                  readlink /usr/share/man; stat -c '%u:%g %n' /opt/boat/d; stat -c %a /usr/local/bin/id-setuid; \
                  test -p /opt/fifo && test -c /opt/null && echo nodes; test -e /var/cache/apt || echo gone";
    let out = debian().run(["debian:layers", "sh", "-c", script]).expect(0);
    let expected = "b\nd\nonly\nonly\nthrough\nback/opt/boat\n1234:5678 /opt/boat/d\n4755\nnodes\ngone\n";
    assert_eq!(out.text(), expected);
}

#[test]
fn setuid_programs_change_the_user() {
    let out = debian().run(["-u", "4242", "debian:layers", "/usr/local/bin/id-setuid", "-u"]).expect(0);
    assert_eq!(out.text(), "0\n");
}

#[test]
fn second_load_reads_nothing_again() {
    let coracle = debian();
    let again = coracle.coracle(["load", "-i", fixtures::debian().to_str().expect("a path")]).expect(0);
    assert!(again.took.as_secs() < 30, "{:?}", again.took);
    let images = coracle.coracle(["images", "-q"]).expect(0);
    assert_eq!(images.text().lines().count(), 1, "{}", images.text());
}

#[test]
fn containers_start_without_the_archive() {
    let directory = tempfile::tempdir().expect("a directory");
    let layout = directory.path().join("layout");
    let copied = std::process::Command::new("cp").arg("-a").arg(fixtures::busybox()).arg(&layout).status();
    assert!(copied.expect("cp").success());
    let coracle = Coracle::new();
    coracle.load(&layout);
    std::fs::remove_dir_all(&layout).expect("removed");
    for _ in 0..2 {
        let _ = coracle.run(["busybox", "true"]).expect(0);
    }
}
