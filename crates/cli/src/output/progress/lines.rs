//! A line for each step of a layer, in Docker's words.

use std::{io::Write as _, sync::Mutex};

use engine::{
    image::{Event, familiar},
    quantity::human_decimal,
};

use super::{Task, lock, short};
use crate::output::table;

/// Lines on standard error.
#[derive(Debug)]
pub(crate) struct Lines {
    task: Task,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reading: bool,
    /// What the layers are called.
    labels: Vec<String>,
}

impl Lines {
    pub(crate) fn new(task: Task) -> Self {
        Self { task, state: Mutex::default() }
    }

    pub(crate) fn event(&self, event: Event<'_>) {
        if let Some(line) = lock(&self.state).line(self.task, event) {
            // Standard error that takes nothing cannot be complained about.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

impl State {
    fn line(&mut self, task: Task, event: Event<'_>) -> Option<String> {
        Some(match event {
            Event::Reading { .. } if std::mem::replace(&mut self.reading, true) => return None,
            Event::Reading { .. } => "reading\n".to_owned(),
            Event::Image { name, layers, bytes } => {
                self.labels = (1..=layers).map(|number| format!("layer {number}")).collect();
                let name = table::visible(familiar(name));
                let layers = if layers == 1 { "1 layer".to_owned() } else { format!("{layers} layers") };
                format!("{name}: {} {layers}, {}\n", task.working(), human_decimal(bytes))
            }
            Event::LayerWaiting { index } => format!("{}: Waiting\n", self.label(index)),
            Event::LayerStarted { index, digest, total } => {
                if let Some(label) = self.labels.get_mut(index) {
                    *label = short(digest);
                }
                format!("{}: {} {}\n", self.label(index), task.working(), human_decimal(total))
            }
            Event::LayerDone { index, shared } => {
                format!("{}: {}\n", self.label(index), if shared { task.shared() } else { task.done() })
            }
            Event::Assembling => "assembling\n".to_owned(),
            _ => return None,
        })
    }

    fn label(&self, index: usize) -> &str {
        self.labels.get(index).map_or("layer", String::as_str)
    }
}

impl Task {
    fn working(self) -> &'static str {
        match self {
            Self::Load => "Loading",
            Self::Pull => "Downloading",
            Self::Push => "Pushing",
            Self::Verify => "Verifying",
        }
    }

    fn shared(self) -> &'static str {
        match self {
            Self::Load | Self::Pull => "Already exists",
            Self::Push => "Layer already exists",
            Self::Verify => "Verified",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Load => "Load complete",
            Self::Pull => "Pull complete",
            Self::Push => "Pushed",
            Self::Verify => "Verified",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_pull() {
        let mut state = State::default();
        let events = [
            Event::Image { name: "docker.io/library/a:1", layers: 2, bytes: 3_000_000 },
            Event::LayerStarted { index: 0, digest: "sha256:0123456789abcdef", total: 1_000_000 },
            Event::LayerBytes { index: 0, done: 1, total: 1_000_000 },
            Event::LayerDone { index: 0, shared: false },
            Event::LayerWaiting { index: 1 },
            Event::LayerDone { index: 1, shared: true },
            Event::Assembling,
            Event::Done,
        ];
        let text: String = events.into_iter().filter_map(|event| state.line(Task::Pull, event)).collect();
        let expected = "a:1: Downloading 2 layers, 3MB\n0123456789ab: Downloading 1MB\n0123456789ab: Pull complete\n\
                        layer 2: Waiting\nlayer 2: Already exists\nassembling\n";
        assert_eq!(text, expected);
    }
}
