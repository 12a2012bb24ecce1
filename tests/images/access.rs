//! Registries that do not let everybody in, or that are spoken to over TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use e2e::coracle::{Coracle, finish};
use e2e::registry::{Access, PASSWORD, Registry, Transport, USER, certificates_of};

use crate::samples::Pair;
use crate::tools::{Surroundings, login, oci};

/// Pushes `red` as somebody who may, with skopeo.
fn publish(user: &Surroundings, pair: &Pair, image: &str) {
    let credentials = format!("{USER}:{PASSWORD}");
    let to = format!("docker://{image}");
    user.skopeo_copy(&["--dest-creds", &credentials], &oci(&pair.layout("red"), "red:latest"), &to);
}

/// Refused because of who one is, or is not.
#[track_caller]
fn refused(coracle: &Coracle, arguments: &[&str]) {
    let out = coracle.coracle(arguments);
    assert_eq!(out.code, 1, "{arguments:?}: {}", out.stderr);
    let _ = out.says(&["hint:", "login"]);
}

/// What a user with a password does at any registry that asks for one.
fn logs_in_and_out(access: Access) {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(access, Transport::Plain);
    let image = registry.image("private/red:1");
    publish(&user, &pair, &image);
    let coracle = user.coracle("home");
    refused(&coracle, &["pull", &image]);

    let wrong = coracle.command(["login", "-u", USER, "--password-stdin", &registry.host()]);
    let wrong = finish(wrong, b"not the password");
    assert_eq!(wrong.code, 1, "{}", wrong.stderr);
    let file = user.home().join(".docker/config.json");
    assert!(!file.exists(), "a password that is wrong was kept");

    let out = login(&coracle, &registry).expect(0);
    assert!(out.text().contains("Login Succeeded"), "{}", out.text());
    assert!(!format!("{}{}", out.text(), out.stderr).contains(PASSWORD));
    assert_eq!(fs::metadata(&file).expect("config.json").permissions().mode() & 0o777, 0o600);
    let _ = coracle.coracle(["pull", &image]).expect(0);
    let copy = registry.image("private/copy:1");
    let _ = coracle.coracle(["tag", &image, &copy]).expect(0);
    let _ = coracle.coracle(["push", &copy]).expect(0);
    // skopeo logs in with what we wrote.
    user.raw_manifest(&copy);

    let out = coracle.coracle(["logout", &registry.host()]).expect(0);
    assert!(out.text().contains(&registry.host()), "{}", out.text());
    refused(&coracle, &["pull", &image]);
    refused(&coracle, &["push", &copy]);
}

#[test]
fn password_with_every_request() {
    logs_in_and_out(Access::Basic);
}

#[test]
fn token_from_a_server_beside_the_registry() {
    logs_in_and_out(Access::Token);
}

#[test]
fn token_for_anybody() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(Access::Token, Transport::Plain);
    let image = registry.image("public/red:1");
    publish(&user, &pair, &image);
    let coracle = user.coracle("home");
    let _ = coracle.coracle(["pull", &image]).expect(0);
    refused(&coracle, &["push", &image]);
}

#[test]
fn password_that_podman_keeps() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(Access::Basic, Transport::Plain);
    let image = registry.image("red:1");
    publish(&user, &pair, &image);
    let host = registry.host();
    user.with_store("podman", &["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, &host]);
    assert!(user.path("run/containers/auth.json").exists());
    let coracle = user.coracle("home");
    let _ = coracle.coracle(["pull", &image]).expect(0);

    // And one in a file of its own.
    let file = user.path("work/auth.json");
    fs::rename(user.path("run/containers/auth.json"), &file).expect("moved");
    refused(&coracle, &["pull", &image]);
    let coracle = coracle.with("REGISTRY_AUTH_FILE", &file);
    let _ = coracle.coracle(["pull", &image]).expect(0);
    let _ = coracle.coracle(["logout", &host]).expect(0);
    assert!(!fs::read_to_string(&file).expect("the file").contains(&host));
}

#[test]
fn password_that_a_helper_keeps() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(Access::Basic, Transport::Plain);
    let image = registry.image("red:1");
    publish(&user, &pair, &image);
    let script = "#!/bin/sh\nset -e\ncd \"$HOME\"\ncase $1 in\n  store) cat > kept ;;\n  get) cat > /dev/null; \
                  [ -f kept ] || { echo 'credentials not found in native keychain'; exit 1; }; cat kept ;;\n  \
                  erase) cat > /dev/null; rm -f kept ;;\n  list) echo '{}' ;;\nesac\n";
    let helper = user.path("work/docker-credential-shelf");
    fs::write(&helper, script).expect("written");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::create_dir_all(user.home().join(".docker")).expect("a directory");
    let file = user.home().join(".docker/config.json");
    fs::write(&file, r#"{"credsStore": "shelf", "psFormat": "table {{.ID}}"}"#).expect("written");
    let path = format!("{}:{}", user.path("work").display(), std::env::var("PATH").unwrap_or_default());
    let coracle = user.coracle("home").with("PATH", path);

    refused(&coracle, &["pull", &image]);
    let _ = login(&coracle, &registry).expect(0);
    assert!(fs::read_to_string(user.home().join("kept")).expect("kept").contains(USER));
    let text = fs::read_to_string(&file).expect("config.json");
    assert!(!text.contains("\"auth\"") && text.contains("psFormat"), "{text}");
    let _ = coracle.coracle(["pull", &image]).expect(0);
    let _ = coracle.coracle(["logout", &registry.host()]).expect(0);
    refused(&coracle, &["pull", &image]);
}

#[test]
fn certificate_of_an_authority_of_ones_own() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(Access::Open, Transport::Tls);
    let image = registry.image("red:1");
    publish(&user, &pair, &image);
    let coracle = user.coracle("home");
    let out = coracle.coracle(["pull", &image]);
    assert_eq!(out.code, 1, "a certificate that nobody vouches for");
    let _ = out.says(&["certificate", "certs.d", &registry.host()]);

    registry.authority().install(&certificates_of(&user.home(), &registry), false);
    let _ = coracle.coracle(["pull", &image]).expect(0);
    let copy = registry.image("copy:1");
    let _ = coracle.coracle(["tag", &image, &copy]).expect(0);
    let _ = coracle.coracle(["push", &copy]).expect(0);
    user.raw_manifest(&copy);
}

#[test]
fn registry_for_those_who_show_a_certificate() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let registry = Registry::start(Access::Basic, Transport::ClientTls);
    let image = registry.image("red:1");
    let certificates = certificates_of(&user.home(), &registry);
    let coracle = user.coracle("home");
    let _ = coracle.coracle(pair.load("red")).expect(0);
    let _ = coracle.coracle(["tag", "red", &image]).expect(0);

    registry.authority().install(&certificates, false);
    assert_eq!(login(&coracle, &registry).code, 1, "let in without a certificate");
    registry.authority().install(&certificates, true);
    let _ = login(&coracle, &registry).expect(0);
    let _ = coracle.coracle(["push", &image]).expect(0);
    let _ = user.coracle("another").coracle(["pull", &image]).expect(0);
    // A client that has neither is told no more than before.
    assert_eq!(Surroundings::new().coracle("home").coracle(["pull", &image]).code, 1);
}
