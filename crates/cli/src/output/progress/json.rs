//! An object a line, as [the module above](super) specifies it.

use std::{
    io::Write as _,
    sync::Mutex,
    time::{Duration, Instant},
};

use engine::image::Event;
use serde_json::{Value, json};

use super::lock;

/// Bytes of the same thing are told no more often than this.
const INTERVAL: Duration = Duration::from_millis(100);

/// Objects on standard error.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: Option<Instant>,
    layers: Vec<Layer>,
}

#[derive(Debug, Default, Clone)]
struct Layer {
    digest: Option<String>,
    done: u64,
    total: u64,
    told: Option<Instant>,
}

impl Objects {
    pub(crate) fn event(&self, event: Event<'_>) {
        // Under the lock, so that what is written is in order.
        let mut state = lock(&self.state);
        if let Some(object) = state.object(event, Instant::now()) {
            // Standard error that takes nothing cannot be complained about.
            let _ = std::io::stderr().write_all(format!("{object}\n").as_bytes());
        }
    }
}

impl State {
    fn object(&mut self, event: Event<'_>, now: Instant) -> Option<Value> {
        Some(match event {
            Event::Reading { bytes, total } => {
                is_due(&mut self.read, now).then(|| json!({ "event": "reading", "done": bytes, "total": total }))?
            }
            Event::Image { name, layers, bytes } => {
                self.layers = vec![Layer::default(); layers];
                json!({ "event": "image", "name": name, "layers": layers, "bytes": bytes })
            }
            Event::LayerWaiting { index } => self.layer(index, "waiting")?,
            Event::LayerStarted { index, digest, total } => {
                let layer = self.layers.get_mut(index)?;
                *layer = Layer { digest: Some(digest.to_owned()), done: 0, total, told: Some(now) };
                self.layer(index, "working")?
            }
            Event::LayerBytes { index, done, total } => {
                let layer = self.layers.get_mut(index)?;
                (layer.done, layer.total) = (done, total);
                is_due(&mut layer.told, now).then(|| self.layer(index, "working"))??
            }
            Event::LayerDone { index, shared } => {
                let layer = self.layers.get_mut(index)?;
                layer.done = layer.total;
                self.layer(index, if shared { "shared" } else { "done" })?
            }
            Event::Assembling => json!({ "event": "assembling" }),
            Event::Done => json!({ "event": "done" }),
            _ => return None,
        })
    }

    fn layer(&self, index: usize, state: &str) -> Option<Value> {
        let Layer { digest, done, total, .. } = self.layers.get(index)?;
        let object = json!({
            "event": "layer", "index": index, "digest": digest, "state": state, "done": done, "total": total,
        });
        Some(object)
    }
}

fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let due = told.is_none_or(|told| now.duration_since(told) >= INTERVAL);
    if due {
        *told = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_pull() {
        let start = Instant::now();
        let mut state = State::default();
        let mut found = Vec::new();
        for (milliseconds, event) in [
            (0, Event::Image { name: "a", layers: 1, bytes: 20 }),
            (1, Event::LayerWaiting { index: 0 }),
            (2, Event::LayerStarted { index: 0, digest: "sha256:00", total: 20 }),
            (3, Event::LayerBytes { index: 0, done: 5, total: 20 }),
            (110, Event::LayerBytes { index: 0, done: 15, total: 20 }),
            (111, Event::LayerDone { index: 0, shared: false }),
            (112, Event::LayerDone { index: 7, shared: false }),
            (113, Event::Done),
        ] {
            found.extend(state.object(event, start + Duration::from_millis(milliseconds)));
        }
        let layer = |digest: Option<&str>, state: &str, done: u64, total: u64| json!({ "event": "layer", "index": 0, "digest": digest, "state": state, "done": done, "total": total });
        let expected = [
            json!({ "event": "image", "name": "a", "layers": 1, "bytes": 20 }),
            layer(None, "waiting", 0, 0),
            layer(Some("sha256:00"), "working", 0, 20),
            layer(Some("sha256:00"), "working", 15, 20),
            layer(Some("sha256:00"), "done", 20, 20),
            json!({ "event": "done" }),
        ];
        assert_eq!(found, expected);
    }
}
