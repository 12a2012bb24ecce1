//! Files of credentials and the programs beside them, in real directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use registry::{Credentials, CredentialsError, Kept};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Held while programs are written and run: one that is still open for writing in a process that another test just
/// forked cannot be run.
static PROGRAMS: Mutex<()> = Mutex::new(());

/// A program that keeps credentials in a file beside it, and does what its name says.
fn helper(directory: &Path, name: &str, script: &str) {
    let path = directory.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\ncd '{}'\n{script}", directory.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const KEEPS: &str = r#"case $1 in
store) cat > kept ;;
get) read -r key <&0 || true; if [ -e kept ] && grep -q "$key" kept; then cat kept; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm kept ;;
esac"#;

#[test]
fn a_new_file_is_the_owners_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("deep/.docker/config.json");
    let credentials = Credentials::in_file(&path);
    assert_eq!(credentials.store("r.example:5000", "me", "s3cret").unwrap(), Kept::File(path.clone()));
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "{\n\t\"auths\": {\n\t\t\"r.example:5000\": {\n\t\t\t\"auth\": \"bWU6czNjcmV0\"\n\t\t}\n\t}\n}\n"
    );
    assert!(credentials.erase("r.example:5000").unwrap());
    assert!(!credentials.erase("r.example:5000").unwrap());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_link_stays_a_link() {
    let place = tempfile::tempdir().unwrap();
    let (real, link) = (place.path().join("real.json"), place.path().join("config.json"));
    fs::write(&real, r#"{"psFormat":"x"}"#).unwrap();
    symlink(&real, &link).unwrap();
    Credentials::in_file(&link).store("r.example", "me", "s").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let text = fs::read_to_string(&real).unwrap();
    assert!(text.contains("psFormat") && text.contains("r.example"), "{text}");
}

#[test]
fn writers_at_once_lose_nothing() {
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    thread::scope(|scope| {
        for index in 0..16 {
            let credentials = &credentials;
            scope.spawn(move || credentials.store(&format!("r{index}.example"), "me", "s").unwrap());
        }
    });
    for index in 0..16 {
        assert!(credentials.erase(&format!("r{index}.example")).unwrap(), "{index}");
    }
}

#[test]
fn a_malformed_file_is_named_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    fs::write(&path, "{ not json").unwrap();
    let error = Credentials::in_file(&path).store("r.example", "me", "s").unwrap_err();
    assert!(matches!(&error, CredentialsError::Malformed { path: named, .. } if *named == path), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{ not json");
}

#[test]
fn a_directory_in_place_of_the_file_is_named() {
    let place = tempfile::tempdir().unwrap();
    let error = Credentials::in_file(place.path()).store("r.example", "me", "s").unwrap_err();
    assert!(matches!(error, CredentialsError::File { .. }), "{error}");
}

#[test]
fn no_place_is_said() {
    let error = Credentials::anonymous().store("r.example", "me", "s").unwrap_err();
    assert!(matches!(error, CredentialsError::NoPlace));
}

#[test]
fn a_program_keeps_what_the_file_says_it_keeps() {
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    helper(place.path(), "keeps", KEEPS);
    let path = place.path().join("config.json");
    fs::write(&path, r#"{"credsStore":"keeps"}"#).unwrap();
    let credentials = Credentials::in_file(&path).with_helpers_in(place.path());
    assert_eq!(credentials.store("docker.io", "me", "s3cret").unwrap(), Kept::Helper("keeps".into()));
    let kept = fs::read_to_string(place.path().join("kept")).unwrap();
    assert!(kept.contains("https://index.docker.io/v1/") && kept.contains("s3cret"), "{kept}");
    assert!(!fs::read_to_string(&path).unwrap().contains("s3cret"));
    assert!(credentials.erase("docker.io").unwrap());
    assert!(!credentials.erase("docker.io").unwrap());
}

#[test]
fn programs_that_fail_are_named() {
    let _programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    helper(place.path(), "fails", "echo 'locked\x1b[2J'; exit 1");
    let path = place.path().join("config.json");
    let cases =
        [("fails", r"locked\u{1b}[2J"), ("missing", "cannot start"), ("../evil", "letters"), ("a b", "letters")];
    for (name, said) in cases {
        fs::write(&path, format!(r#"{{"credHelpers":{{"r.example":"{name}"}}}}"#)).unwrap();
        let error =
            Credentials::in_file(&path).with_helpers_in(place.path()).store("r.example", "me", "s").unwrap_err();
        assert!(matches!(error, CredentialsError::Helper { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn debug_shows_no_secrets() {
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("c.json"));
    credentials.store("r.example", "me", "s3cret").unwrap();
    assert!(!format!("{credentials:?}").contains("s3cret"));
}
