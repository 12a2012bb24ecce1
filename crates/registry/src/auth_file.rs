//! The user's credentials, kept where docker and podman keep them.
//!
//! # Files
//!
//! Read in this order; the first that has credentials for a registry decides:
//!
//! 1. `$REGISTRY_AUTH_FILE`
//! 2. `$XDG_RUNTIME_DIR/containers/auth.json`
//! 3. `$XDG_CONFIG_HOME/containers/auth.json`, or `~/.config/containers/auth.json`
//! 4. `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`
//!
//! Written is the first if it is set, else the last: the file that docker's users have. It is replaced in one step,
//! with what else is in it as it was; its directory is made with mode 0700, the file with 0600.
//!
//! # Format
//!
//! docker's `config.json`, of which podman's `auth.json` is a part (containers-auth.json(5)):
//!
//! ```json
//! {
//!   "auths": {
//!     "https://index.docker.io/v1/": { "auth": "base64 of user:password" },
//!     "registry.example:5000": { "auth": "…", "identitytoken": "for OAuth2" },
//!     "registry.example:5000/team/app": { "auth": "for this repository and those below it" }
//!   },
//!   "credHelpers": { "registry.example": "pass" },
//!   "credsStore": "secretservice"
//! }
//! ```
//!
//! `credHelpers` and `credsStore` name programs `docker-credential-<name>`; they are asked before `auths`. A key of
//! `auths` may have `https://` before it and `/v1/` after it, as old dockers wrote them. Docker Hub's key is
//! `https://index.docker.io/v1/`.

use std::env;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::environment::{Variables, absolute, config_directory};

mod document;
mod file;
mod helper;

use document::Document;

/// The key of Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

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
        /// What is wrong with it. Shows nothing that is secret.
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
    /// There is no file to keep them in: neither `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG` nor `$HOME` is set.
    #[error("there is no place to keep credentials: neither REGISTRY_AUTH_FILE, DOCKER_CONFIG nor HOME is set")]
    NoPlace,
}

/// Credentials for one registry. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// For Basic, and for asking for tokens.
    Password { user: String, password: String },
    /// A refresh token of OAuth2.
    Identity(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Identity(_) => "Identity(…)",
        })
    }
}

/// Where credentials are kept. Nothing is read before a registry asks for them.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    written: Option<PathBuf>,
    helpers: Option<PathBuf>,
}

/// What credentials were kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A file.
    File(PathBuf),
    /// The program `docker-credential-<name>`.
    Helper(String),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Helper(name) => write!(f, "docker-credential-{name}"),
        }
    }
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
        Self::from_variables(&|name| env::var_os(name))
    }

    fn from_variables(variables: Variables<'_>) -> Self {
        let home = || absolute(variables, "HOME").map(|home| home.join(".docker"));
        let docker = absolute(variables, "DOCKER_CONFIG").or_else(home);
        let docker = docker.map(|directory| directory.join("config.json"));
        let named = variables("REGISTRY_AUTH_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
        let containers = [absolute(variables, "XDG_RUNTIME_DIR"), config_directory(variables)];
        let containers = containers.into_iter().flatten().map(|directory| directory.join("containers/auth.json"));
        let written = named.clone().or_else(|| docker.clone());
        Self { files: named.into_iter().chain(containers).chain(docker).collect(), written, helpers: None }
    }

    /// Those of one file, which need not exist.
    #[must_use]
    pub fn in_file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { files: vec![path.clone()], written: Some(path), helpers: None }
    }

    /// The same, but with the programs that keep credentials in `directory`, instead of on `PATH`.
    #[must_use]
    pub fn with_helpers_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.helpers = Some(directory.into());
        self
    }

    /// The credentials for a repository of a registry, `None` where there are none.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Result<Option<Secret>, CredentialsError> {
        for path in &self.files {
            let Some(text) = file::read(path)? else { continue };
            let document = Document::parse(path, &text)?;
            if let Some(helper) = document.helper(registry)
                && let Some(secret) = helper::get(self.helpers.as_deref(), &helper, key(registry))?
            {
                return Ok(Some(secret));
            }
            if let Some(secret) = document.secret(path, registry, repository)? {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry (`docker.io`, `host`, `host:port`): in the program that the written file
    /// names for it, else in that file.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] where they cannot be kept.
    pub fn store(&self, registry: &str, user: &str, secret: &str) -> Result<Kept, CredentialsError> {
        let path = self.written.as_ref().ok_or(CredentialsError::NoPlace)?;
        let file = file::Locked::open(path)?;
        let mut document = Document::parse(path, &file.text()?)?;
        if let Some(helper) = document.helper(registry) {
            helper::store(self.helpers.as_deref(), &helper, key(registry), user, secret)?;
            return Ok(Kept::Helper(helper));
        }
        document.set(registry, user, secret);
        file.replace(&document.to_text())?;
        Ok(Kept::File(path.clone()))
    }

    /// Forgets those of a registry, in every file and program that [`Credentials::from_environment`] reads; whether
    /// there were any.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`] where a file cannot be read or written.
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialsError> {
        let mut found = false;
        for path in &self.files {
            if file::read(path)?.is_none() {
                continue;
            }
            let file = file::Locked::open(path)?;
            let mut document = Document::parse(path, &file.text()?)?;
            if let Some(helper) = document.helper(registry) {
                found |= helper::erase(self.helpers.as_deref(), &helper, key(registry))?;
            }
            if document.remove(registry) {
                file.replace(&document.to_text())?;
                found = true;
            }
        }
        Ok(found)
    }
}

/// The key that docker writes for a registry, and asks programs for.
fn key(registry: &str) -> &str {
    if is_hub(registry) { HUB } else { registry }
}

fn is_hub(registry: &str) -> bool {
    matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
        let credentials = Credentials::from_variables(&value);
        let text = |path: &PathBuf| path.display().to_string();
        (credentials.files.iter().map(text).collect(), credentials.written.as_ref().map(text))
    }

    #[test]
    fn files_are_read_in_the_order_that_is_written_down() {
        let all = [
            ("REGISTRY_AUTH_FILE", "named.json"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("XDG_CONFIG_HOME", "/config"),
            ("DOCKER_CONFIG", "/docker"),
            ("HOME", "/home/me"),
        ];
        let docker = "/docker/config.json";
        let (read, written) = places(&all);
        let expected = ["named.json", "/run/user/1/containers/auth.json", "/config/containers/auth.json", docker]
            .map(str::to_owned);
        assert_eq!((read, written), (expected.to_vec(), Some("named.json".into())));
        assert_eq!(places(&all[1..]).1.as_deref(), Some(docker));
        let home = ["/home/me/.config/containers/auth.json", "/home/me/.docker/config.json"].map(str::to_owned);
        assert_eq!(places(&all[4..]), (home.to_vec(), Some(home[1].clone())));
        assert_eq!(places(&[("HOME", "relative"), ("REGISTRY_AUTH_FILE", "")]), (vec![], None));
    }
}
