//! `--filter KEY=VALUE`: what lists and prunings are confined to.

use std::{fmt, str::FromStr};

use engine::image::{ListFilter, PruneRequest, familiar};
use jiff::{Timestamp, civil, tz::TimeZone};

use crate::output::report::Refusal;

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

/// A moment in nanoseconds since 1970: so long before now (`1h30m`), a date with or without a time and a zone, or
/// seconds since 1970.
fn moment(text: &str, now: i64) -> Option<i64> {
    if let Some(ago) = duration(text) {
        return now.checked_sub(ago);
    }
    let zone = TimeZone::system();
    let timestamp = if let Ok(seconds) = text.parse::<i64>() {
        Timestamp::from_second(seconds).ok()?
    } else if let Ok(timestamp) = text.parse::<Timestamp>() {
        timestamp
    } else if let Ok(time) = text.parse::<civil::DateTime>() {
        time.to_zoned(zone).ok()?.timestamp()
    } else {
        text.parse::<civil::Date>().ok()?.to_zoned(zone).ok()?.timestamp()
    };
    i64::try_from(timestamp.as_nanosecond()).ok()
}

/// `1h30m` in nanoseconds, as Go writes durations.
fn duration(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&digits| digits > 0)?;
        let (number, behind) = rest.split_at(digits);
        let unit_end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let seconds: i64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return None,
        };
        let part = number.parse::<i64>().ok()?.checked_mul(seconds)?.checked_mul(1_000_000_000)?;
        total = total.checked_add(part)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn moments() {
        let now = 1_000_000 * SECOND;
        assert_eq!(moment("10m", now), Some(now - 600 * SECOND));
        assert_eq!(moment("2d1h", now), Some(now - (2 * 86_400 + 3600) * SECOND));
        assert_eq!(moment("1970-01-02T00:00:00Z", now), Some(86_400 * SECOND));
        assert!(moment("1970-01-02", now).is_some() && moment("1970-01-02T03:00:00", now).is_some());
        for text in ["", "h", "1", "10x", "-5m", "99999999999h", "m10"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_moment_or_none(text in "\\PC{0,24}", now: i64) {
            let _ = moment(&text, now);
        }
    }
}
