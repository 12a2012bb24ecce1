//! Pulling: from a name in a registry to an image.
//!
//! The reference leads to a manifest, or through indexes to the one for the platform; that to a configuration. Then
//! all is checked that can be, and the layers that the store does not have stream in. From there on pulling is loading.

use registry::{Client, Reference};
use store::Lease;

use crate::limits::INDEX_DEPTH;
use crate::plan::Search;
use crate::remote::Remote;
use crate::{ImageError, Images, Platform, Progress, Result, familiar};

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The complete name that was asked for.
    pub name: String,
    /// The digest that the name has in the registry: of an index, where there are images for several platforms.
    pub digest: String,
    /// The image's id.
    pub id: String,
    /// Whether the name meant another image before, or nothing.
    pub is_new: bool,
}

impl Images {
    /// Pulls the image of a reference for `platform`, this host's if none is given. It gets the reference's name; one
    /// that is asked for by its digest alone gets none, and is found by the digest.
    ///
    /// # Errors
    ///
    /// [`ImageError::Transfer`], or what is wrong with the image. Nothing of it stays then, except what came of its
    /// layers, so that the next attempt goes on from there.
    pub fn pull(
        &self,
        client: &Client,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let platform = platform.cloned().unwrap_or_else(Platform::host);
        self.under_lease(|lease| self.pull_under(lease, client, reference, &platform, progress))
    }

    fn pull_under(
        &self,
        lease: &Lease,
        client: &Client,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Pulled> {
        let name = reference.to_string();
        let label = familiar(&name).to_owned();
        let first = client.manifest(reference).map_err(|source| ImageError::transfer(&label, source))?;
        let remote = Remote { client, store: &self.store, lease, reference, label, first };
        let mut search = Search { documents: &remote, wanted: platform, available: Vec::new() };
        let Some(mut plan) = search.follow(&remote.first_descriptor(), INDEX_DEPTH)? else {
            return Err(search.nothing(Some(&name)));
        };
        let digest = remote.first.digest;
        let tag = Some(name.clone()).filter(|_| reference.digest().is_none());
        plan.names.extend(tag.clone());
        plan.digests.push(reference.at(digest).to_string());
        plan.label_layers();
        let before = tag.unwrap_or_else(|| reference.at(digest).to_string());
        let before = self.resolve(&before).ok().map(|image| image.id);
        let loaded = self.load_image(lease, plan, progress)?;
        self.tell("pull", &name, &name);
        let is_new = before.is_none_or(|before| before != loaded.id);
        Ok(Pulled { name, digest: digest.to_string(), id: loaded.id, is_new })
    }
}
