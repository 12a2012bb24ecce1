//! Files of containers that never ran: their disks are made here, as guest init and overlayfs would leave them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::files::{Change, ChangeKind, CommitRequest};
use engine::image::{ImportRequest, LoadSource};
use engine::{ContainerRecord, ContainerState, Engine, Environment, Installation, Settings};
use tempfile::TempDir;

struct Quiet;

impl engine::image::Progress for Quiet {
    fn event(&self, _: engine::image::Event<'_>) {}
}

/// A home with an image and a container of it.
struct Home {
    directory: TempDir,
    engine: Engine,
    image: String,
    containers: u8,
}

fn tar_member(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, content: &[u8], link: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_path(path).unwrap();
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment { home: Some(directory.path().to_owned()), ..Environment::default() };
        let nothing = PathBuf::from("/nonexistent");
        let installation = Installation {
            vmm: nothing.clone(),
            kernel: nothing.clone(),
            initrd: nothing,
            emulator: None,
            file_daemon: None,
        };
        let engine = Engine::open(environment.home().unwrap(), installation, &Settings::default()).unwrap();
        let image = Self::import(&engine);
        Self { directory, engine, image, containers: 0 }
    }

    fn import(engine: &Engine) -> String {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, content, link) in [
            (Directory, "./", "", ""),
            (Directory, "etc/", "", ""),
            (Regular, "etc/keep", "keep\n", ""),
            (Regular, "etc/gone", "gone\n", ""),
            (Regular, "etc/changed", "before\n", ""),
            (Directory, "old/", "", ""),
            (Regular, "old/a", "a\n", ""),
            (Regular, "old/b", "b\n", ""),
            (Directory, "copied/", "", ""),
            (Regular, "copied/same", "same\n", ""),
            (Link, "hard", "", "etc/keep"),
            (Symlink, "link", "", "/old"),
            (Symlink, "loop", "", "loop"),
        ] {
            tar_member(&mut builder, kind, path, content.as_bytes(), link);
        }
        let archive = builder.into_inner().unwrap();
        let request = ImportRequest {
            name: Some("base".to_owned()),
            changes: vec!["ENV A=1".to_owned(), "LABEL kept=yes".to_owned()],
            created: Some(0),
            ..ImportRequest::default()
        };
        let source = LoadSource::Stream(Box::new(std::io::Cursor::new(archive)));
        engine.images().import(source, &request, &Quiet).unwrap().id
    }

    /// A container whose scratch disk is made of a directory's files, and changed by debugfs.
    fn container(&mut self, name: &str, fill: impl FnOnce(&Path), commands: &[&str]) {
        self.containers += 1;
        let id = format!("{:02x}", self.containers).repeat(32);
        let engine_home = self.engine.home().container(&id);
        fs::create_dir_all(&engine_home).unwrap();
        let from = self.directory.path().join(format!("from-{name}"));
        fs::create_dir(&from).unwrap();
        fill(&from);
        let disk = engine_home.join("scratch.ext4");
        fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
        let arguments = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"];
        run("mke2fs", &[&arguments[..], &[from.to_str().unwrap(), disk.to_str().unwrap()]].concat());
        let script = self.directory.path().join("commands");
        fs::write(&script, commands.join("\n") + "\n").unwrap();
        run("debugfs", &["-w", "-f", script.to_str().unwrap(), disk.to_str().unwrap()]);
        let state = state::State::open(&self.engine.home().database()).unwrap();
        let record = ContainerRecord::new(id, name.to_owned(), self.image.clone(), "base".to_owned(), 1);
        assert_eq!(record.state, ContainerState::Created);
        state.insert_container(&record).unwrap();
    }

    fn export(&self, name: &str) -> Vec<String> {
        let mut archive = Vec::new();
        self.engine.export(name, &mut archive).unwrap();
        list(&archive)
    }

    fn diff(&self, name: &str) -> Vec<String> {
        let line = |change: Change| format!("{} {}", change.kind.letter(), change.path.display());
        self.engine.diff(name).unwrap().into_iter().map(line).collect()
    }

    fn layers(&self, image: &str) -> Vec<String> {
        let record = self.engine.images().resolve(image).unwrap();
        record.layers.iter().map(|layer| layer.diff_id.clone()).collect()
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Name, type, and content or target of each member.
fn list(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let member = |member: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut member = member.unwrap();
        let mut content = String::new();
        member.read_to_string(&mut content).unwrap();
        let link = member.link_name().unwrap().map(|link| format!(" -> {}", link.display())).unwrap_or_default();
        let kind = char::from(member.header().entry_type().as_byte());
        format!(
            "{kind} {}{link}{}{content}",
            member.path().unwrap().display(),
            if content.is_empty() { "" } else { " " }
        )
        .trim_end()
        .to_owned()
    };
    archive.entries().unwrap().map(member).collect()
}

/// What overlayfs leaves of: etc/gone deleted, etc/changed written, old made anew with b and c in it, copied only looked
/// at, new files with two names.
fn changed(upper: &Path) {
    for directory in ["upper/etc", "upper/old", "upper/copied", "upper/new/deep", "work"] {
        fs::create_dir_all(upper.join(directory)).unwrap();
    }
    for (path, content) in [
        ("upper/etc/changed", "after\n"),
        ("upper/old/b", "b\n"),
        ("upper/old/c", "c\n"),
        ("upper/new/one", "one\n"),
        ("upper/etc/hosts", ""),
    ] {
        fs::write(upper.join(path), content).unwrap();
    }
    fs::hard_link(upper.join("upper/new/one"), upper.join("upper/new/deep/two")).unwrap();
    std::os::unix::fs::symlink("one", upper.join("upper/new/link")).unwrap();
    let large = fs::File::create(upper.join("upper/new/sparse")).unwrap();
    large.set_len(40 << 20).unwrap();
}

const COMMANDS: [&str; 4] = [
    "cd /upper/etc",
    "mknod gone c 0 0",
    "ea_set /upper/old trusted.overlay.opaque y",
    "ea_set /upper/new user.mark set",
];

#[test]
fn changes_are_those_that_somebody_made() {
    let mut home = Home::new();
    home.container("never-started", |_| (), &[]);
    assert!(home.diff("never-started").is_empty());
    home.container("changed", changed, &COMMANDS);
    let expected = [
        "C /etc",
        "C /etc/changed",
        "D /etc/gone",
        "A /new",
        "A /new/deep",
        "A /new/deep/two",
        "A /new/link",
        "A /new/one",
        "A /new/sparse",
        "C /old",
        "D /old/a",
        "C /old/b",
        "A /old/c",
    ];
    assert_eq!(home.diff("changed"), expected);
    let first = &home.engine.diff("changed").unwrap()[0];
    assert_eq!((first.kind, first.path.as_path()), (ChangeKind::Modified, Path::new("/etc")));
    assert!(home.engine.diff("nobody").is_err());
}

#[test]
fn the_whole_tree_is_exported() {
    let mut home = Home::new();
    home.container("changed", changed, &COMMANDS);
    let found = home.export("changed");
    let expected = [
        "5 copied/",
        "0 copied/same same",
        "5 etc/",
        "0 etc/changed after",
        "0 etc/hosts",
        "0 etc/keep keep",
        "1 hard -> etc/keep",
        "2 link -> /old",
        "2 loop -> loop",
        "5 new/",
        "5 new/deep/",
        "0 new/deep/two one",
        "2 new/link -> one",
        "1 new/one -> new/deep/two",
    ];
    assert_eq!(found[..expected.len()], expected);
    assert!(found[expected.len()].starts_with("0 new/sparse"));
    assert_eq!(found[expected.len() + 1..], ["5 old/", "0 old/b b", "0 old/c c"]);
}

#[test]
fn a_committed_image_is_the_containers_tree() {
    let mut home = Home::new();
    home.container("changed", changed, &COMMANDS);
    let request = CommitRequest {
        reference: Some("committed:1".to_owned()),
        message: "said".to_owned(),
        author: "me".to_owned(),
        changes: vec!["ENV B=2".to_owned(), "CMD [\"x\"]".to_owned()],
        ..CommitRequest::default()
    };
    let id = home.engine.commit("changed", &request).unwrap();
    // The same changes give the same layer.
    let again = home.engine.commit("changed", &CommitRequest::default()).unwrap();
    assert_eq!(home.layers(&id), home.layers(&again));
    assert_eq!(home.layers(&id).len(), 2);

    let images = home.engine.images();
    let record = images.resolve("committed:1").unwrap();
    assert_eq!(record.id, id);
    let found = images.inspect(&record).unwrap();
    assert_eq!((&found.author[..], &found.config["Env"]), ("me", &serde_json::json!(["A=1", "B=2"])));
    assert_eq!(found.config["Labels"]["kept"], "yes");
    assert_eq!(found.config["Cmd"], serde_json::json!(["x"]));
    let history = images.history(&record).unwrap();
    assert_eq!((history.len(), &history[0].comment[..]), (2, "said"));
    assert!(history[0].size > 0 && history[1].size > 0);

    // A new container of it has the old one's tree, but for what was made to be mounted on.
    home.image = id;
    let mut before = home.export("changed");
    before.retain(|line| line != "0 etc/hosts");
    home.container("second", |_| (), &[]);
    let shown = |lines: Vec<String>| lines.into_iter().map(|line| line.trim_end_matches('\0').to_owned());
    // Which of an inode's names comes first is the same.
    assert!(shown(home.export("second")).eq(shown(before)));
    // And nothing changed in it.
    assert!(home.diff("second").is_empty());
    let nothing = home.engine.commit("second", &CommitRequest::default()).unwrap();
    assert_eq!(home.layers(&nothing).len(), 2);
}

#[test]
fn paths_are_looked_up_as_the_container_would() {
    let mut home = Home::new();
    home.container("changed", changed, &COMMANDS);
    let stat = |path: &str| home.engine.stat_path("changed", path).unwrap();
    assert!(stat("/").is_dir() && stat("link/").is_dir() && stat("/old/../link/.").is_dir());
    assert_eq!(stat("/link").link_target.as_deref(), Some(Path::new("/old")));
    assert_eq!(stat("/link/c").size, 2);
    assert_eq!(stat("/new/link").link_target.as_deref(), Some(Path::new("/new/one")));
    assert_eq!(stat("../../etc/keep").name, Path::new("keep"));
    for path in ["/nothing", "/old/a", "/etc/gone", "/etc/keep/x", "/etc/keep/", "/loop/x"] {
        assert!(home.engine.stat_path("changed", path).is_err(), "{path}");
    }
    let copy = |path: &str, follow| {
        let mut archive = Vec::new();
        home.engine.copy_out("changed", path, follow, &mut archive).unwrap();
        list(&archive)
    };
    assert_eq!(copy("/link", false), ["2 link -> /old"]);
    assert_eq!(copy("/link", true), ["5 link/", "0 link/b b", "0 link/c c"]);
    assert_eq!(copy("/old/.", false), ["5 ./", "0 ./b b", "0 ./c c"]);
    assert_eq!(copy("etc/keep", false), ["0 keep keep"]);
    assert_eq!(copy("/new/deep", false), ["5 deep/", "0 deep/two one"]);
}

#[test]
fn disks_that_lie_are_told_of() {
    let mut home = Home::new();
    home.container("loop", changed, &["link /upper/new /upper/new/deep/again", "sif /upper/new links_count 9"]);
    let error = home.engine.diff("loop").unwrap_err().to_string();
    assert!(error.contains("/new/deep/again") && error.contains("two names"), "{error}");
    home.container("redirect", changed, &["ea_set /upper/new trusted.overlay.redirect /etc"]);
    let error = home.engine.export("redirect", &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("/new") && error.contains("elsewhere"), "{error}");
    home.container("mark", |upper| fs::create_dir_all(upper.join("upper/.wh.x")).unwrap(), &[]);
    let error = home.engine.commit("mark", &CommitRequest::default()).unwrap_err().to_string();
    assert!(error.contains(".wh.x"), "{error}");
    home.container("file", |upper| fs::write(upper.join("upper"), "").unwrap(), &[]);
    assert!(home.engine.diff("file").is_err());
    let broken = home.engine.home().container(&"04".repeat(32)).join("scratch.ext4");
    fs::write(&broken, "nothing").unwrap();
    assert!(home.engine.diff("file").unwrap_err().to_string().contains("cannot read the disk of container file"));
    // The container is free again after all that.
    home.engine.remove_container("file", &Default::default()).unwrap();
}
