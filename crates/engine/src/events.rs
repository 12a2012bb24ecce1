//! What happens to containers, images and volumes.

use std::time::Duration;

use state::EventQuery;
pub use state::{Attributes, Event, EventKind};

use crate::{Engine, error::Error, list, process::wall_clock_ns, reconcile};

/// Which events are wanted. Of several values of one field one must fit, and every field that has some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsOptions {
    /// From this moment on, in ns since 1970; from now on where it is missing.
    pub since: Option<i64>,
    /// Up to this moment, in ns since 1970; for ever where it is missing.
    pub until: Option<i64>,
    /// Kinds of things.
    pub kinds: Vec<EventKind>,
    /// What happened: `die`; `health_status` is all that begin so.
    pub actions: Vec<String>,
    /// Names or ids of containers.
    pub containers: Vec<String>,
    /// Names or ids of images.
    pub images: Vec<String>,
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Labels: `key` or `key=value`; all of them.
    pub labels: Vec<String>,
}

/// Events as they come. It ends where the options say so.
#[derive(Debug)]
pub struct EventStream<'a> {
    engine: &'a Engine,
    options: EventsOptions,
    query: EventQuery,
    waiting: std::vec::IntoIter<Event>,
}

/// How often is looked for keepers that died without a word, so that this is told.
const LOOK: Duration = Duration::from_secs(2);

impl Engine {
    /// Tells what happens.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn events(&self, options: &EventsOptions) -> Result<EventStream<'_>, Error> {
        let after = if options.since.is_some() { 0 } else { self.state().last_event()? };
        // Without a beginning, an end that is past wants what there is.
        let past = options.since.is_none() && options.until.is_some_and(|until| until <= wall_clock_ns());
        let query = EventQuery { after: if past { 0 } else { after }, since: options.since, until: options.until };
        Ok(EventStream { engine: self, options: options.clone(), query, waiting: Vec::new().into_iter() })
    }

    /// Writes an event of something that is no container.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn tell(&self, kind: EventKind, action: &str, id: &str, attributes: &[(&str, &str)]) -> Result<(), Error> {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(self.state().insert_event(kind, action, id, &attributes)?)
    }
}

impl Iterator for EventStream<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.waiting.by_ref().find(|event| fits(&self.options, event)) {
                return Some(Ok(event));
            }
            match self.more() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl EventStream<'_> {
    /// Waits for more events. `false`: there will be none.
    fn more(&mut self) -> Result<bool, Error> {
        let left = self.options.until.map(|until| until.saturating_sub(wall_clock_ns()));
        let over = left.is_some_and(|left| left <= 0);
        let left = left.map_or(LOOK, |left| Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
        let events = self.engine.state().wait_for_events(&self.query, left.min(LOOK))?;
        if let Some(last) = events.last() {
            self.query.after = last.seq;
        } else if over {
            return Ok(false);
        } else {
            reconcile::reconcile(self.engine.state(), self.engine.home())?;
        }
        self.waiting = events.into_iter();
        Ok(true)
    }
}

fn fits(options: &EventsOptions, event: &Event) -> bool {
    let EventsOptions { kinds, actions, containers, images, volumes, labels, .. } = options;
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is_one = |wanted: &str| {
        let is_id = !wanted.is_empty() && event.id.trim_start_matches("sha256:").starts_with(wanted);
        event.id == wanted || is_id || attribute("name") == wanted
    };
    let is_of = |kind: EventKind, wanted: &[String]| {
        wanted.is_empty() || (event.kind == kind && wanted.iter().any(|wanted| is_one(wanted)))
    };
    let action = |wanted: &String| {
        let begins = event.action.strip_prefix(wanted.as_str());
        begins.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let image = |wanted: &String| match event.kind {
        EventKind::Image => is_one(wanted),
        _ => !wanted.is_empty() && image::familiar(attribute("image")) == image::familiar(wanted),
    };
    (kinds.is_empty() || kinds.contains(&event.kind))
        && (actions.is_empty() || actions.iter().any(action))
        && is_of(EventKind::Container, containers)
        && is_of(EventKind::Volume, volumes)
        && (images.is_empty() || images.iter().any(image))
        && labels.iter().all(|label| list::has_label(&event.attributes, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let attributes = [("name", "boat"), ("image", "busybox"), ("tier", "front")];
        Event {
            seq: 1,
            at: 5,
            kind: EventKind::Container,
            action: "health_status: healthy".to_owned(),
            id: "ab12".repeat(16),
            attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn wants(change: impl FnOnce(&mut EventsOptions)) -> bool {
        let mut options = EventsOptions::default();
        change(&mut options);
        fits(&options, &event())
    }

    #[test]
    fn which_events_fit() {
        assert!(wants(|_| {}));
        assert!(wants(|o| o.kinds.push(EventKind::Container)) && !wants(|o| o.kinds.push(EventKind::Image)));
        assert!(wants(|o| o.actions.push("health_status".into())));
        assert!(wants(|o| o.actions.push("health_status: healthy".into())));
        assert!(!wants(|o| o.actions.push("health".into())));
        assert!(wants(|o| o.containers.push("boat".into())) && wants(|o| o.containers.push("ab12a".into())));
        assert!(!wants(|o| o.containers.push("ship".into())) && !wants(|o| o.volumes.push("boat".into())));
        assert!(wants(|o| o.images.push("busybox".into())) && !wants(|o| o.images.push("alpine".into())));
        assert!(wants(|o| o.labels.push("tier=front".into())) && !wants(|o| o.labels.push("tier=back".into())));
        assert!(wants(|o| o.labels.extend(["tier".into(), "tier=front".into()])));
    }
}
