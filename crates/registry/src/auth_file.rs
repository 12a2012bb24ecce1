//! The user's credentials, kept where docker and podman keep them.

use std::io;
use std::path::PathBuf;

/// A failure to read or keep credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read, or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not a file of credentials: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A program that keeps credentials fails.
    #[error("credential helper {helper:?}: {problem}")]
    Helper {
        /// Its name, what follows `docker-credential-`.
        helper: String,
        /// What is wrong.
        problem: String,
    },
}

/// Where credentials are kept.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
}

/// What credentials were kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A file.
    File(PathBuf),
    /// The program `docker-credential-<name>`.
    Helper(String),
}

impl Credentials {
    /// None at all.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Those of the user whose process this is.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::default()
    }

    /// Keeps credentials for a registry (`docker.io`, `host`, `host:port`).
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] where they cannot be kept.
    pub fn store(&self, registry: &str, user: &str, secret: &str) -> Result<Kept, CredentialsError> {
        let _ = (registry, user, secret, &self.files);
        Err(CredentialsError::Helper { helper: String::new(), problem: "not built".into() })
    }

    /// Forgets those of a registry; whether there were any.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] where the file cannot be read or written.
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialsError> {
        let _ = registry;
        Ok(false)
    }
}
