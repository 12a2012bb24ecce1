//! What nobody can go below who verifies an image: `floor LAYOUT` inflates every layer of an OCI layout and hashes it
//! before and after, three layers at once, and keeps nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use flate2::bufread::MultiGzDecoder;
use store::Hasher;

struct Hashed<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn main() -> io::Result<()> {
    let Some(layout) = std::env::args_os().nth(1) else {
        eprintln!("usage: floor LAYOUT");
        std::process::exit(2);
    };
    let blobs = fs::read_dir(Path::new(&layout).join("blobs/sha256"))?;
    let blobs = Mutex::new(blobs.map(|blob| Ok(blob?.path())).collect::<io::Result<Vec<_>>>()?);
    let next = || blobs.lock().ok()?.pop();
    let work = || -> io::Result<()> {
        while let Some(blob) = next() {
            inflate(&blob)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })
}

/// Two threads, as the conversion has them: one inflates, one hashes what comes out.
fn inflate(blob: &PathBuf) -> io::Result<()> {
    let mut start = [0; 4];
    let read = File::open(blob)?.read(&mut start)?;
    let (sender, receiver) = sync_channel::<Vec<u8>>(4);
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::default();
            receiver.iter().for_each(|bytes| hasher.update(&bytes));
            hasher.finish()
        });
        let raw = Hashed { reader: File::open(blob)?, hasher: Hasher::default() };
        let raw = BufReader::with_capacity(256 << 10, raw);
        let mut inflated: Box<dyn Read> = match &start[..read] {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(raw)),
            [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(raw)?),
            // A document.
            _ => return Ok(()),
        };
        loop {
            let mut bytes = vec![0; 1 << 20];
            let mut filled = 0;
            while filled < bytes.len() {
                match inflated.read(&mut bytes[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            bytes.truncate(filled);
            if filled == 0 || sender.send(bytes).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = hashing.join();
        Ok(())
    })
}
