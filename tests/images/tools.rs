//! Other people's programs: skopeo, podman, buildah. Their configuration, stores and locks are a test's own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::registry::{PASSWORD, Registry, USER};
use serde_json::Value;
use tempfile::TempDir;

/// A user's environment: a home directory that all programs of a test share, `coracle` included.
pub(crate) struct Surroundings {
    directory: TempDir,
}

impl Surroundings {
    pub(crate) fn new() -> Self {
        let surroundings = Self { directory: TempDir::with_prefix("coracle-user-").expect("a temporary directory") };
        for name in ["home/.config/containers", "run", "tmp", "work"] {
            fs::create_dir_all(surroundings.path(name)).expect("a directory");
        }
        // Who has no policy may use no image.
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(surroundings.path("home/.config/containers/policy.json"), policy).expect("written");
        surroundings
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `$HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A `coracle` of this user, with an empty home of its own for images.
    pub(crate) fn coracle(&self, name: &str) -> e2e::coracle::Coracle {
        let coracle = e2e::coracle::Coracle::at(&self.path(name));
        let coracle = coracle.with("HOME", self.home()).with("XDG_RUNTIME_DIR", self.path("run"));
        ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"].iter().fold(coracle, |c, name| c.with(name, ""))
    }

    /// A `coracle` that keeps layers as they come.
    pub(crate) fn keeping_coracle(&self, name: &str) -> e2e::coracle::Coracle {
        let coracle = self.coracle(name);
        fs::create_dir_all(coracle.home()).expect("a directory");
        fs::write(coracle.home().join("settings.json"), r#"{"keep_blobs": true}"#).expect("written");
        coracle
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.home()).env("XDG_RUNTIME_DIR", self.path("run")).env("TMPDIR", self.path("tmp"));
        for name in ["REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "CONTAINERS_CONF"] {
            command.env_remove(name);
        }
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    /// Runs a program, which must succeed; gives back its standard output without the last newline.
    #[track_caller]
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        let out = command.output().unwrap_or_else(|e| panic!("{program}: {e}; `cargo xtask setup` installs it"));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{command:?}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
        text.trim_end().to_owned()
    }

    /// `skopeo copy`, without TLS unless the registry has it.
    #[track_caller]
    pub(crate) fn skopeo_copy(&self, options: &[&str], from: &str, to: &str) {
        let fixed = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
        self.run("skopeo", fixed.iter().chain(options).copied().chain([from, to]));
    }

    /// The bytes of the manifest of an image in a registry.
    #[track_caller]
    pub(crate) fn raw_manifest(&self, image: &str) -> String {
        let mut command = self.command("skopeo");
        command.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{image}")]);
        let out = command.output().expect("skopeo");
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("a manifest is text")
    }

    /// `podman` or `buildah` with a store of the test's own, which needs neither a daemon nor a mount.
    #[track_caller]
    pub(crate) fn with_store(&self, program: &str, arguments: &[&str]) -> String {
        let [root, runroot] = [self.path("storage"), self.path("run/storage")];
        let mut all = vec!["--root", root.to_str().expect("text"), "--runroot", runroot.to_str().expect("text")];
        all.extend(["--storage-driver", "vfs"]);
        if program == "podman" {
            all.extend(["--events-backend", "file", "--cgroup-manager", "cgroupfs"]);
        }
        all.extend(arguments);
        self.run(program, all)
    }
}

/// What a `coracle` says of an image.
#[track_caller]
pub(crate) fn inspected(coracle: &e2e::coracle::Coracle, image: &str) -> Value {
    let out = coracle.coracle(["image", "inspect", image]).expect(0);
    let value: Value = serde_json::from_str(out.text()).expect("JSON");
    value[0].clone()
}

/// Says who one is at a registry, on standard input.
#[track_caller]
pub(crate) fn login(coracle: &e2e::coracle::Coracle, registry: &Registry) -> e2e::coracle::Output {
    let command = coracle.command(["login", "-u", USER, "--password-stdin", &registry.host()]);
    e2e::coracle::finish(command, PASSWORD.as_bytes())
}

/// A layout in a directory as skopeo names it.
pub(crate) fn oci(layout: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", layout.display())
}
