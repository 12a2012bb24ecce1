//! A layer's archive, as it was: made again from what it was converted to.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use layer::Rebuild;
use store::{Digest, Hasher, LayerFiles, Object, StoreError};

use crate::Result;

/// The uncompressed archive of a layer. It ends with an error around [`StoreError::Damaged`] where what came out is not
/// what the layer's diff id says: whoever passes it on must not call it done before its end.
pub(crate) struct Rebuilt {
    archive: Rebuild<File>,
    layer: LayerFiles,
    hasher: Option<Hasher>,
}

/// Opens the archive of a layer.
pub(crate) fn rebuilt(layer: &LayerFiles) -> Result<Rebuilt> {
    let open = |path: &Path| File::open(path).map_err(|e| StoreError::io("open", path, e));
    let (data, packed) = (open(&layer.data)?, open(&layer.packed)?);
    let archive = Rebuild::new(open(&layer.skeleton)?, data, packed);
    let archive = archive.map_err(|e| StoreError::io("read", &layer.skeleton, e))?;
    Ok(Rebuilt { archive, layer: layer.clone(), hasher: Some(Hasher::default()) })
}

impl Rebuilt {
    fn damaged(&self, problem: String) -> io::Error {
        let object = Object::layer(self.layer.diff_id);
        io::Error::other(StoreError::Damaged { object, path: self.layer.skeleton.clone(), problem })
    }

    fn check(&self, found: &Digest) -> io::Result<()> {
        if *found == self.layer.diff_id {
            return Ok(());
        }
        Err(self.damaged(format!("the archive that is made from it has digest {found}")))
    }
}

impl Read for Rebuilt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.archive.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(self.damaged(e.to_string())),
            result => result?,
        };
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
        } else if let Some(hasher) = self.hasher.take().filter(|_| !buffer.is_empty()) {
            self.check(&hasher.finish())?;
        }
        Ok(count)
    }
}
