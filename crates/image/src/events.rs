//! Telling what happens to images. An event is not worth an error: one that cannot be written is lost.

use state::EventKind;

use crate::{Images, familiar};

impl Images {
    /// What was pulled or pushed is told by its name, as Docker does; everything else by the image's id.
    pub(crate) fn tell(&self, action: &str, id: &str, name: &str) {
        let attributes = [("name".to_owned(), familiar(name).to_owned())].into();
        let _ = self.state.insert_event(EventKind::Image, action, familiar(id), &attributes);
    }
}
