//! `--filter KEY=VALUE`: what lists and prunings are confined to.

use std::{fmt, str::FromStr};

use engine::{
    ContainerFilters, ContainerPruneFilters, EventsOptions,
    events::EventKind,
    image::{ListFilter, PruneRequest, familiar},
    volumes::VolumeFilters,
};

use crate::{moments::moment, output::report::Refusal};

/// One filter, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    key: String,
    value: String,
}

/// A text that is no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a filter is KEY=VALUE")]
pub(crate) struct NoFilter;

impl FromStr for Filter {
    type Err = NoFilter;

    fn from_str(text: &str) -> Result<Self, NoFilter> {
        let (key, value) = text.split_once('=').ok_or(NoFilter)?;
        Ok(Self { key: key.trim().to_lowercase(), value: value.trim().to_owned() })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl Filter {
    fn unknown(&self, known: &str) -> Refusal {
        Refusal::new(format!("there is no filter {:?}", self.key), format!("the filters here are {known}"))
    }

    fn truth(&self) -> Result<bool, Refusal> {
        match self.value.to_lowercase().as_str() {
            "1" | "true" | "t" => Ok(true),
            "0" | "false" | "f" => Ok(false),
            _ => Err(Refusal::new(format!("filter {self} is neither true nor false"), "write true")),
        }
    }

    fn moment(&self, now: i64) -> Result<i64, Refusal> {
        let hint = "write how long ago, as in 24h or 90m, or when, as in 2026-11-23 or 2026-11-23T12:00:00Z";
        moment(&self.value, now).ok_or_else(|| Refusal::new(format!("filter {self} is no moment"), hint))
    }
}

/// The images that `images` lists.
pub(crate) fn of_list(filters: &[Filter], name: Option<&str>, now: i64) -> Result<ListFilter, Refusal> {
    let mut list = ListFilter::default();
    list.references.extend(name.map(|name| familiar(name).to_owned()));
    for filter in filters {
        let value = filter.value.clone();
        match filter.key.as_str() {
            "dangling" => list.dangling = Some(filter.truth()?),
            "before" => list.before.push(value),
            "since" => list.since.push(value),
            "reference" => list.references.push(familiar(&value).to_owned()),
            "label" => list.labels.push(value),
            "label!" => list.without_labels.push(value),
            "until" => list.until = Some(filter.moment(now)?),
            _ => return Err(filter.unknown("dangling, reference, before, since, until, label and label!")),
        }
    }
    Ok(list)
}

/// The images that a pruning removes.
pub(crate) fn of_pruning(filters: &[Filter], all: bool, now: i64) -> Result<PruneRequest, Refusal> {
    let mut request = PruneRequest { all, ..PruneRequest::default() };
    for filter in filters {
        match filter.key.as_str() {
            "dangling" => request.all |= !filter.truth()?,
            "label" => request.labels.push(filter.value.clone()),
            "label!" => request.without_labels.push(filter.value.clone()),
            "until" => request.until = Some(filter.moment(now)?),
            _ => return Err(filter.unknown("until, label, label! and dangling")),
        }
    }
    Ok(request)
}

/// The containers that `ps` lists.
pub(crate) fn of_containers(filters: &[Filter]) -> Result<ContainerFilters, Refusal> {
    let mut list = ContainerFilters::default();
    for filter in filters {
        let value = filter.value.clone();
        match filter.key.as_str() {
            "id" => list.ids.push(value),
            "name" => list.names.push(value),
            "status" => list.statuses.push(value),
            "label" => list.labels.push(value),
            "ancestor" => list.ancestors.push(value),
            "health" => list.health.push(value),
            "before" => list.before = Some(value),
            "since" => list.since = Some(value),
            "volume" => list.volumes.push(value),
            "exited" => {
                let hint = "write a number, as in exited=0";
                let code = value.parse().map_err(|_| Refusal::new(format!("filter {filter} is no exit code"), hint))?;
                list.exited.push(code);
            }
            "network" | "publish" | "expose" => {
                let hint = "containers have no network yet, so that there is nothing to tell them apart by";
                return Err(Refusal::new(format!("filter {filter} is not supported"), hint));
            }
            _ => {
                let known = "id, name, status, label, ancestor, exited, health, before, since and volume";
                return Err(filter.unknown(known));
            }
        }
    }
    // Who asks for those that have ended is not to be shown only those that run.
    list.all = !list.statuses.is_empty() || !list.exited.is_empty();
    Ok(list)
}

/// The containers that a pruning removes.
pub(crate) fn of_container_pruning(filters: &[Filter], now: i64) -> Result<ContainerPruneFilters, Refusal> {
    let mut request = ContainerPruneFilters::default();
    for filter in filters {
        match filter.key.as_str() {
            "label" => request.labels.push(filter.value.clone()),
            "label!" => request.without_labels.push(filter.value.clone()),
            "until" => request.until = Some(filter.moment(now)?),
            _ => return Err(filter.unknown("until, label and label!")),
        }
    }
    Ok(request)
}

/// The volumes that `volume ls` lists, and `volume prune` removes; whether `all=true` is among it.
pub(crate) fn of_volumes(filters: &[Filter]) -> Result<(VolumeFilters, bool), Refusal> {
    let mut list = VolumeFilters::default();
    let mut all = false;
    for filter in filters {
        let value = filter.value.clone();
        match filter.key.as_str() {
            "name" => list.names.push(value),
            "driver" => list.drivers.push(value),
            "dangling" => list.dangling = Some(filter.truth()?),
            "all" => all = filter.truth()?,
            "label" => list.labels.push(match value.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (value, None),
            }),
            _ => return Err(filter.unknown("name, driver, dangling and label")),
        }
    }
    Ok((list, all))
}

/// The events that `events` tells of.
pub(crate) fn of_events(filters: &[Filter]) -> Result<EventsOptions, Refusal> {
    let mut options = EventsOptions::default();
    for filter in filters {
        let value = filter.value.clone();
        match filter.key.as_str() {
            "container" => options.containers.push(value),
            "image" => options.images.push(value),
            "volume" => options.volumes.push(value),
            "label" => options.labels.push(value),
            "event" => options.actions.push(value),
            "type" => {
                let hint = "the types are container, image and volume";
                let unknown = || Refusal::new(format!("filter {filter} is no type of event"), hint);
                options.kinds.push(EventKind::of(&value).ok_or_else(unknown)?);
            }
            _ => return Err(filter.unknown("container, image, volume, label, event and type")),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn filters(texts: &[&str]) -> Vec<Filter> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn filters_of_lists() {
        let texts = ["dangling=true", "label=a=b", "label!=c", "reference=docker.io/library/x", "until=1h30m"];
        let list = of_list(&filters(&texts), Some("busy*"), 10_000 * SECOND).unwrap();
        let expected = ListFilter {
            dangling: Some(true),
            references: vec!["busy*".into(), "x".into()],
            labels: vec!["a=b".into()],
            without_labels: vec!["c".into()],
            until: Some(4600 * SECOND),
            ..ListFilter::default()
        };
        assert_eq!(list, expected);
        for (text, problem) in [
            ("size=3", "there is no filter \"size\""),
            ("dangling=maybe", "neither true nor false"),
            ("until=soon", "is no moment"),
        ] {
            let error = of_list(&filters(&[text]), None, 0).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        assert_eq!("dangling".parse::<Filter>(), Err(NoFilter));
    }

    #[test]
    fn filters_of_prunings() {
        let request = of_pruning(&filters(&["until=60", "label=x"]), false, 0).unwrap();
        assert_eq!((request.all, request.until, request.labels), (false, Some(60 * SECOND), vec!["x".to_owned()]));
        assert!(of_pruning(&filters(&["dangling=false"]), false, 0).unwrap().all);
        assert!(of_pruning(&filters(&["reference=x"]), false, 0).is_err());
    }

    #[test]
    fn filters_of_containers() {
        let list = of_containers(&filters(&["status=exited", "name=web", "exited=137", "label=a=b"])).unwrap();
        assert!(list.all && list.exited == [137] && list.labels == ["a=b"] && list.names == ["web"]);
        assert!(!of_containers(&filters(&["name=web"])).unwrap().all);
        for (text, problem) in
            [("exited=soon", "is no exit code"), ("network=x", "is not supported"), ("colour=x", "there is no filter")]
        {
            let error = of_containers(&filters(&[text])).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn filters_of_volumes_and_events() {
        let (list, all) = of_volumes(&filters(&["label=a=b", "label=c", "dangling=1", "all=true"])).unwrap();
        assert_eq!(list.labels, [("a".to_owned(), Some("b".to_owned())), ("c".to_owned(), None)]);
        assert!(all && list.dangling == Some(true));
        let options = of_events(&filters(&["type=container", "event=die", "container=web"])).unwrap();
        assert_eq!((options.kinds.len(), options.actions.len(), options.containers.len()), (1, 1, 1));
        assert!(of_events(&filters(&["type=network"])).is_err());
    }
}
