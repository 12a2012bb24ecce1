//! Which containers there are.

use std::collections::BTreeMap;

use serde_json::Value;
use state::{ContainerRecord, ContainerState};

use crate::{Engine, create::Spec, error::Error};

/// Which containers are listed. Of several values of one field one must fit (of labels all), and every field that has
/// some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilters {
    /// Those, too, that do not live. So it is also where a state, an exit code or a number is asked for.
    pub all: bool,
    /// The last so many that were made.
    pub last: Option<usize>,
    /// Parts of names; `^` and `$` at the ends hold it to the beginning and the end.
    pub names: Vec<String>,
    /// Beginnings of ids.
    pub ids: Vec<String>,
    /// States, as [`ContainerState::as_str`] has them; `dead` and `removing` are none here and fit nothing.
    pub statuses: Vec<String>,
    /// Labels: `key` or `key=value`.
    pub labels: Vec<String>,
    /// Labels that they do not have.
    pub without_labels: Vec<String>,
    /// Images that they were made of: names or ids.
    pub ancestors: Vec<String>,
    /// Exit codes of those that have exited.
    pub exited: Vec<i32>,
    /// `starting`, `healthy`, `unhealthy`, `none`.
    pub health: Vec<String>,
    /// Made before this container.
    pub before: Option<String>,
    /// Made after this container.
    pub since: Option<String>,
    /// Made before this moment, in ns since 1970.
    pub until: Option<i64>,
    /// Volumes that they use, or paths at which they mount something.
    pub volumes: Vec<String>,
}

const STATUSES: [&str; 7] = ["created", "running", "paused", "restarting", "exited", "removing", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

impl Engine {
    /// All containers, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn containers(&self) -> Result<Vec<ContainerRecord>, Error> {
        Ok(self.state().containers()?)
    }

    /// A container by name, id or prefix of an id.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn container(&self, name: &str) -> Result<ContainerRecord, Error> {
        Ok(self.state().container(name.strip_prefix('/').unwrap_or(name))?)
    }

    /// The containers that `filters` let through, newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Filter`] for states that there are none of; [`Error::State`] where a container to compare with is not
    /// there.
    pub fn containers_matching(&self, filters: &ContainerFilters) -> Result<Vec<ContainerRecord>, Error> {
        known("status", &filters.statuses, &STATUSES)?;
        known("health", &filters.health, &HEALTH)?;
        let moment = |name: &Option<String>| {
            name.as_ref().map(|name| self.container(name).map(|record| record.created_at)).transpose()
        };
        let (before, since) = (moment(&filters.before)?, moment(&filters.since)?);
        let ancestors = self.ancestors(&filters.ancestors)?;
        let asks_for_state =
            filters.all || filters.last.is_some() || !filters.statuses.is_empty() || !filters.exited.is_empty();
        let mut records = self.containers()?;
        records.retain(|record| {
            (asks_for_state || record.state.is_live())
                && before.is_none_or(|moment| record.created_at < moment)
                && since.is_none_or(|moment| record.created_at > moment)
                && ancestors.as_ref().is_none_or(|wanted| is_descendant(wanted, record))
                && fits(filters, record)
        });
        records.truncate(filters.last.unwrap_or(usize::MAX));
        Ok(records)
    }

    /// The images that are meant, and what they were called.
    fn ancestors(&self, names: &[String]) -> Result<Option<Ancestors>, Error> {
        if names.is_empty() {
            return Ok(None);
        }
        let mut ancestors = Ancestors { ids: Vec::new(), layers: Vec::new(), names: names.to_vec() };
        for name in names {
            if let Ok(image) = self.images().resolve(name) {
                ancestors.layers.push(diff_ids(&image));
                ancestors.ids.push(image.id);
            }
        }
        // Images that were built upon those.
        for image in self.images().list()? {
            let layers = diff_ids(&image);
            if ancestors.layers.iter().any(|base| !base.is_empty() && layers.starts_with(base)) {
                ancestors.ids.push(image.id);
            }
        }
        Ok(Some(ancestors))
    }
}

struct Ancestors {
    ids: Vec<String>,
    layers: Vec<Vec<String>>,
    names: Vec<String>,
}

fn diff_ids(image: &state::ImageRecord) -> Vec<String> {
    image.layers.iter().map(|layer| layer.diff_id.clone()).collect()
}

fn is_descendant(wanted: &Ancestors, record: &ContainerRecord) -> bool {
    wanted.ids.contains(&record.image_id)
        || wanted.names.iter().any(|name| image::familiar(name) == image::familiar(&record.image_ref))
}

fn known(key: &'static str, values: &[String], known: &[&str]) -> Result<(), Error> {
    match values.iter().find(|value| !known.contains(&value.as_str())) {
        Some(value) => {
            Err(Error::Filter { key, value: value.clone(), problem: format!("expected one of {}", known.join(", ")) })
        }
        None => Ok(()),
    }
}

/// What needs nothing but the record.
fn fits(filters: &ContainerFilters, record: &ContainerRecord) -> bool {
    fn any<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
        wanted.is_empty() || wanted.iter().any(fits)
    }
    let exited = |code: &i32| record.state == ContainerState::Exited && record.exit_code == Some(*code);
    any(&filters.names, |name| has_name(&record.name, name))
        && any(&filters.ids, |id| !id.is_empty() && record.id.starts_with(id.as_str()))
        && any(&filters.statuses, |status| status == record.state.as_str())
        && any(&filters.exited, exited)
        && any(&filters.health, |wanted| wanted == health(record))
        && any(&filters.volumes, |volume| mounts(record, volume))
        && filters.labels.iter().all(|label| has_label(&record.labels, label))
        && !filters.without_labels.iter().any(|label| has_label(&record.labels, label))
        && filters.until.is_none_or(|until| record.created_at < until)
}

fn has_name(name: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let (begin, rest) = wanted.strip_prefix('^').map_or((false, wanted), |rest| (true, rest));
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let (end, part) = rest.strip_suffix('$').map_or((false, rest), |part| (true, part));
    match (begin, end) {
        (true, true) => name == part,
        (true, false) => name.starts_with(part),
        (false, true) => name.ends_with(part),
        (false, false) => name.contains(part),
    }
}

/// Whether a label, `key` or `key=value`, is among `labels`.
pub(crate) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
        None => labels.contains_key(wanted),
    }
}

/// The health of a container, `none` where nobody checks it.
#[must_use]
pub fn health(record: &ContainerRecord) -> &str {
    record.health.as_ref().and_then(|health| health.get("Status")).and_then(Value::as_str).unwrap_or("none")
}

fn mounts(record: &ContainerRecord, wanted: &str) -> bool {
    let Ok(spec) = Spec::of(record) else { return false };
    let is_target = |target: &str| target.trim_end_matches('/') == wanted.trim_end_matches('/');
    spec.resolved.volumes.iter().any(|mount| mount.volume == wanted || is_target(&mount.target))
        || spec.resolved.binds.iter().any(|mount| is_target(&mount.source) || is_target(&mount.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ContainerRecord {
        let mut record =
            ContainerRecord::new("ab12".repeat(16), "calm_otter".into(), "sha256:1".into(), "busybox".into(), 10);
        record.labels.insert("tier".into(), "front".into());
        record
    }

    fn lets_through(change: impl FnOnce(&mut ContainerFilters)) -> bool {
        let mut filters = ContainerFilters::default();
        change(&mut filters);
        fits(&filters, &record())
    }

    #[test]
    fn names_fit_in_part_or_as_a_whole() {
        for wanted in ["calm", "otter", "m_o", "^calm", "otter$", "^/calm_otter$", "/calm", ""] {
            assert!(has_name("calm_otter", wanted), "{wanted}");
        }
        for wanted in ["^otter", "calm$", "^calm$", "Calm"] {
            assert!(!has_name("calm_otter", wanted), "{wanted}");
        }
    }

    #[test]
    fn what_a_record_shows() {
        assert!(lets_through(|_| {}));
        assert!(lets_through(|f| f.names.extend(["ship".into(), "otter".into()])));
        assert!(lets_through(|f| f.ids.push("ab1".into())) && !lets_through(|f| f.ids.push("b1".into())));
        assert!(lets_through(|f| f.statuses.push("created".into())));
        assert!(!lets_through(|f| f.exited.push(0)));
        assert!(lets_through(|f| f.health.push("none".into())));
        assert!(lets_through(|f| f.labels.extend(["tier".into(), "tier=front".into()])));
        assert!(!lets_through(|f| f.labels.extend(["tier".into(), "tier=back".into()])));
        assert!(!lets_through(|f| f.without_labels.push("tier".into())));
        assert!(lets_through(|f| f.until = Some(11)) && !lets_through(|f| f.until = Some(10)));
        assert!(!lets_through(|f| f.volumes.push("cargo".into())));
        assert!(known("status", &["dead".into()], &STATUSES).is_ok());
        let error = known("status", &["gone".into()], &STATUSES).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid filter status=gone: expected one of created, running, paused, restarting, exited, removing, dead"
        );
    }
}
