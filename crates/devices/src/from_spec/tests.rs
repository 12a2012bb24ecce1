use machine::Extent;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::device::DeviceKind;

fn files() -> Vec<Arc<File>> {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let (channel, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (daemon, _) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    vec![Arc::new(disk), Arc::new(File::from(channel)), Arc::new(File::from(daemon))]
}

fn writable(id: &str, file: FileIndex) -> Disk<FileIndex> {
    Disk::new(id, BlockBacking::Writable { file })
}

fn read_only(file: FileIndex, offset: u64, length: u64) -> Disk<FileIndex> {
    let extents = vec![Extent { file, offset, length }];
    Disk::new("root", BlockBacking::ReadOnly { extents })
}

const VSOCK: machine::Vsock<FileIndex> = machine::Vsock { guest_cid: 3, channel: Some(1) };

fn shared(channel: FileIndex) -> machine::SharedFiles<FileIndex> {
    machine::SharedFiles { tag: "files".to_owned(), channel: Some(channel) }
}

#[test]
fn devices_come_in_a_fixed_order() {
    let disks = [read_only(0, 4096, 8192), writable("scratch", 0)];
    let devices = from_spec(&disks, &VSOCK, Some(&shared(2)), &files()).unwrap();
    let kinds: Vec<_> = devices.iter().map(|device| device.kind()).collect();
    use DeviceKind::{Balloon, Block, Fs, Rng, Vsock};
    assert_eq!(kinds, [Block, Block, Vsock, Fs, Rng, Balloon]);
    let mut capacity = [0; 8];
    devices[0].read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 16);
    devices[2].read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 3);
}

#[test]
fn what_cannot_be_is_named() {
    let no_channel = machine::Vsock { guest_cid: 3, channel: None };
    let reserved = |guest_cid| machine::Vsock { guest_cid, channel: Some(1) };
    for (what, disks, vsock, text) in [
        ("no such file", vec![writable("a", 7)], VSOCK, "disk \"a\" is file 7, which was not sent"),
        ("no channel file", vec![], machine::Vsock { guest_cid: 3, channel: Some(9) }, "vsock channel is file 9"),
        ("not a file", vec![writable("a", 1)], VSOCK, "disk \"a\""),
        ("no name", vec![writable("", 0)], VSOCK, "disk identifier \"\""),
        ("long name", vec![writable("abcdefghijklmnopqrstu", 0)], VSOCK, "disk identifier"),
        ("odd name", vec![writable("A/b", 0)], VSOCK, "disk identifier \"A/b\""),
        ("twice", vec![writable("a", 0), writable("a", 0)], VSOCK, "two disks are called \"a\""),
        ("misaligned", vec![read_only(0, 1, 4096)], VSOCK, "disk \"root\""),
        ("no channel", vec![], no_channel, "no channel"),
        ("hypervisor's cid", vec![], reserved(0), "identifier 0 is reserved"),
        ("host's cid", vec![], reserved(2), "identifier 2 is reserved"),
        ("any cid", vec![], reserved(u32::MAX), "is reserved"),
    ] {
        let error = from_spec(&disks, &vsock, None, &files()).unwrap_err().to_string();
        assert!(error.contains(text), "{what}: {error}");
    }
}

#[test]
fn shared_files_need_a_daemon_and_a_tag() {
    let long = "t".repeat(37);
    for (what, shared, text) in [
        ("no channel", machine::SharedFiles { channel: None, ..shared(2) }, "no channel to the daemon"),
        ("no such file", shared(9), "channel of the shared files is file 9"),
        ("no socket", shared(0), "shared files"),
        ("no tag", machine::SharedFiles { tag: String::new(), ..shared(2) }, "shared files"),
        ("long tag", machine::SharedFiles { tag: long, ..shared(2) }, "shared files"),
    ] {
        let error = from_spec(&[], &VSOCK, Some(&shared), &files()).unwrap_err().to_string();
        assert!(error.contains(text), "{what}: {error}");
    }
}
