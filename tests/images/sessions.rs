//! What a user does with images on one host, as in a shell.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use e2e::aftermath::{self, Listed};
use e2e::coracle::{Coracle, finish};
use serde_json::{Value, json};

use crate::samples::Pair;
use crate::tools::inspected;

/// A home with `red` and `blue`.
fn pair_at_home() -> (Pair, Coracle) {
    let (pair, coracle) = (Pair::new(), Coracle::new());
    let _ = coracle.coracle(pair.load("red")).expect(0);
    let _ = coracle.coracle(pair.load("blue")).expect(0);
    (pair, coracle)
}

/// The standard output of a command that succeeds, without the last newline.
#[track_caller]
fn said(coracle: &Coracle, arguments: &[&str]) -> String {
    coracle.coracle(arguments).expect(0).text().trim_end().to_owned()
}

#[test]
fn names_come_and_go() {
    let (_pair, coracle) = pair_at_home();
    assert_eq!(said(&coracle, &["tag", "red", "host.example:5000/boats/red:v1"]), "");
    assert_eq!(said(&coracle, &["tag", "red", "green"]), "");
    let names = said(&coracle, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["blue:latest", "green:latest", "host.example:5000/boats/red:v1", "red:latest"]);

    // A name that another image gets leaves the first.
    let _ = coracle.coracle(["tag", "blue", "green"]).expect(0);
    assert_eq!(inspected(&coracle, "green")["Id"], inspected(&coracle, "blue")["Id"]);
    assert_eq!(said(&coracle, &["rmi", "green"]), "Untagged: green:latest");
    let _ = coracle.coracle(["rmi", "green"]).expect(1).says(&["green"]);

    // One with several names goes by name, or all at once with -f.
    let id = inspected(&coracle, "red")["Id"].as_str().expect("an id").to_owned();
    let _ = coracle.coracle(["rmi", &id]).expect(1).says(&["-f"]);
    let out = said(&coracle, &["rmi", "-f", &id]);
    assert!(out.contains("Untagged: red:latest") && out.contains(&format!("Deleted: {id}")), "{out}");
    let _ = coracle.coracle(["rmi", "blue"]).expect(0);
    assert_eq!(aftermath::leftovers(coracle.home()), Vec::<PathBuf>::new());
}

#[test]
fn names_that_are_none_are_refused() {
    let (_pair, coracle) = pair_at_home();
    for name in ["Red", "red:", "-red", "red@sha256:short", "https://host/red", "a//b", ":tag", "../red", "red:a/b/.."]
    {
        let out = coracle.coracle(["tag", "red", "--", name]);
        assert!(out.code != 0 && !out.stderr.is_empty(), "{name:?} is a name: {}", out.text());
    }
    assert_eq!(aftermath::listed(&coracle).len(), 2);
}

#[test]
fn lists_are_filtered_and_formatted() {
    let (_pair, coracle) = pair_at_home();
    let _ = coracle.coracle(["tag", "red", "host.example/boats/red:v1"]).expect(0);
    let names = |arguments: &[&str]| {
        let mut all = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        all.extend(arguments);
        let mut names: Vec<String> = said(&coracle, &all).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["red"]), ["red:latest"]);
    assert_eq!(names(&["--filter", "reference=host.example/*/*"]), ["host.example/boats/red:v1"]);
    assert_eq!(names(&["-f", "dangling=true"]), [""; 0]);
    assert_eq!(names(&["-f", "label=none"]), [""; 0]);
    let _ = coracle.coracle(["images", "-f", "nonsense=1"]).says(&["nonsense"]);

    let ids = said(&coracle, &["images", "-q", "--no-trunc"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert!(ids.iter().all(|id| id.len() == 71 && id.starts_with("sha256:")), "{ids:?}");
    let row: Value = serde_json::from_str(&said(&coracle, &["images", "--format", "json", "blue"])).expect("JSON");
    assert_eq!((&row["Repository"], &row["Tag"]), (&json!("blue"), &json!("latest")));
    let table = said(&coracle, &["images"]);
    assert!(table.starts_with("REPOSITORY"), "{table}");
    assert!(said(&coracle, &["images", "--digests"]).lines().next().is_some_and(|head| head.contains("DIGEST")));
}

#[test]
fn history_has_a_line_for_each_layer() {
    let (_pair, coracle) = pair_at_home();
    let history = said(&coracle, &["history", "red"]);
    assert_eq!(history.lines().count(), 6, "{history}");
    assert!(history.starts_with("IMAGE"), "{history}");
    let ids = said(&coracle, &["history", "-q", "red"]);
    assert_eq!(ids.lines().filter(|id| *id == "<missing>").count(), 4, "{ids}");
}

#[test]
fn saved_images_are_the_same_when_they_are_loaded() {
    let (_pair, coracle) = pair_at_home();
    let [first, second] = [Coracle::new(), Coracle::new()];
    let saving = |coracle: &Coracle| {
        let mut save = coracle.command(["save", "red", "blue:latest"]);
        save.stdout(Stdio::piped()).spawn().expect("coracle save")
    };
    let mut save = saving(&coracle);
    let mut load = first.command(["load"]);
    load.stdin(save.stdout.take().expect("a pipe"));
    let _ = finish(load, b"").expect(0);
    assert!(save.wait().expect("save").success());
    assert_eq!(aftermath::listed(&first), aftermath::listed(&coracle));

    // What was saved of what was saved is the same file.
    let [one, two] = [&coracle, &first].map(|coracle| coracle.coracle(["save", "red"]).expect(0).stdout);
    assert!(one == two, "two archives of {} and {} bytes", one.len(), two.len());
    let file = coracle.home().join("red.tar");
    let path = file.to_str().expect("text");
    assert_eq!(said(&coracle, &["save", "-o", path, "red"]), "");
    assert!(fs::read(&file).expect("the archive") == one, "the file is another than the stream");
    let _ = second.coracle(["load", "-q", "-i", path]).expect(0);
    assert_eq!(aftermath::listed(&second).len(), 1);
    let _ = second.coracle(["save", "-o", "/nowhere/at/all.tar", "red"]).expect(1).says(&["/nowhere/at/all.tar"]);
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let coracle = Coracle::new();
    let directory = coracle.home().join("root");
    fs::create_dir_all(directory.join("etc")).expect("a directory");
    fs::write(directory.join("etc/motd"), "imported\n").expect("written");
    let archive = coracle.home().join("root.tar");
    let tar = Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).arg(".").status();
    assert!(tar.expect("tar").success());
    let path = archive.to_str().expect("text");
    let changes =
        ["-c", "CMD [\"cat\", \"/etc/motd\"]", "-c", "ENV BOAT=coracle", "-c", "WORKDIR /etc", "-m", "by hand"];
    let mut import = vec!["import"];
    import.extend(changes);
    import.extend([path, "imported:v1"]);
    let id = said(&coracle, &import);
    let image = inspected(&coracle, "imported:v1");
    assert_eq!(image["Id"], id);
    assert_eq!(image["Config"]["Cmd"], json!(["cat", "/etc/motd"]));
    assert_eq!(image["Config"]["WorkingDir"], "/etc");
    assert!(said(&coracle, &["history", "imported:v1"]).contains("by hand"));
    let _ = coracle.coracle(["import", "-c", "RUN true", path]).says(&["RUN"]);
    let stdin = finish(coracle.command(["import", "-", "piped"]), &fs::read(&archive).expect("the archive")).expect(0);
    assert!(stdin.text().starts_with("sha256:"), "{}", stdin.text());
}

#[test]
fn prune_frees_what_it_says() {
    let (pair, coracle) = pair_at_home();
    // The name moves to another image; the first is without one.
    let _ = coracle.coracle(["tag", "blue", "red"]).expect(0);
    let dangling = said(&coracle, &["images", "-q", "-f", "dangling=true"]);
    assert_eq!(dangling.lines().count(), 1);
    let out = said(&coracle, &["image", "prune", "-f"]);
    assert!(out.contains("Deleted Images:") && out.contains("Total reclaimed space:"), "{out}");
    assert_eq!(aftermath::listed(&coracle).len(), 2);

    let out = coracle.coracle(["image", "prune", "--all"]);
    assert_eq!(aftermath::listed(&coracle).len(), 2, "nobody was asked: {}", out.stderr);
    let _ = coracle.coracle(pair.load("red")).expect(0);
    let used = said(&coracle, &["system", "df"]);
    assert!(used.contains("Images"), "{used}");
    let out = said(&coracle, &["system", "prune", "--all", "--force"]);
    assert!(out.contains("Total reclaimed space:"), "{out}");
    assert_eq!(aftermath::listed(&coracle), Listed::new());
    assert_eq!(aftermath::leftovers(coracle.home()), Vec::<PathBuf>::new());
}

#[test]
fn damage_is_found_and_healed() {
    let (pair, coracle) = pair_at_home();
    let whole = aftermath::objects(coracle.home());
    let _ = coracle.coracle(["image", "verify"]).expect(0);
    let mut tried = 0;
    for (path, bytes) in whole.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let file = coracle.home().join("data").join(path);
        for damage in [flipped(bytes), bytes[..bytes.len() - 1].to_vec(), Vec::new()] {
            fs::write(&file, &damage).expect("written");
            let out = coracle.coracle(["image", "verify", "--report-only"]);
            assert_eq!(out.code, 1, "{} is damaged and nobody sees it", path.display());
            assert!(fs::read(&file).expect("the file") == damage, "--report-only changed {}", path.display());
            // Healed at once where something is left to do so, else by what brings the image.
            let _ = coracle.coracle(["image", "verify"]);
            let _ = coracle.coracle(pair.load("red")).expect(0);
            let _ = coracle.coracle(pair.load("blue")).expect(0);
            aftermath::holds(coracle.home(), &whole, &format!("after {} was damaged", path.display()));
            tried += 1;
        }
        fs::remove_file(&file).expect("removed");
        let _ = coracle.coracle(pair.load("red")).expect(0);
        let _ = coracle.coracle(pair.load("blue")).expect(0);
        aftermath::holds(coracle.home(), &whole, &format!("after {} was removed", path.display()));
    }
    let _ = coracle.coracle(["image", "verify"]).expect(0);
    println!("{tried} damages to {} files", whole.len());
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    bytes
}
