//! What the layers below say when a request fails, in the crate's own words.

use std::error::Error as StdError;
use std::io;

use reqwest::Url;

use crate::answer::show;
use crate::environment::Deadlines;
use crate::error::{RegistryError, Unreached, Waiting};
use crate::guard::{NameFailure, OutOfReach};

/// No part of a message is longer.
const LONGEST: usize = 300;

/// A URL as it is shown: without user, password, query and fragment, where secrets may be.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // These fail for URLs that can have neither; such are never asked.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    show(url.as_str(), LONGEST)
}

/// The causes of an error, those included that hide in an [`io::Error`].
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    fn next<'a>(error: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        let error = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), next).take(16)
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The message of the innermost cause: it says most.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map_or_else(String::new, |cause| show(&cause.to_string(), LONGEST))
}

/// Whether a connection failed because no TLS is spoken there, or nothing at all, so that plain HTTP may be.
pub(crate) fn may_be_plain(error: &reqwest::Error) -> bool {
    if find::<NameFailure>(error).is_some() || find::<OutOfReach>(error).is_some() {
        return false;
    }
    match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidMessage(_)) => true,
        Some(_) => false,
        None => error.is_connect() || error.is_timeout(),
    }
}

/// What a failed request means. `proxied` is whether a proxy was to carry it.
pub(crate) fn classify(url: &Url, error: &reqwest::Error, proxied: bool, deadlines: &Deadlines) -> RegistryError {
    let target = shown(url);
    let detail = innermost(error);
    if let Some(OutOfReach { .. }) = find(error) {
        return RegistryError::Redirect { url: target.clone(), to: target, problem: detail };
    }
    if find::<NameFailure>(error).is_some() {
        return RegistryError::Unreachable { url: target, why: Unreached::Name, detail };
    }
    match find::<rustls::Error>(error) {
        Some(rustls::Error::InvalidMessage(_)) if error.is_connect() => {
            return RegistryError::Tls { url: target, detail: "the server does not speak TLS".into() };
        }
        Some(_) => return RegistryError::Tls { url: target, detail },
        None => {}
    }
    if error.is_connect() {
        return unconnected(target, error, detail, proxied, deadlines);
    }
    match find::<hyper::Error>(error) {
        Some(e) if e.is_parse() => RegistryError::Protocol { url: target, problem: detail },
        _ => RegistryError::Broken { url: target, detail },
    }
}

fn unconnected(
    url: String,
    error: &reqwest::Error,
    detail: String,
    proxied: bool,
    deadlines: &Deadlines,
) -> RegistryError {
    let io = find::<io::Error>(error).map(io::Error::kind);
    if error.is_timeout() || io == Some(io::ErrorKind::TimedOut) {
        return RegistryError::Timeout { url, waiting: Waiting::Connection, after: deadlines.connect };
    }
    if proxied {
        return RegistryError::Unreachable { url, why: Unreached::Proxy, detail };
    }
    match io {
        Some(io::ErrorKind::ConnectionRefused) => RegistryError::Unreachable { url, why: Unreached::Refused, detail },
        // It was there, and went away while TLS was set up.
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            RegistryError::Broken { url, detail }
        }
        _ => RegistryError::Unreachable { url, why: Unreached::Network, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        let url = Url::parse("https://me:secret@r.example:5000/v2/a?X-Amz-Signature=secret#secret").unwrap();
        assert_eq!(shown(&url), "https://r.example:5000/v2/a");
    }
}
