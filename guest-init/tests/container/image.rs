//! Images and scratch disks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a tool that has to be there.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A root tree with busybox, users, and what the test program itself needs to run inside.
pub(crate) fn tree(directory: &Path) -> PathBuf {
    let root = directory.join("tree");
    for path in ["bin", "etc", "tmp", "root", "srv/web", "data"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a static busybox is needed");
    for applet in tool("busybox", &["--list"]).lines() {
        let _ = symlink("busybox", root.join("bin").join(applet));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:33::/srv/web:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:33:\nextra:x:44:web\n").unwrap();
    fs::write(root.join("bin/broken"), "\x7fELF nonsense").unwrap();
    fs::write(root.join("bin/orphaned-script"), "#!/no/such/interpreter\n").unwrap();
    for name in ["broken", "orphaned-script"] {
        fs::set_permissions(root.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(root.join("bin/plain"), "text").unwrap();
    fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o750)).unwrap();
    copy_libraries(&root);
    root
}

/// The container's own init is this test program, which is not static.
fn copy_libraries(root: &Path) {
    let own = std::env::current_exe().unwrap();
    for word in tool("ldd", &[own.to_str().unwrap()]).split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(word, target).unwrap();
    }
}

/// A loop device that is freed when dropped.
#[derive(Debug)]
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    fn new(file: &Path, read_only: bool) -> Self {
        let mut arguments = vec!["--find", "--show"];
        if read_only {
            arguments.push("--read-only");
        }
        arguments.push(file.to_str().unwrap());
        Self(tool("losetup", &arguments).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel keeps a device's flag for its next user.
        let _ = Command::new("blockdev").args(["--setrw", &self.0]).status();
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// The read-only root device of a tree.
pub(crate) fn root_disk(directory: &Path, tree: &Path) -> Loop {
    let image = directory.join("root.erofs");
    tool("mkfs.erofs", &["--quiet", image.to_str().unwrap(), tree.to_str().unwrap()]);
    Loop::new(&image, true)
}

/// An empty scratch disk.
pub(crate) fn scratch_disk(directory: &Path) -> Loop {
    ext4_disk(directory, "scratch")
}

/// An empty ext4 disk in the file `NAME.ext4`.
pub(crate) fn ext4_disk(directory: &Path, name: &str) -> Loop {
    let image = directory.join(format!("{name}.ext4"));
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    tool("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    Loop::new(&image, false)
}
