//! How vsock connections cross between the host and the machine process.
//!
//! The two share a `SOCK_SEQPACKET` Unix socket pair. A datagram is a port (`u32`, little endian, 4 bytes)
//! with exactly one connected `SOCK_STREAM` Unix socket as `SCM_RIGHTS`:
//!
//! - host to machine: "connect this stream to the guest's port". If nobody listens there, the machine
//!   closes its end.
//! - machine to host: "the guest connected to the host's port; this is its stream". If the host does not
//!   want it, it closes it.
//!
//! A half-close of the stream is a half-close of the vsock connection, both ways. No path, no listening
//! socket: it works the same inside a jail.

/// Context identifier of the host (`VMADDR_CID_HOST`).
pub const HOST_CID: u32 = 2;

/// Context identifier that guests get. Machines do not share a vsock network, so all may have the same.
pub const GUEST_CID: u32 = 3;

/// The datagram that goes with a stream for `port`.
#[must_use]
pub fn encode_port(port: u32) -> [u8; 4] {
    port.to_le_bytes()
}

/// The port in a datagram, if it is one.
#[must_use]
pub fn decode_port(datagram: &[u8]) -> Option<u32> {
    datagram.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_exactly_four_bytes() {
        assert_eq!(decode_port(&encode_port(0x0102_0304)), Some(0x0102_0304));
        assert_eq!(encode_port(1), [1, 0, 0, 0]);
        assert_eq!(decode_port(&[]), None);
        assert_eq!(decode_port(&[0; 3]), None);
        assert_eq!(decode_port(&[0; 5]), None);
    }
}
