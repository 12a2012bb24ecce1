//! Images made by e2fsprogs, and what their trees are, for all tests.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ext4::{Ext4Error, FileSystem, Inode, Kind, ReadAt, Xattrs};

/// Runs a program of e2fsprogs; its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .env("DEBUGFS_PAGER", "cat")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {} {text} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Commands of debugfs that change an image.
pub(crate) fn debugfs(image: &Path, commands: &[&str]) -> String {
    let script = image.with_extension("commands");
    fs::write(&script, commands.join("\n") + "\n").unwrap();
    run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()])
}

/// An image of `mebibytes`, made with these options, of a directory's files.
pub(crate) fn make(path: &Path, mebibytes: u64, options: &[&str], from: Option<&Path>) -> PathBuf {
    fs::File::create(path).unwrap().set_len(mebibytes << 20).unwrap();
    let mut arguments = vec!["-q", "-F", "-E", "root_owner=0:0"];
    arguments.extend(options);
    if let Some(from) = from {
        arguments.extend(["-d", from.to_str().unwrap()]);
    }
    arguments.push(path.to_str().unwrap());
    run("mke2fs", &arguments);
    path.to_owned()
}

/// The options of a scratch disk.
pub(crate) const SCRATCH: [&str; 10] = [
    "-t",
    "ext4",
    "-b4096",
    "-I256",
    "-i16384",
    "-m0",
    "-Jsize=4",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,\
     extra_isize,metadata_csum",
    "-q",
];

/// What is known of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: String,
    pub(crate) mode: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Xattrs,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// The whole tree. A directory that has two names is refused here, as everybody must who walks.
pub(crate) fn tree<S: ReadAt>(system: &FileSystem<S>) -> Result<Tree, Ext4Error> {
    let mut tree = Tree::new();
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![(Vec::new(), system.root()?)];
    while let Some((path, directory)) = pending.pop() {
        if !seen.insert(directory.number) {
            return Err(Ext4Error::Damaged {
                place: ext4::Place::Directory(directory.number),
                problem: "it has two names",
            });
        }
        for entry in system.read_dir(&directory)? {
            let mut path: Vec<u8> = path.clone();
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            let inode = system.inode(entry.inode)?;
            tree.insert(path.clone(), node(system, &inode)?);
            if inode.is_dir() {
                pending.push((path, inode));
            }
        }
    }
    Ok(tree)
}

fn node<S: ReadAt>(system: &FileSystem<S>, inode: &Inode) -> Result<Node, Ext4Error> {
    let mut content = Vec::new();
    match inode.kind {
        Kind::File => {
            let file = system.content(inode)?;
            // Enough for every file that these tests make.
            let mut reader = file.reader().take(64 << 20);
            reader.read_to_end(&mut content).map_err(|source| Ext4Error::Read { offset: 0, source })?;
        }
        Kind::Symlink => content = system.read_link(inode)?,
        _ => {}
    }
    Ok(Node {
        kind: format!("{:?}", inode.kind),
        mode: inode.mode,
        owner: (inode.uid, inode.gid),
        size: if inode.is_dir() { 0 } else { inode.size },
        mtime: inode.mtime.seconds,
        content,
        xattrs: system.xattrs(inode)?,
    })
}

/// Opens an image and reads all of it.
pub(crate) fn read(path: &Path) -> Tree {
    let system = FileSystem::open(fs::File::open(path).unwrap()).unwrap();
    tree(&system).unwrap()
}
