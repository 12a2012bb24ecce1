//! Loads an image by hand and says how long it took: `load HOME ARCHIVE|DIRECTORY|-`.

use std::path::Path;
use std::time::Instant;

use image::{Event, ImageError, Images, LoadSource, Progress};

struct Clock {
    begun: Instant,
}

impl Progress for Clock {
    fn event(&self, event: Event<'_>) {
        if !matches!(event, Event::LayerBytes { .. } | Event::Reading { .. }) {
            println!("{:8.1} ms  {event:?}", self.begun.elapsed().as_secs_f64() * 1e3);
        }
    }
}

fn main() -> Result<(), ImageError> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [home, source] = &arguments[..] else {
        eprintln!("usage: load HOME ARCHIVE|DIRECTORY|-");
        std::process::exit(2);
    };
    let clock = Clock { begun: Instant::now() };
    let images = Images::open(Path::new(home))?;
    let source =
        if source == "-" { LoadSource::Stream(Box::new(std::io::stdin())) } else { LoadSource::Path(source.into()) };
    for loaded in images.load(source, &clock, None)? {
        let image = images.resolve(&loaded.id)?;
        let begun = Instant::now();
        let device = images.root_device(&image)?;
        println!("{} {:?}: {} bytes, {} extents", loaded.id, loaded.names, image.size, device.extents.len());
        println!("root device in {:.2} ms", begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
