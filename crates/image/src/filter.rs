//! Which images are listed or pruned.

use serde_json::Value;
use state::ImageRecord;

use crate::pattern::Pattern;
use crate::{ImageError, Images, Reference, Result, clock, familiar};

/// What listed images have in common, as Docker's `--filter` has it. Everything that is given must hold; of several
/// patterns one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Whether they have no name. `Some(true)`: none; `Some(false)`: a name, or a digest of a repository.
    pub dangling: Option<bool>,
    /// Images before whose creation they were created.
    pub before: Vec<String>,
    /// Images after whose creation they were created.
    pub since: Vec<String>,
    /// Patterns for their short names, with tag or without ([Go's `path.Match`](https://pkg.go.dev/path#Match)).
    /// What does not match is left out of the listed records' names and digests.
    pub references: Vec<String>,
    /// Labels that they have: `key` or `key=value`.
    pub labels: Vec<String>,
    /// Labels that they do not have: `key` or `key=value`.
    pub without_labels: Vec<String>,
    /// The moment before which they were created, in ns since 1970.
    pub until: Option<i64>,
}

impl Images {
    /// The images that `filter` lets through, those loaded last first.
    ///
    /// An image whose configuration is damaged has no labels, one without a date was created in 1970.
    ///
    /// # Errors
    ///
    /// [`ImageError::Pattern`]; [`ImageError::NoSuchImage`] where an image to compare with is not there.
    pub fn list_filtered(&self, filter: &ListFilter) -> Result<Vec<ImageRecord>> {
        let patterns = filter.references.iter().map(|text| {
            Pattern::parse(text).ok_or_else(|| ImageError::Pattern { text: text.chars().take(300).collect() })
        });
        let patterns = patterns.collect::<Result<Vec<_>>>()?;
        let created =
            |names: &[String]| names.iter().map(|name| Ok(created(&self.resolve(name)?))).collect::<Result<Vec<i64>>>();
        let before = created(&filter.before)?.into_iter().min();
        let since = created(&filter.since)?.into_iter().max();
        let mut images = self.list()?;
        images.retain(|image| {
            let is_dangling = image.names.is_empty() && (filter.dangling == Some(true) || image.digests.is_empty());
            let at = self::created(image);
            filter.dangling.is_none_or(|wanted| wanted == is_dangling)
                && before.is_none_or(|moment| at < moment)
                && since.is_none_or(|moment| at > moment)
                && filter.until.is_none_or(|moment| at < moment)
                && self.has_labels(image, &filter.labels, &filter.without_labels)
        });
        if !patterns.is_empty() {
            let is_meant = |name: &String| patterns.iter().any(|pattern| is_match(pattern, name));
            for image in &mut images {
                image.names.retain(is_meant);
                image.digests.retain(is_meant);
            }
            images.retain(|image| !image.names.is_empty() || !image.digests.is_empty());
        }
        Ok(images)
    }

    pub(crate) fn has_labels(&self, image: &ImageRecord, with: &[String], without: &[String]) -> bool {
        if with.is_empty() && without.is_empty() {
            return true;
        }
        let labels = self.labels(image);
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).and_then(Value::as_str) == Some(value),
            None => labels.contains_key(wanted),
        };
        with.iter().all(has) && !without.iter().any(has)
    }
}

/// When an image was built, in ns since 1970.
pub(crate) fn created(image: &ImageRecord) -> i64 {
    image.created.as_deref().and_then(clock::parse).unwrap_or(0)
}

/// A pattern is for the whole short name, or for it without tag and digest.
fn is_match(pattern: &Pattern, name: &str) -> bool {
    pattern.matches(familiar(name))
        || Reference::parse(name).is_ok_and(|reference| pattern.matches(familiar(&reference.repository())))
}
