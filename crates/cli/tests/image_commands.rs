//! The commands about images on images that the tests make themselves, word for word where the words are ours.
//! `CORACLE_BLESS=1` rewrites the golden files.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A home with an image `one:1` of one file, made of an archive that is always the same.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        let changes = ["-c", "CMD [\"/hello\"]", "-c", "LABEL a=b", "-m", "made", "--platform", "linux/amd64"];
        let out = home.run(&[&["import", "-q"], &changes[..], &["-", "one:1"]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a command that is given the archive as its input.
    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, &archive("hello", b"hello\n"))
    }

    fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(arguments).current_dir(self.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.path()).env("CORACLE_HOME", self.path().join("home"));
        command.env("SOURCE_DATE_EPOCH", "1000000000").env("TZ", "UTC");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        // A command that does not read its input closes it.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        child.wait_with_output().expect("its output")
    }

    /// Standard output of a command that succeeds without a word on standard error.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert!(out.status.success() && out.stderr.is_empty(), "{arguments:?}: {}", text(&out.stderr));
        text(&out.stdout).to_owned()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// A tar archive (ustar) of one file, made in 1970 by root.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0ustar\x0000");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

#[track_caller]
fn golden(name: &str, found: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CORACLE_BLESS").is_some() {
        fs::write(&path, found).expect("the golden file");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} differs; CORACLE_BLESS=1 rewrites it. Now:\n{found}", path.display());
}

/// A session: commands and what they print.
#[track_caller]
fn session(home: &Home, commands: &[&[&str]]) -> String {
    let mut all = String::new();
    for arguments in commands {
        let out = home.run(arguments);
        let code = out.status.code().expect("an exit code");
        all.push_str(&format!("$ coracle {}\n{}{}", arguments.join(" "), text(&out.stdout), text(&out.stderr)));
        all.push_str(&if code == 0 { "\n".to_owned() } else { format!("[exit {code}]\n\n") });
    }
    all
}

#[test]
fn lists() {
    let home = Home::new();
    let columns = r"table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedAt}}\t{{.Size}}";
    let found = session(
        &home,
        &[
            &["tag", "one:1", "registry.example:5000/group/two"],
            &["images", "--format", columns],
            &["images", "--digests", "--no-trunc", "--format", "{{.Repository}} {{.Digest}} {{.ID}}"],
            &["images", "-q"],
            &["images", "-q", "--no-trunc", "one"],
            &["images", "--format", "{{.Repository}}", "registry.example:5000/*/*"],
            &["images", "--format", "{{.Repository}}", "docker.io/library/one"],
            &["images", "-q", "two"],
            &["images", "--format", "{{.Repository}}:{{.Tag}}", "-f", "label=a=b", "-f", "reference=one:*"],
            &["images", "-q", "-f", "dangling=true"],
            &["images", "-q", "-f", "label!=a"],
            &["images", "-q", "-f", "until=2001-01-01"],
            &["images", "--format", "{{.Nothing}}"],
            &["history", "--human=false", "one:1"],
            &["history", "--format", "{{.ID}} {{.CreatedBy}} {{.Comment}}", "one:1"],
            &["image", "inspect", "-f", "{{.Id}} {{json .Config.Cmd}} {{index .Config.Labels \"a\"}}", "one:1"],
            &["inspect", "--type", "image", "-f", "{{range .RepoTags}}{{println .}}{{end}}", "one:1"],
            &["inspect", "-f", "{{.Os}}/{{.Architecture}}", "nobody", "one:1"],
        ],
    );
    golden("session-lists.txt", &found);
}

#[test]
fn removals() {
    let home = Home::new();
    let found = session(
        &home,
        &[
            &["tag", "one:1", "two"],
            &["rmi", "two", "nobody"],
            &["tag", "one:1", "two"],
            &["rmi", "-f", "two", "one:1"],
            &["images", "-q"],
            &["import", "-q", "--platform", "linux/amd64", "-"],
            &["image", "prune", "-f", "--filter", "label=none"],
            &["images", "--format", "{{.Repository}}:{{.Tag}}"],
        ],
    );
    golden("session-removals.txt", &found);
    let freed = home.ok(&["image", "prune", "-f"]);
    assert!(freed.starts_with("Deleted Images:\ndeleted: sha256:"), "{freed}");
    assert!(freed.contains("\nTotal reclaimed space: ") && !freed.ends_with(" 0B\n"), "{freed}");
    assert!(home.ok(&["system", "prune", "-af"]).ends_with("Total reclaimed space: 0B\n"));
    let df = home.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"]);
    assert_eq!(df, "Images 0 0B\nContainers 0 0B\nLocal Volumes 0 0B\nPartial Downloads 0 0B\nLeftovers 0 0B\n");
}

#[test]
fn prune_asks() {
    let home = Home::new();
    let answer = |input: &[u8]| home.run_with_input(&["image", "prune", "-a"], input);
    for no in [&b""[..], b"n\n", b"\n", b"yess\n"] {
        let out = answer(no);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stdout).starts_with("WARNING! This will remove:\n  - all images without a container\n"));
        assert!(text(&out.stderr).contains("nothing was removed"));
    }
    assert!(!home.ok(&["images", "-q"]).is_empty());
    assert!(answer(b"y\n").status.success());
    assert!(home.ok(&["images", "-q"]).is_empty());
}

#[test]
fn saved_and_loaded() {
    let home = Home::new();
    let id = home.ok(&["images", "-q", "--no-trunc"]);
    assert_eq!(home.ok(&["save", "-o", "saved.tar", "one:1"]), "");
    let saved = fs::read(home.path().join("saved.tar")).expect("the archive");
    assert_eq!(home.run(&["save", "one:1"]).stdout, saved, "the same bytes every time");
    home.ok(&["rmi", "one:1"]);
    assert_eq!(home.ok(&["load", "-i", "saved.tar"]), "Loaded image: one:1\n");
    assert_eq!(home.ok(&["images", "-q", "--no-trunc"]), id);
    // Nothing half-written, whatever went wrong.
    let out = home.run(&["save", "-o", "other.tar", "nobody"]);
    assert_eq!(out.status.code(), Some(1));
    let names: Vec<_> = fs::read_dir(home.path()).expect("a list").map(|e| e.expect("an entry").file_name()).collect();
    assert!(names.iter().all(|name| name == "home" || name == "saved.tar"), "{names:?}");
}

#[test]
fn progress_on_standard_error() {
    let home = Home::new();
    let stderr = |how: &str| {
        let out = home.run_with_input(&["import", "--progress", how, "-"], &archive("other", &vec![7; 100_000]));
        assert!(out.status.success() && text(&out.stdout).starts_with("sha256:"));
        text(&out.stderr).to_owned()
    };
    assert_eq!(stderr("auto"), "", "quiet when that is no terminal");
    assert_eq!(stderr("none"), "");
    let lines = stderr("json");
    for line in lines.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        assert!(object["event"].is_string(), "{line}");
    }
    assert_eq!(lines.lines().last(), Some(r#"{"event":"done"}"#));
    assert!(stderr("plain").lines().last().is_some());
}

#[test]
fn verify() {
    let home = Home::new();
    assert!(home.ok(&["image", "verify", "-q"]).ends_with(" whole, 0 healed, 0 damaged\n"));
    let layers = home.path().join("home/data/layers/sha256");
    let layer = fs::read_dir(&layers).expect("layers").next().expect("a layer").expect("an entry").path();
    fs::write(layer.join("packed"), b"HELLO\n").expect("damage");
    let out = home.run(&["image", "verify", "-q", "--report-only"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).starts_with("DAMAGED: layer sha256:"), "{}", text(&out.stdout));
    let out = home.run(&["image", "verify", "-q", "--json", "--report-only", "one:1"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!((out.status.code(), &report["whole"]), (Some(1), &false.into()));
    assert!(report["checks"].as_array().expect("a list").iter().any(|check| check["outcome"] == "damaged"));
    let out = home.run(&["image", "verify", "-q"]);
    assert!(text(&out.stderr).contains("pull or load the images again"), "{}", text(&out.stderr));
}
