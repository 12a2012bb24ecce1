//! A bar for each layer that is being worked on, and below them one for all.

use std::{collections::BTreeMap, fmt, sync::Mutex, time::Duration};

use engine::{
    image::{Event, familiar},
    quantity::human_decimal,
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{lock, short};
use crate::{output::table, terminal};

/// How often the terminal is written to at most, times a second.
const RATE: u8 = 10;

/// How often the clock alone makes it written to.
const TICK: Duration = Duration::from_millis(250);

/// Most bars of layers at once. More layers than that are only counted.
const BARS_MAX: usize = 12;

/// Columns from which on there is room for the speed.
const WIDE: u16 = 60;

/// The line of a layer.
const LAYER: &str = "{prefix} [{wide_bar}] {counts}";

/// Bars on standard error.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    state: Mutex<State>,
    columns: u16,
    rows: usize,
}

#[derive(Debug)]
struct State {
    total: ProgressBar,
    /// Bars of layers that are being worked on. One that finds no room is not drawn.
    active: BTreeMap<usize, Layer>,
    image: String,
    layers: usize,
    finished: usize,
}

#[derive(Debug)]
struct Layer {
    bar: ProgressBar,
    drawn: bool,
    waiting: bool,
}

impl Bars {
    pub(crate) fn new() -> Self {
        let size = terminal::size().filter(|size| size.columns > 0).unwrap_or_default();
        let (columns, rows) = if size.columns == 0 { (80, 24) } else { (size.columns, size.rows) };
        Self::on(ProgressDrawTarget::stderr_with_hz(RATE), columns, usize::from(rows))
    }

    fn on(target: ProgressDrawTarget, columns: u16, rows: usize) -> Self {
        let all = MultiProgress::with_draw_target(target);
        let total = all.add(ProgressBar::new(0).with_style(style("{spinner} {wide_msg}")));
        total.enable_steady_tick(TICK);
        let state = State { total, active: BTreeMap::new(), image: String::new(), layers: 0, finished: 0 };
        Self { all, state: Mutex::new(state), columns, rows }
    }

    pub(crate) fn event(&self, event: Event<'_>) {
        let mut state = lock(&self.state);
        match event {
            Event::Reading { bytes, total } => state.reading(bytes, total, self.columns),
            Event::Image { name, layers, bytes } => state.image(name, layers, bytes, self.columns),
            Event::LayerWaiting { index } => state.waiting(index),
            Event::LayerStarted { index, digest, total } => self.begin(&mut state, index, digest, total),
            Event::LayerBytes { index, done, .. } => state.bytes(index, done),
            Event::LayerDone { index, .. } => self.end(&mut state, index),
            Event::Assembling => {
                state.total.set_style(style("{spinner} {wide_msg}"));
                state.total.set_message(format!("assembling {}", state.image));
            }
            Event::Done => state.total.set_message(String::new()),
            // What later versions tell is shown by them.
            _ => {}
        }
    }

    fn begin(&self, state: &mut State, index: usize, digest: &str, total: u64) {
        let room = BARS_MAX.min(self.rows.saturating_sub(2));
        let drawn = state.active.values().filter(|layer| layer.drawn).count() < room;
        let bar = ProgressBar::new(total).with_style(style(LAYER)).with_prefix(short(digest));
        let bar = if drawn { self.all.insert_before(&state.total, bar) } else { bar };
        state.active.insert(index, Layer { bar, drawn, waiting: false });
    }

    fn end(&self, state: &mut State, index: usize) {
        if let Some(layer) = state.active.remove(&index) {
            let missing = layer.bar.length().unwrap_or(0).saturating_sub(layer.bar.position());
            state.total.inc(missing);
            if layer.drawn {
                self.all.remove(&layer.bar);
            }
        }
        state.finished += 1;
        state.count();
    }
}

impl State {
    fn reading(&mut self, bytes: u64, total: Option<u64>, columns: u16) {
        if self.total.message() != "reading" {
            self.total.set_message("reading");
            self.total.set_style(if total.is_some() { total_style(columns) } else { style("{spinner} {msg} {moved}") });
            self.total.set_length(total.unwrap_or(0));
        }
        self.total.set_position(bytes);
    }

    fn image(&mut self, name: &str, layers: usize, bytes: u64, columns: u16) {
        self.image = table::visible(familiar(name));
        (self.layers, self.finished) = (layers, 0);
        self.total.set_style(if bytes > 0 { total_style(columns) } else { style("{spinner} {msg} {moved}") });
        self.total.set_length(bytes);
        self.total.set_position(0);
        self.total.reset_eta();
        self.count();
    }

    fn waiting(&mut self, index: usize) {
        if let Some(layer) = self.active.get_mut(&index) {
            layer.waiting = true;
            layer.bar.set_style(style("{prefix} {wide_msg}"));
            layer.bar.set_message("waiting for another command");
        }
    }

    fn bytes(&mut self, index: usize, done: u64) {
        let Some(layer) = self.active.get_mut(&index) else { return };
        if std::mem::take(&mut layer.waiting) {
            layer.bar.set_style(style(LAYER));
        }
        // A layer that starts anew takes back what it had.
        let before = layer.bar.position();
        let total = self.total.position();
        self.total.set_position(total.saturating_sub(before).saturating_add(done));
        layer.bar.set_position(done);
    }

    fn count(&self) {
        self.total.set_message(format!("{}/{} layers", self.finished, self.layers));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let state = lock(&self.state);
        state.active.values().for_each(|layer| layer.bar.finish_and_clear());
        state.total.finish_and_clear();
        // A terminal that is gone needs no tidying.
        let _ = self.all.clear();
    }
}

fn total_style(columns: u16) -> ProgressStyle {
    style(if columns < WIDE { "{msg} [{wide_bar}] {counts}" } else { "{msg} [{wide_bar}] {counts} {speed}" })
}

/// A template that is wrong shows the default bar.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let counts = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{}/{}", human_decimal(state.pos()), human_decimal(state.len().unwrap_or(0)));
    };
    let moved = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&human_decimal(state.pos()));
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a speed below 2^53, from 0")]
    let speed = |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = write!(out, "{}/s", human_decimal(state.per_sec().max(0.0) as u64));
    };
    style.with_key("counts", counts).with_key("moved", moved).with_key("speed", speed).progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef";

    /// What a terminal shows after these events.
    fn screen(rows: u16, columns: u16, events: impl Fn(&Bars)) -> String {
        let terminal = InMemoryTerm::new(rows, columns);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let bars = Bars::on(target, columns, usize::from(rows));
        events(&bars);
        std::thread::sleep(TICK * 2);
        terminal.contents()
    }

    #[test]
    fn active_layers_and_a_total_in_forty_columns() {
        let shown = screen(24, 40, |bars| {
            bars.event(Event::Image { name: "docker.io/library/busybox:latest", layers: 3, bytes: 300_000_000 });
            for index in 0..3 {
                bars.event(Event::LayerStarted { index, digest: DIGEST, total: 100_000_000 });
            }
            bars.event(Event::LayerBytes { index: 0, done: 50_000_000, total: 100_000_000 });
            bars.event(Event::LayerDone { index: 1, shared: true });
            bars.event(Event::LayerWaiting { index: 2 });
            bars.event(Event::LayerWaiting { index: 0 });
            bars.event(Event::LayerBytes { index: 0, done: 50_000_000, total: 100_000_000 });
        });
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(lines[0].starts_with("0123456789ab [=======>") && lines[0].ends_with("50MB/100MB"), "{shown}");
        assert!(lines[1].starts_with("0123456789ab waiting"), "{shown}");
        assert!(lines[2].starts_with("1/3 layers [") && lines[2].ends_with("150MB/300MB"), "{shown}");
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{shown}");
    }

    #[test]
    fn long_names_are_cut() {
        let name = "registry.example:5000/".to_owned() + &"long/".repeat(20) + "name:1";
        let shown = screen(24, 40, |bars| {
            bars.event(Event::Reading { bytes: 5000, total: None });
            bars.event(Event::Image { name: &name, layers: 1, bytes: 0 });
            bars.event(Event::Assembling);
        });
        assert!(shown.lines().count() == 1 && shown.contains("assembling registry.example:5000/"), "{shown}");
    }

    #[test]
    fn many_layers_fit() {
        let shown = screen(10, 40, |bars| {
            bars.event(Event::Image { name: "x", layers: 128, bytes: 128_000 });
            for index in 0..128 {
                bars.event(Event::LayerStarted { index, digest: DIGEST, total: 1000 });
                bars.event(Event::LayerBytes { index, done: 500, total: 1000 });
            }
            (0..100).for_each(|index| bars.event(Event::LayerDone { index, shared: false }));
        });
        assert!(shown.lines().count() <= 9, "{shown}");
        assert!(shown.contains("100/128 layers") && shown.contains("114kB/128kB"), "{shown}");
    }

    #[test]
    fn nothing_is_left() {
        let terminal = InMemoryTerm::new(10, 80);
        let bars = Bars::on(ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255), 80, 10);
        bars.event(Event::Image { name: "x", layers: 1, bytes: 10 });
        bars.event(Event::LayerStarted { index: 0, digest: DIGEST, total: 10 });
        bars.event(Event::LayerBytes { index: 0, done: 5, total: 10 });
        drop(bars);
        assert_eq!(terminal.contents(), "");
    }
}
