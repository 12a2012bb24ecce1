//! The conversation between the monitor and a machine process.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::spec::{FileIndex, MachineSpec};

/// Largest datagram in bytes.
pub const MAX_MESSAGE: usize = 160 << 10;

/// Most descriptors that one datagram carries (Linux allows 253).
pub const FILES_PER_MESSAGE: usize = 250;

/// What the monitor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMachine {
    /// Descriptors travel with this datagram.
    Files {
        /// How many.
        count: u32,
    },
    /// Be this machine (`coracle-vmm machine`).
    Launch {
        /// The machine.
        spec: MachineSpec<FileIndex>,
    },
    /// Serve this machine's devices over vhost-user (`coracle-vmm devices`); another process has the vCPUs.
    Serve {
        /// The machine.
        spec: MachineSpec<FileIndex>,
        /// A connected stream socket per device that speaks vhost-user: the disks in slot order, then vsock.
        sockets: Vec<FileIndex>,
    },
    /// Answer with the kernel log as it is now.
    KernelLog,
    /// End now, without asking the guest.
    Stop,
}

/// What a machine process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMachine {
    /// The vCPUs start now, or the device sockets are being served.
    Started {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        at: u64,
    },
    /// Answer to [`ToMachine::KernelLog`]: the newest bytes of the log, oldest first.
    KernelLog(Vec<u8>),
    /// The last message.
    Ended(End),
}

/// How a machine ended, as far as the machine process can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// The newest bytes of the kernel log, oldest first.
    pub kernel_log: Vec<u8>,
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The guest asked for a reset, which is how guest init powers off.
    Reset,
    /// A triple fault.
    TripleFault,
    /// The devices' peer (the emulator) closed its connections.
    PeerClosed,
    /// The monitor said [`ToMachine::Stop`] or closed the socket.
    Stopped,
    /// The machine could not be made: the text names the object.
    Setup(String),
    /// Something failed while the machine ran (a KVM error, an unhandled exit).
    Internal(String),
}

/// A datagram that is no message, or a message that is no datagram.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Over [`MAX_MESSAGE`].
    #[error("machine message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// Not the encoding of a message.
    #[error("malformed machine message")]
    Malformed(#[from] postcard::Error),
}

/// Encodes one datagram.
///
/// # Errors
///
/// [`CodecError::TooLarge`] if the message does not fit one.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = postcard::to_allocvec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// Decodes one datagram.
///
/// # Errors
///
/// [`CodecError`] if it is too long or not exactly one message.
pub fn decode<T: DeserializeOwned>(datagram: &[u8]) -> Result<T, CodecError> {
    if datagram.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(datagram.len()));
    }
    let (message, rest) = postcard::take_from_bytes(datagram)?;
    if !rest.is_empty() {
        return Err(CodecError::Malformed(postcard::Error::SerdeDeCustom));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::{BlockBacking, Disk, DiskId, DiskRates, Extent, KernelLogRegion, Rate, SharedFiles, Vsock};

    fn backing() -> impl Strategy<Value = BlockBacking<FileIndex>> {
        let extent = (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(file, offset, length)| Extent {
            file,
            offset,
            length,
        });
        prop_oneof![
            prop::collection::vec(extent, 0..20).prop_map(|extents| BlockBacking::ReadOnly { extents }),
            any::<u32>().prop_map(|file| BlockBacking::Writable { file }),
            any::<u32>().prop_map(|file| BlockBacking::Shared { file }),
        ]
    }

    fn spec() -> impl Strategy<Value = MachineSpec<FileIndex>> {
        let rate = || {
            any::<(Option<NonZeroU64>, Option<NonZeroU64>)>().prop_map(|(bytes, operations)| Rate { bytes, operations })
        };
        let rates = (rate(), rate()).prop_map(|(read, write)| DiskRates { read, write });
        let disk = ("[a-z0-9-]{1,20}", backing(), rates).prop_map(|(id, backing, rates)| Disk {
            id: DiskId(id),
            backing,
            rates,
        });
        let vsock = (any::<u32>(), any::<Option<u32>>()).prop_map(|(guest_cid, channel)| Vsock { guest_cid, channel });
        let shared_files =
            prop::option::of((".{0,36}", any::<Option<u32>>()).prop_map(|(tag, channel)| SharedFiles { tag, channel }));
        let numbers = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<Option<u32>>());
        let log = (any::<u64>(), any::<u32>()).prop_map(|(address, length)| KernelLogRegion { address, length });
        (numbers, ".{0,200}", prop::collection::vec(disk, 0..5), vsock, shared_files, log).prop_map(
            |((vcpus, memory_mib, kernel, initrd, console), cmdline, disks, vsock, shared_files, kernel_log)| {
                MachineSpec {
                    vcpus,
                    memory_mib,
                    kernel,
                    initrd,
                    cmdline,
                    disks,
                    vsock,
                    shared_files,
                    kernel_log,
                    console,
                }
            },
        )
    }

    fn to_machine() -> impl Strategy<Value = ToMachine> {
        prop_oneof![
            any::<u32>().prop_map(|count| ToMachine::Files { count }),
            spec().prop_map(|spec| ToMachine::Launch { spec }),
            (spec(), prop::collection::vec(any::<u32>(), 0..10))
                .prop_map(|(spec, sockets)| ToMachine::Serve { spec, sockets }),
            Just(ToMachine::KernelLog),
            Just(ToMachine::Stop),
        ]
    }

    fn from_machine() -> impl Strategy<Value = FromMachine> {
        let log = prop::collection::vec(any::<u8>(), 0..1000);
        let reason = prop_oneof![
            Just(EndReason::Reset),
            Just(EndReason::TripleFault),
            Just(EndReason::PeerClosed),
            Just(EndReason::Stopped),
            ".{0,100}".prop_map(EndReason::Setup),
            ".{0,100}".prop_map(EndReason::Internal),
        ];
        prop_oneof![
            any::<u64>().prop_map(|at| FromMachine::Started { at }),
            log.clone().prop_map(FromMachine::KernelLog),
            (reason, any::<u64>(), log).prop_map(|(reason, at, kernel_log)| FromMachine::Ended(End {
                reason,
                at,
                kernel_log
            })),
        ]
    }

    proptest! {
        #[test]
        fn what_the_monitor_says_survives_the_wire(message in to_machine()) {
            prop_assert_eq!(decode::<ToMachine>(&encode(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn what_a_machine_says_survives_the_wire(message in from_machine()) {
            prop_assert_eq!(decode::<FromMachine>(&encode(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn any_datagram_is_a_message_or_an_error(datagram in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<FromMachine>(&datagram);
            let _ = decode::<ToMachine>(&datagram);
        }

        #[test]
        fn a_cut_message_is_no_message(message in from_machine(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&message).unwrap();
            prop_assert!(decode::<FromMachine>(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn bytes_after_a_message_are_refused() {
        let mut datagram = encode(&ToMachine::Stop).unwrap();
        datagram.push(0);
        assert!(matches!(decode::<ToMachine>(&datagram), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn the_limit_holds_both_ways() {
        let message = FromMachine::KernelLog(vec![0; MAX_MESSAGE]);
        assert!(matches!(encode(&message), Err(CodecError::TooLarge(_))));
        assert!(matches!(decode::<FromMachine>(&vec![0; MAX_MESSAGE + 1]), Err(CodecError::TooLarge(_))));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // KernelLog whose length field claims 2^63 bytes.
        let datagram = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(decode::<FromMachine>(&datagram), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_whole_kernel_log_fits_one_datagram() {
        let kernel_log = vec![b'x'; KernelLogRegion::STANDARD.length as usize];
        let end = End { reason: EndReason::Internal("x".repeat(4096)), at: u64::MAX, kernel_log };
        assert!(encode(&FromMachine::Ended(end)).is_ok());
    }
}
