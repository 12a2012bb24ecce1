//! The rules of the house as tests: ranks, `unsafe`, licences.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().expect("cargo metadata")
}

/// The rank table of `crates/README.md`.
fn ranks() -> BTreeMap<String, u8> {
    let text = fs::read_to_string(root().join("crates/README.md")).expect("crates/README.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let rank = cells.next()?.parse().ok()?;
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), rank))
    });
    rows.collect()
}

fn crates_of(metadata: &Metadata) -> Vec<&Package> {
    let crates = root().join("crates");
    metadata.workspace_packages().into_iter().filter(|p| p.manifest_path.starts_with(&crates)).collect()
}

#[test]
fn every_crate_has_a_rank_and_every_rank_a_crate() {
    let metadata = metadata();
    let named: BTreeSet<String> = ranks().into_keys().collect();
    let present: BTreeSet<String> = crates_of(&metadata).iter().map(|p| p.name.to_string()).collect();
    assert_eq!(named, present, "the table in crates/README.md and the folders under crates/ differ");
}

#[test]
fn crates_depend_only_on_lower_ranks() {
    let metadata = metadata();
    let ranks = ranks();
    let mut wrong = Vec::new();
    for package in crates_of(&metadata) {
        for dependency in &package.dependencies {
            let (Some(own), Some(other)) = (ranks.get(package.name.as_str()), ranks.get(&dependency.name)) else {
                continue;
            };
            if other >= own || dependency.name == "vmm" {
                wrong.push(format!("{} (rank {own}) -> {} (rank {other})", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that the ranks forbid: {wrong:#?}");
}

#[test]
fn guest_init_depends_on_protocol_alone() {
    let metadata = metadata();
    let ranks = ranks();
    let package = metadata.packages.iter().find(|p| p.name.as_str() == "guest-init").expect("guest-init");
    let shipped = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
    let ours: Vec<&str> = shipped.map(|d| d.name.as_str()).filter(|name| ranks.contains_key(*name)).collect();
    assert_eq!(ours, ["protocol"]);
}

#[test]
fn directory_names_are_package_names() {
    for package in crates_of(&metadata()) {
        let directory = package.manifest_path.parent().and_then(|d| d.file_name()).expect("a crate's directory");
        assert_eq!(directory, package.name.as_str());
    }
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for part in ["crates", "guest-init", "tests", "xtask"] {
        rust_files(&root().join(part), &mut files);
    }
    files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("a source file"))).collect()
}

#[test]
fn modules_that_opt_in_to_unsafe_say_why() {
    let opt_in = concat!("allow(", "unsafe_code)");
    let silent: Vec<PathBuf> = all_sources()
        .into_iter()
        .filter(|(_, text)| text.contains(opt_in) && !text.contains(concat!("// UNSAFE", "TY:")))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "modules that use unsafe code without an UNSAFETY comment: {silent:#?}");
}

#[test]
fn every_package_inherits_the_workspace_lints() {
    for package in metadata().workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not inherit the lints", package.name);
    }
}

#[test]
fn licences_of_all_dependencies_are_allowed() {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let allowed: BTreeSet<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("allow = ["))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .map(|line| line.trim().trim_matches(|c| c == '"' || c == ','))
        .collect();
    let ok = |expression: &str| {
        expression
            .replace('/', " OR ")
            .replace(['(', ')'], "")
            .split(" AND ")
            .all(|all| all.split(" OR ").any(|one| allowed.contains(one.trim())))
    };
    let wrong: Vec<String> = metadata()
        .packages
        .iter()
        .filter(|p| p.source.is_some() && !p.license.as_deref().is_some_and(ok))
        .map(|p| format!("{}: {:?}", p.name, p.license))
        .collect();
    assert!(wrong.is_empty(), "licences that deny.toml does not allow: {wrong:#?}");
}
