//! Names of images, read as Docker reads them.
//!
//! The grammar is that of `distribution/reference` (`reference.go`), the completion of short names that of its
//! `normalize.go`:
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] component *( "/" component )          at most 255 characters
//! domain     = ( label *( "." label ) | "[" IPv6 "]" ) [ ":" port ]  label: letters, digits, inner "-"
//! component  = alphanumeric *( separator alphanumeric )              lower case; separator: "." "_" "__" 1*"-"
//! tag        = ( letter | digit | "_" ) *127( letter | digit | "_" | "." | "-" )
//! ```
//!
//! What comes before the first slash is a domain only if it has a dot, a colon or an upper-case letter in it, or is
//! `localhost`; without a domain it is `docker.io`; there, a single component is below `library/`.

use std::fmt;
use std::str::FromStr;

use store::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A complete name: `docker.io/library/busybox:latest`. Without a digest it always has a tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid image name: {problem}")]
pub struct ReferenceError {
    /// What was given, at most 300 characters of it.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Reference {
    /// Reads a name and completes it.
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] where it does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { text: text.chars().take(300).collect(), problem })
    }

    /// The registry.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/busybox`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest that is meant.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The manifest of that digest in the same repository.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A complete name as people write it: without `docker.io/` and `library/`, where it is understood without.
#[must_use]
pub fn familiar(name: &str) -> &str {
    let Some(rest) = name.strip_prefix("docker.io/") else { return name };
    let short = rest.strip_prefix("library/").filter(|short| !short.contains('/')).unwrap_or(rest);
    let repository = short.split_once([':', '@']).map_or(short, |(repository, _)| repository);
    if split_domain(repository) == (DEFAULT_DOMAIN, repository) { short } else { name }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| "after the @ there must be a sha256 digest")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash begins a tag; one before it, a port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err("its tag must be 1 to 128 letters, digits, '_', '.' and '-'");
    }
    if name.len() == 64 && Digest::from_hex(name).is_ok() {
        return Err("64 hexadecimal digits are an image id");
    }
    let (domain, path) = split_domain(name);
    if !is_domain(domain) {
        return Err("its registry must be a host name, with a port or without");
    }
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    check_path(&path)?;
    if domain.len() + 1 + path.len() > NAME_MAX {
        return Err("it is longer than 255 characters");
    }
    let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
    Ok(Reference { domain: domain.to_owned(), path, tag, digest })
}

fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().enumerate().all(|(index, b)| word(b) || (index > 0 && matches!(b, b'.' | b'-')))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = rest.strip_prefix(':');
            if address.parse::<std::net::Ipv6Addr>().is_err() || (port.is_none() && !rest.is_empty()) {
                return false;
            }
            (None, port)
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|h| h.split('.').all(is_label))
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its repository must be in lower case");
    }
    if path.split('/').all(is_component) {
        Ok(())
    } else {
        Err("its repository must be words of letters and digits, joined by '.', '_', '__' or '-', between slashes")
    }
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    // Between two words stands one separator: what is between alphanumerics is one of the four.
    let separators = component.split(|c: char| c.is_ascii() && alphanumeric(u8::try_from(c).unwrap_or(0)));
    ends.iter().all(|b| b.is_some_and(|b| alphanumeric(*b)))
        && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_does() {
        let at = format!("@sha256:{HEX}");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("docker.io/library/busybox:latest", "docker.io/library/busybox:latest"),
            ("someone/thing", "docker.io/someone/thing:latest"),
            ("localhost/thing", "localhost/thing:latest"),
            ("localhost:5000/thing:Tag_1.0-x", "localhost:5000/thing:Tag_1.0-x"),
            ("registry.example.com/a/b/c", "registry.example.com/a/b/c:latest"),
            ("Registry/thing", "Registry/thing:latest"),
            ("[::1]:5000/thing", "[::1]:5000/thing:latest"),
            ("a__b.c-d---e_f", "docker.io/library/a__b.c-d---e_f:latest"),
            ("localhost", "docker.io/library/localhost:latest"),
            (&format!("busybox{at}"), &format!("docker.io/library/busybox{at}")),
            (&format!("busybox:1{at}"), &format!("docker.io/library/busybox:1{at}")),
        ];
        for (text, complete) in cases {
            let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reference.to_string(), complete, "{text}");
            assert_eq!(Reference::parse(complete).unwrap(), reference);
        }
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(300);
        let long_tag = format!("a:{}", "t".repeat(129));
        let cases = [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "a//b",
            "Busybox",
            "a/B",
            "a:",
            "a:-x",
            "a:.x",
            "a:b/c:",
            "a b",
            "a\n",
            "-a",
            "a-",
            ".a",
            "a..b",
            "a___b",
            "a._b",
            "é",
            "a:é",
            "x.y:port/a",
            "-x.y/a",
            "x..y/a",
            "[::1/a",
            "[zz]/a",
            "a@sha256:00",
            "a@b",
            "../a",
            "a/../b",
            "http://a/b",
            &long,
            &long_tag,
            HEX,
        ];
        for text in cases {
            assert!(Reference::parse(text).is_err(), "{text:?} parsed as {:?}", Reference::parse(text));
        }
    }

    #[test]
    fn familiar_names_are_short() {
        assert_eq!(familiar("docker.io/library/busybox:latest"), "busybox:latest");
        assert_eq!(familiar("docker.io/someone/thing:1"), "someone/thing:1");
        assert_eq!(familiar("localhost/thing:1"), "localhost/thing:1");
        assert_eq!(familiar("docker.io/library/a/b:1"), "library/a/b:1");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn what_parses_is_stable(text in "([A-Za-z0-9.:-]{1,12}/)?[a-z0-9._-]{1,10}(/[a-z0-9._-]{1,10})?(:[A-Za-z0-9._-]{1,8})?") {
            if let Ok(reference) = Reference::parse(&text) {
                let complete = reference.to_string();
                prop_assert_eq!(Reference::parse(&complete), Ok(reference.clone()));
                prop_assert_eq!(Reference::parse(familiar(&complete)), Ok(reference));
            }
        }
    }
}
