//! Images at the edge of what there is: many layers, many files, large files, and archives that unpack to a
//! thousand times their size. No command needs more than 256 MiB for them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::archives::{BLOCK, Layer, Layout, Tar, digest, finish_header, header};
use e2e::coracle::{Coracle, Output, finish};
use e2e::memory::Limit;
use e2e::registry::Registry;
use flate2::{Compress, Compression, Crc, FlushCompress};
use tempfile::TempDir;

use crate::tools::{Surroundings, oci};

/// The memory of every command here.
const MEMORY: u64 = 256 << 20;

/// A directory on a disk: what is in memory would count.
fn on_disk() -> TempDir {
    TempDir::with_prefix_in("coracle-giants-", "/var/tmp").expect("a temporary directory")
}

struct Giant {
    directory: TempDir,
    layout: Layout,
}

impl Giant {
    fn new() -> Self {
        let directory = on_disk();
        let layout = Layout::new(&directory.path().join("layout"));
        Self { directory, layout }
    }

    fn image(&mut self, layers: &[Layer]) {
        let manifest = self.layout.manifest(layers, "sh");
        self.layout.name(manifest, "giant:latest");
    }

    fn coracle(&self) -> Coracle {
        Coracle::at(&self.directory.path().join("home"))
    }

    /// Pulls it into a home of its own, which is given back.
    fn pull(&self) -> Coracle {
        let (user, registry) = (Surroundings::new(), Registry::open());
        let image = registry.image("giant:latest");
        user.skopeo_copy(&[], &oci(self.layout.path(), "giant:latest"), &format!("docker://{image}"));
        let coracle = Coracle::at(&self.directory.path().join("pulled"));
        let _ = within_memory(&coracle, &["pull", "-q", &image]).expect(0);
        coracle
    }

    fn load(&self) -> Output {
        let path = self.layout.path().to_str().expect("a path that is text");
        within_memory(&self.coracle(), &["load", "-i", path])
    }
}

/// Runs a command in [`MEMORY`].
fn within_memory(coracle: &Coracle, arguments: &[&str]) -> Output {
    let limit = Limit::new(MEMORY);
    let mut command = limit.wrap(&coracle.command(arguments));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = finish(command, b"");
    println!("{arguments:?}: {:.1} s", out.took.as_secs_f64());
    out
}

#[test]
fn the_limit_holds() {
    for (megabytes, fits) in [(200, true), (300, false)] {
        let mut hungry = Command::new("sh");
        hungry.args(["-c", &format!("head -c {megabytes}M /dev/zero | tail -c {megabytes}M > /dev/null")]);
        let out = Limit::new(MEMORY).wrap(&hungry).output().expect("sh");
        assert_eq!(out.status.success(), fits, "{megabytes} MiB of {MEMORY}: {}", out.status);
    }
}

#[test]
fn image_of_128_layers() {
    let mut giant = Giant::new();
    let layers: Vec<Layer> = (0..128)
        .map(|number| {
            let tar = Tar::default().directory("layers").file("newest", format!("{number}").as_bytes());
            giant.layout.layer(&tar.file(&format!("layers/{number}"), b"one of many").end())
        })
        .collect();
    giant.image(&layers);
    let _ = giant.load().expect(0);
    let _ = within_memory(&giant.pull(), &["image", "verify", "-q"]).expect(0);
}

#[test]
fn two_million_files() {
    let mut giant = Giant::new();
    let (_, layer) = giant.layout.layer_from(write_two_million_files);
    giant.image(&[layer]);
    let _ = giant.load().expect(0);
    let _ = within_memory(&giant.coracle(), &["rmi", "giant"]).expect(0);
    let _ = within_memory(&giant.pull(), &["image", "verify", "-q"]).expect(0);
}

/// 20,000 directories with 100 files each; every eighth file has a few bytes.
fn write_two_million_files(out: &mut dyn Write) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, out);
    let mut content = [0; BLOCK];
    content[..15].copy_from_slice(b"hello, giants!\n");
    let [empty, full] = [0, 15].map(|size| header("00000/file-00.txt", b'0', size, ""));
    for directory in 0..20_000 {
        let name = format!("{directory:05}");
        out.write_all(&header(&name, b'5', 0, ""))?;
        for file in 0..100 {
            let mut block = if file % 8 == 0 { full } else { empty };
            block[..5].copy_from_slice(name.as_bytes());
            block[11..13].copy_from_slice(format!("{file:02}").as_bytes());
            finish_header(&mut block);
            out.write_all(&block)?;
            if file % 8 == 0 {
                out.write_all(&content)?;
            }
        }
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

#[test]
fn sparse_file_of_20_gib() {
    for format in ["gnu", "pax"] {
        let mut giant = Giant::new();
        let tar = sparse_archive(giant.directory.path(), format);
        let layer = giant.layout.layer(&tar);
        giant.image(&[layer]);
        let _ = giant.load().expect(0);
        let used = bytes_on_disk(giant.coracle().home());
        assert!(used < 16 << 20, "{format}: the home takes {used} bytes for a file that has a few");
    }
}

/// What GNU tar makes of a file with something at its beginning, in its middle and at its end.
fn sparse_archive(directory: &Path, format: &str) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = File::create(directory.join("sparse")).expect("a file");
    file.set_len(20 << 30).expect("sparse");
    for offset in [0, 10 << 30, (20 << 30) - 4096] {
        file.write_all_at(&[b'x'; 4096], offset).expect("written");
    }
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "--numeric-owner"]).arg(format!("--format={format}"));
    let out = tar.arg("-C").arg(directory).args(["-cf", "-", "sparse"]).output().expect("GNU tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::remove_file(directory.join("sparse")).expect("removed");
    out.stdout
}

/// The length of each of the two files in the bomb.
const HALF: u64 = 5_000 << 20;

/// The digest of the bomb's tar archive.
const BOMB_DIFF_ID: &str = "sha256:4b509e9183536c654234cd3a6bef8636eef3b1ce83082bc63f9b238f36e33406";

#[test]
fn bomb_of_10_gb() {
    let mut giant = Giant::new();
    let blob = bomb();
    assert!(blob.len() < 11_000_000, "{}", blob.len());
    let part = giant.directory.path().join("part");
    fs::write(&part, &blob).expect("written");
    let (_, layer) = giant.layout.adopt(&part, &digest(&blob), blob.len() as u64, BOMB_DIFF_ID.to_owned());
    giant.image(&[layer]);
    let _ = giant.load().expect(0);
    let used = bytes_on_disk(giant.coracle().home());
    assert!(used < 64 << 20, "the home takes {used} bytes for nothing but zeros");
}

/// A gzip file of a tar archive with two files of zeros. A flushed block does not depend on what is before it, so
/// one is made and repeated.
fn bomb() -> Vec<u8> {
    const CHUNK: usize = 100 << 20;
    let zeros = vec![0; CHUNK];
    let chunk = deflate(&zeros);
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut crc, mut length) = (Crc::new(), 0);
    let mut add = |bytes: &[u8], compressed: &[u8]| {
        out.extend(compressed);
        let mut part = Crc::new();
        part.update(bytes);
        crc.combine(&part);
        length += bytes.len() as u64;
    };
    for name in ["a", "b"] {
        let head = header(name, b'0', HALF, "");
        add(&head, &deflate(&head));
        (0..HALF / CHUNK as u64).for_each(|_| add(&zeros, &chunk));
    }
    add(&zeros[..2 * BLOCK], &deflate(&zeros[..2 * BLOCK]));
    out.extend([3, 0]);
    out.extend(crc.sum().to_le_bytes());
    out.extend(&length.to_le_bytes()[..4]);
    out
}

/// Deflate blocks that do not end the stream and refer to nothing before them.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 500 + 4096);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(bytes, &mut out, FlushCompress::Full).expect("compressed");
    assert_eq!(compress.total_in(), bytes.len() as u64, "all in one go");
    out
}

fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let below: Vec<PathBuf> = match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.expect("an entry").path()).collect(),
        Err(_) => Vec::new(),
    };
    let own = fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    own + below.iter().map(|path| bytes_on_disk(path)).sum::<u64>()
}
