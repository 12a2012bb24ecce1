//! What can go wrong between here and a registry, and what its user can do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use store::Digest;

use crate::answer::Answer;
use crate::auth_file::CredentialsError;

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreached {
    /// The name has no address.
    Name,
    /// The host refused the connection.
    Refused,
    /// The proxy did not let it through, or is no proxy.
    Proxy,
    /// No route, a network that is down, a descriptor limit.
    Network,
}

/// What did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// A connection: name, TCP, TLS.
    Connection,
    /// The head of the answer.
    Answer,
    /// The next bytes of a body, in either direction.
    Bytes,
    /// More than a trickle of them.
    Speed,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "no connection",
            Self::Answer => "no answer",
            Self::Bytes => "no more bytes",
            Self::Speed => "only a trickle of bytes",
        })
    }
}

/// A failure of a request to a registry. URLs in it carry no user, no password and no query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// 401, and no credentials that would change it.
    #[error("{url}: the registry wants {}credentials: {answer}", if *sent { "other " } else { "" })]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
        /// Whether credentials were sent and not accepted.
        sent: bool,
    },
    /// 403: these credentials may not do this.
    #[error("{url}: access denied: {answer}")]
    Denied {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
    },
    /// 404: no such name, tag or blob, or none that may be seen.
    #[error("{url}: not found: {answer}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
    },
    /// 429, for longer than one waits.
    #[error("{url}: too many requests: {answer}")]
    RateLimited {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
        /// When the registry wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// 5xx, again and again.
    #[error("{url}: the registry cannot answer now: {answer}")]
    Unavailable {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
        /// When the registry wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{url}: the registry refused: {answer}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        answer: Answer,
    },
    /// No connection.
    #[error("{url}: cannot reach the registry: {detail}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        why: Unreached,
        /// What the operating system or the proxy says.
        detail: String,
    },
    /// A connection, but no trust: a certificate that is unknown, out of date or another host's.
    #[error("{url}: no trusted connection: {detail}")]
    Tls {
        /// What was asked for.
        url: String,
        /// What is wrong.
        detail: String,
    },
    /// A deadline passed, after retries where these make sense.
    #[error("{url}: {waiting} within {after:?}")]
    Timeout {
        /// What was asked for.
        url: String,
        /// What did not come.
        waiting: Waiting,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke, and did again after retries.
    #[error("{url}: the connection broke: {detail}")]
    Broken {
        /// What was asked for.
        url: String,
        /// How.
        detail: String,
    },
    /// An answer that is none: not HTTP, or HTTP that means nothing here.
    #[error("{url}: not an answer of a registry: {problem}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Bytes that are not those whose digest was asked for.
    #[error("{url}: the registry sent {found}, asked for was {expected}")]
    DigestMismatch {
        /// What was asked for.
        url: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A blob of another size than its descriptor says.
    #[error("{url}: the registry has {found} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// What was asked for.
        url: String,
        /// The size of the descriptor.
        expected: u64,
        /// The size that the answer has.
        found: u64,
    },
    /// A document longer than any real one.
    #[error("{url}: longer than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The most that is read.
        limit: u64,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirected to {to}: {problem}")]
    Redirect {
        /// Who redirects.
        url: String,
        /// Where to.
        to: String,
        /// Why it is not followed.
        problem: String,
    },
    /// The server that hands out tokens is not one to give credentials to.
    #[error("{url}: the registry wants a token of {realm:?}: {problem}")]
    Realm {
        /// What was asked for.
        url: String,
        /// The realm of the challenge.
        realm: String,
        /// Why it is not asked.
        problem: &'static str,
    },
    /// An entry of the settings, or a certificate beside them, cannot be used.
    #[error("the settings of registry {registry:?} cannot be used: {problem}")]
    Settings {
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of the settings cannot be read.
    #[error("cannot read {path} for registry {registry:?}")]
    SettingsFile {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A proxy of the environment is no URL of a proxy.
    #[error("the proxy of {variable} cannot be used: {problem}")]
    Proxy {
        /// The variable of the environment.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The user's own credentials cannot be read or kept.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What was to be pushed cannot be read.
    #[error("cannot read what is to be pushed to {url}")]
    Upload {
        /// Where it was to go.
        url: String,
        /// What the reader says.
        #[source]
        source: io::Error,
    },
    /// No thread or runtime could be started for the network.
    #[error("cannot start the network's thread")]
    Thread(#[source] io::Error),
}

impl RegistryError {
    /// What the user can do about it, one line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        hint(self)
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Timeout { .. } => io::ErrorKind::TimedOut,
            RegistryError::NotFound { .. } => io::ErrorKind::NotFound,
            RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => io::ErrorKind::PermissionDenied,
            RegistryError::Unreachable { .. } | RegistryError::Broken { .. } => io::ErrorKind::ConnectionAborted,
            RegistryError::Protocol { .. } | RegistryError::SizeMismatch { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn hint(error: &RegistryError) -> Option<String> {
    let text = match error {
        RegistryError::Unauthorized { sent: false, .. } => {
            "log in to this registry first, or check the name: a repository that is not there looks the same".into()
        }
        RegistryError::Unauthorized { sent: true, .. } => {
            "the kept credentials are not accepted: log in again".to_owned()
        }
        RegistryError::Denied { .. } => "check the name, and that this user may read or write it".into(),
        RegistryError::NotFound { .. } => {
            "check name and tag; a private repository is not found by those who are not logged in".into()
        }
        RegistryError::RateLimited { retry_after: Some(after), .. } => {
            format!("try again in {} seconds; users that are logged in often have a higher limit", after.as_secs())
        }
        RegistryError::RateLimited { .. } => {
            "try again later; users that are logged in often have a higher limit".into()
        }
        RegistryError::Unavailable { .. } => "try again later".into(),
        RegistryError::Unreachable { why, .. } => match why {
            Unreached::Name => "check the registry's name, and the network's name service".into(),
            Unreached::Refused => "check the registry's name and port, and that it runs".into(),
            Unreached::Proxy => "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY".into(),
            Unreached::Network => "check the network, and whether it needs a proxy (HTTPS_PROXY)".into(),
        },
        RegistryError::Tls { .. } => "put the registry's certificate authority into \
             /etc/containers/certs.d/<host:port>/ca.crt or the settings (`ca`); check the clock; `insecure` in the \
             settings goes without trust"
            .into(),
        RegistryError::Timeout { .. } | RegistryError::Broken { .. } => {
            "try again: what came is kept; check the network, and whether it needs a proxy (HTTPS_PROXY)".into()
        }
        RegistryError::Redirect { .. } => {
            "if the target is to be trusted, give it an entry in the registries of the settings".into()
        }
        RegistryError::Protocol { .. } => "check the name and port: is it a registry, and no proxy in between?".into(),
        RegistryError::Proxy { .. } => "it must be like http://proxy.example:3128".into(),
        _ => return None,
    };
    Some(text)
}
