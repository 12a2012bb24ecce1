//! A repository of a registry, as a place where documents and blobs are.
//!
//! What is fetched is never trusted: manifests are verified by the client, configurations here, layers while they are
//! converted. One command at a time fetches a blob; the others find it when they have waited.

use std::fs::File;
use std::io::{self, Read};

use registry::{Client, Manifest, Reference};
use store::{Digest, Lease, Object, Store, StoreError};

use crate::limits::{CONFIG_BYTES, MANIFEST_BYTES};
use crate::manifest::Descriptor;
use crate::source::{Documents, Kept, Opened, Source};
use crate::{ImageError, Result};

/// Downloads of fewer bytes are sooner begun again than taken up again.
const RESUMED: u64 = 1 << 20;

/// One repository, while something is pulled from it.
pub(crate) struct Remote<'a> {
    pub(crate) client: &'a Client,
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    /// What is pulled.
    pub(crate) reference: &'a Reference,
    pub(crate) label: String,
    /// The document that the reference leads to.
    pub(crate) first: Manifest,
}

/// A blob in a registry.
#[derive(Debug, Clone)]
pub(crate) struct RemoteBlob {
    client: Client,
    repository: Reference,
    digest: Digest,
    pub(crate) size: u64,
}

impl Remote<'_> {
    /// What the registry says of the first document.
    pub(crate) fn first_descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.first.media_type.clone(),
            digest: self.first.digest,
            size: self.first.bytes.len() as u64,
            annotations: std::collections::BTreeMap::new(),
            platform: None,
        }
    }

    fn check_size(descriptor: &Descriptor, what: &str, limit: u64) -> Result<()> {
        if descriptor.size > limit {
            return Err(ImageError::TooLarge { what: what.to_owned(), limit, unit: "bytes" });
        }
        Ok(())
    }

    fn fetch_config(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        let download = self.client.blob(self.reference, &descriptor.digest, descriptor.size, 0);
        let mut download = download.map_err(|source| ImageError::transfer(what, source))?;
        let mut bytes = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or(0));
        download.read_to_end(&mut bytes).map_err(|e| ImageError::read(what, e))?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(ImageError::WrongDigest { what: what.to_owned(), found });
        }
        Ok(bytes)
    }

    /// The configuration, if the store has it whole.
    fn stored(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        match self.store.read_blob(digest, CONFIG_BYTES) {
            Err(StoreError::Damaged { .. }) => Ok(None),
            result => Ok(result?),
        }
    }
}

impl Documents for Remote<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn manifest(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        Self::check_size(descriptor, what, MANIFEST_BYTES)?;
        let bytes = if descriptor.digest == self.first.digest {
            self.first.bytes.clone()
        } else {
            let manifest = self.client.manifest(&self.reference.at(descriptor.digest));
            manifest.map_err(|source| ImageError::transfer(what, source))?.bytes
        };
        let (expected, found) = (descriptor.size, bytes.len() as u64);
        if expected != found {
            return Err(ImageError::WrongSize { what: what.to_owned(), expected, found });
        }
        Ok(bytes)
    }

    fn config(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        Self::check_size(descriptor, what, CONFIG_BYTES)?;
        let digest = &descriptor.digest;
        // Before looking: what is found then stays.
        self.lease.add(&[Object::blob(*digest)])?;
        if let Some(bytes) = self.stored(digest)? {
            return Ok(bytes);
        }
        let _lock = self.store.lock_blob(digest, || ())?;
        if let Some(bytes) = self.stored(digest)? {
            return Ok(bytes);
        }
        let bytes = self.fetch_config(descriptor, what)?;
        self.store.ingest_blob(self.lease, &mut &bytes[..], Some(digest), Some(descriptor.size))?;
        Ok(bytes)
    }

    fn layer(&self, descriptor: &Descriptor, _: &str) -> Result<Source> {
        Ok(Source::Remote(RemoteBlob {
            client: self.client.clone(),
            repository: self.reference.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
        }))
    }
}

impl RemoteBlob {
    /// Opens the blob: first what an earlier download had left of it, then what the registry has. With `keep`, what is
    /// read can become a blob of the store.
    pub(crate) fn open(&self, store: &Store, keep: bool) -> Result<Opened> {
        if self.size < RESUMED && !keep {
            let reader = Fetch { prefix: None, blob: self.clone(), offset: 0, download: None };
            return Ok(Opened { reader: Box::new(reader), kept: None, resumed: false });
        }
        let partial = store.partial(&self.digest, || ())?;
        let mut had = partial.length()?;
        if had > self.size {
            partial.restart()?;
            had = 0;
        }
        let again = || File::open(partial.path()).map_err(|e| StoreError::io("read", partial.path(), e));
        let prefix = if had > 0 { Some(again()?.take(had)) } else { None };
        let reader = Fetch { prefix, blob: self.clone(), offset: had, download: None };
        Ok(Opened { reader: Box::new(reader), kept: Some(Kept::Partial(partial)), resumed: had > 0 })
    }
}

/// A blob that is being fetched.
struct Fetch {
    /// What is there already.
    prefix: Option<io::Take<File>>,
    blob: RemoteBlob,
    /// Where the download begins.
    offset: u64,
    download: Option<registry::Download>,
}

impl Read for Fetch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(prefix) = &mut self.prefix {
            match prefix.read(buffer)? {
                0 => self.prefix = None,
                count => return Ok(count),
            }
        }
        if self.offset > 0 && self.offset == self.blob.size {
            return Ok(0);
        }
        let RemoteBlob { client, repository, digest, size, .. } = &self.blob;
        let download = match &mut self.download {
            Some(download) => download,
            None => {
                let download = client.blob(repository, digest, *size, self.offset).map_err(io::Error::other)?;
                self.download.insert(download)
            }
        };
        download.read(buffer)
    }
}
