//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The triple that static binaries are built for: naming it keeps their flags away from build scripts.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Cargo's target directory: what compilers write.
pub(crate) fn cargo_target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |directory| root().join(directory))
}

/// What this program assembles: `target/NAME`, wherever cargo's own target directory may be.
pub(crate) fn output(name: &str) -> PathBuf {
    root().join("target").join(name)
}

/// What all clones share: `$XDG_CACHE_HOME/coracle`, or `~/.cache/coracle`.
pub(crate) fn cache() -> PathBuf {
    let named = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache =
        named.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"));
    cache.join("coracle")
}

/// The cargo that runs this program, at the workspace's root, free of what it told this program about itself.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            cargo.env_remove(name);
        }
    }
    cargo
}
