//! `coracle load`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use engine::{
    Engine,
    image::{Event, LoadSource, Progress, familiar},
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::command_line::LoadFlags;

pub(crate) fn load(engine: &Engine, flags: &LoadFlags) -> anyhow::Result<()> {
    let source = if flags.input == Path::new("-") {
        if io::stdin().is_terminal() {
            anyhow::bail!("standard input is a terminal: name an archive with -i, or pipe one in");
        }
        LoadSource::Stream(Box::new(io::stdin()))
    } else {
        LoadSource::Path(flags.input.clone())
    };
    let progress = Shown::new(!flags.quiet && io::stderr().is_terminal());
    let loaded = engine.images().load(source, &progress, flags.platform.as_ref());
    progress.bar.finish_and_clear();
    let mut out = io::stdout().lock();
    for image in loaded? {
        for name in &image.names {
            writeln!(out, "Loaded image: {}", familiar(name))?;
        }
        if image.names.is_empty() {
            writeln!(out, "Loaded image ID: {}", image.id)?;
        }
    }
    Ok(())
}

/// One line on a terminal that says what is being done.
struct Shown {
    bar: ProgressBar,
    image: Mutex<(String, usize)>,
}

impl Shown {
    fn new(visible: bool) -> Self {
        let bar = if visible { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if visible {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar, image: Mutex::default() }
    }

    fn image(&self) -> MutexGuard<'_, (String, usize)> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self, message: String, total: Option<u64>) {
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes}",
            None => "{spinner} {msg}",
        };
        // A template that is wrong shows the default bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_position(0);
        self.bar.set_message(message);
    }
}

impl Progress for Shown {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Reading { bytes, total } => {
                if self.bar.message().is_empty() {
                    self.phase("reading".to_owned(), total);
                }
                self.bar.set_position(bytes);
            }
            Event::Image { name, layers, .. } => {
                self.phase(familiar(name).to_owned(), None);
                *self.image() = (familiar(name).to_owned(), layers);
            }
            Event::LayerStarted { index, total, .. } => {
                let (image, layers) = self.image().clone();
                self.phase(format!("{image}: layer {} of {layers}", index + 1), Some(total));
            }
            Event::LayerBytes { done, .. } => self.bar.set_position(done),
            Event::LayerDone { .. } => {}
            Event::Assembling => self.phase(format!("{}: assembling", self.image().0), None),
            Event::Done => self.bar.set_message(""),
            // What later versions tell is shown by them.
            _ => {}
        }
    }
}
