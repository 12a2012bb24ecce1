//! Makes tar archives byte by byte, right and wrong ones.

/// An archive under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// One header block, to be bent before it is added.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) block: [u8; 512],
}

#[allow(dead_code, reason = "each test file uses some of them")]
impl Header {
    pub(crate) fn new(type_flag: u8, name: &[u8]) -> Self {
        let mut header = Self { block: [0; 512] };
        header.field(0, name);
        header.field(100, b"0000644\0").field(108, b"0000000\0").field(116, b"0000000\0");
        header.size(0).field(136, b"00000000000\0");
        header.field(156, &[type_flag]).field(257, b"ustar\x0000");
        header.field(329, b"0000000\0").field(337, b"0000000\0");
        header
    }

    pub(crate) fn field(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn size(&mut self, size: u64) -> &mut Self {
        self.field(124, format!("{size:011o}\0").as_bytes())
    }

    pub(crate) fn mode(&mut self, mode: u32) -> &mut Self {
        self.field(100, format!("{mode:07o}\0").as_bytes())
    }

    pub(crate) fn owner(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.field(108, format!("{uid:07o}\0").as_bytes()).field(116, format!("{gid:07o}\0").as_bytes())
    }

    pub(crate) fn link(&mut self, target: &[u8]) -> &mut Self {
        self.field(157, target)
    }

    pub(crate) fn device(&mut self, major: u32, minor: u32) -> &mut Self {
        self.field(329, format!("{major:07o}\0").as_bytes()).field(337, format!("{minor:07o}\0").as_bytes())
    }

    /// The block with its checksum.
    pub(crate) fn sealed(&self) -> [u8; 512] {
        let mut block = self.block;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

#[allow(dead_code, reason = "each test file uses some of them")]
impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn header(self, header: &Header) -> Self {
        self.raw(&header.sealed())
    }

    /// Content and its padding.
    pub(crate) fn body(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        let header = Header::new(b'0', name.as_bytes()).size(content.len() as u64).clone();
        self.header(&header).body(content.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.header(Header::new(b'5', name.as_bytes()).mode(0o755))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.header(Header::new(b'2', name.as_bytes()).mode(0o777).link(target.as_bytes()))
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.header(Header::new(b'1', name.as_bytes()).link(target.as_bytes()))
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.pax_of(b'x', records)
    }

    pub(crate) fn pax_of(self, type_flag: u8, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.special(type_flag, &body)
    }

    /// A header that describes the next member: PAX or GNU.
    pub(crate) fn special(self, type_flag: u8, body: &[u8]) -> Self {
        let header = Header::new(type_flag, b"special").size(body.len() as u64).clone();
        self.header(&header).body(body)
    }

    /// The end marker.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..).find(|length: &usize| *length == length.to_string().len() + rest.len());
    [length.unwrap_or(0).to_string().as_bytes(), &rest].concat()
}
