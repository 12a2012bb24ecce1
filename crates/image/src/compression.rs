//! How layers and archives are compressed: what media types say, and what the bytes are.

use std::io::{self, BufRead, Read};

/// What bytes are compressed with, by their first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
    /// Known by name, but not supported.
    Other(&'static str),
}

/// How many bytes [`Compression::detect`] wants to see.
pub(crate) const MAGIC_LENGTH: usize = 6;

impl Compression {
    /// What begins with `bytes` (RFC 1952, 2.3.1; RFC 8878, 3.1; the others to name them in errors).
    pub(crate) fn detect(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Other("lz4"),
            _ => Self::Plain,
        }
    }

    /// What is in `reader`, inflated; all members or frames of it. `None` where that is not supported.
    pub(crate) fn inflate<'a>(self, reader: impl BufRead + Send + 'a) -> io::Result<Option<Box<dyn Read + Send + 'a>>> {
        Ok(match self {
            Self::Plain => Some(Box::new(reader)),
            Self::Gzip => Some(Box::new(flate2::bufread::MultiGzDecoder::new(reader))),
            // The window is bounded by the library's default, 128 MiB.
            Self::Zstd => Some(Box::new(zstd::Decoder::with_buffer(reader)?)),
            Self::Other(_) => None,
        })
    }
}

/// What a layer's media type says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerType {
    /// A tar archive, plain or compressed in a way we know. Which of them it is its bytes say: builders have always
    /// been careless about it, and all engines look.
    Tar,
    /// Compressed otherwise.
    Compression(String),
    /// No layer.
    Other,
}

const TAR_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

impl LayerType {
    pub(crate) fn of(media_type: &str) -> Self {
        match TAR_TYPES.iter().find_map(|t| media_type.strip_prefix(t)) {
            Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd") => Self::Tar,
            Some(suffix) if suffix.starts_with(['+', '.']) => Self::Compression(suffix[1..].to_owned()),
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        assert_eq!(LayerType::of("application/vnd.oci.image.layer.v1.tar+zstd"), LayerType::Tar);
        assert_eq!(LayerType::of("application/vnd.docker.image.rootfs.diff.tar.gzip"), LayerType::Tar);
        assert_eq!(LayerType::of("application/vnd.oci.image.layer.v1.tar+br"), LayerType::Compression("br".into()));
        assert_eq!(LayerType::of("application/vnd.oci.image.layer.v1.tarball"), LayerType::Other);
        assert_eq!(LayerType::of("application/vnd.in-toto+json"), LayerType::Other);
    }

    #[test]
    fn magic() {
        assert_eq!(Compression::detect(b"\x1f\x8b\x08\0\0\0"), Compression::Gzip);
        assert_eq!(Compression::detect(b"BZh91A"), Compression::Other("bzip2"));
        assert_eq!(Compression::detect(b""), Compression::Plain);
    }
}
