//! Registries that break, lie, stall and lead astray. Each test says what the client makes of it: the very error, how
//! often it asked, and what it did not send.

use std::io::Read;
use std::time::Duration;

use registry::{Client, Credentials, Deadlines, Download, Environment, Reference, RegistryError, Settings};
use store::Digest;

mod answers;
mod auth;
mod blobs;
mod connections;
mod mirrors;
mod push;
mod redirects;
mod server;

/// Waits that no test is meant to reach, and pauses that none notices.
fn patient() -> Deadlines {
    Deadlines {
        connect: Duration::from_secs(15),
        answer: Duration::from_secs(15),
        commit: Duration::from_secs(15),
        stall: Duration::from_secs(15),
        speed_window: Duration::from_secs(15),
        slowest: 1,
        first_pause: Duration::from_millis(1),
        tries: 4,
        pauses: Duration::from_secs(3),
    }
}

/// A client to be built.
struct Setup {
    settings: String,
    credentials: Credentials,
    environment: Environment,
}

impl Setup {
    fn new() -> Self {
        let mut environment = Environment::empty();
        environment.deadlines = patient();
        Self { settings: "{}".into(), credentials: Credentials::anonymous(), environment }
    }

    fn settings(mut self, json: impl Into<String>) -> Self {
        self.settings = json.into();
        self
    }

    fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    fn deadlines(mut self, change: impl Fn(&mut Deadlines)) -> Self {
        change(&mut self.environment.deadlines);
        self
    }

    fn proxies(mut self, variables: &[(&str, &str)]) -> Self {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        self.environment.proxies = registry::proxy::Proxies::from_variables(value);
        self
    }

    fn build(self) -> Client {
        let settings: Settings = serde_json::from_str(&self.settings).unwrap();
        Client::with_environment(settings, self.credentials, self.environment).unwrap()
    }
}

fn client() -> Client {
    Setup::new().build()
}

fn image(host: &str) -> Reference {
    Reference::parse(&format!("{host}/team/app:1")).unwrap()
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST: &str = r#"{"schemaVersion":2}"#;

fn manifest() -> Vec<server::Act> {
    server::answer(200, &[("Content-Type", MANIFEST_TYPE)], MANIFEST)
}

fn pull(client: &Client, host: &str) -> Result<registry::Manifest, RegistryError> {
    client.manifest(&image(host))
}

/// The error of a call that has to fail.
fn failed<T: std::fmt::Debug>(result: Result<T, RegistryError>) -> RegistryError {
    result.expect_err("it is to fail")
}

/// The registry's error within what a reader said.
fn inner(error: std::io::Error) -> RegistryError {
    let inner = error.into_inner().expect("an inner error");
    *inner.downcast().expect("a registry's error")
}

/// All bytes of a blob.
fn bytes_of(download: Result<Download, RegistryError>) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    download?.read_to_end(&mut bytes).map_err(inner)?;
    Ok(bytes)
}

/// The content that the tests' blobs have, and its digest.
fn content() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[usize::from(i % 2 == 1)]).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn fetch(client: &Client, host: &str) -> Result<Vec<u8>, RegistryError> {
    let (bytes, digest) = content();
    bytes_of(client.blob(&image(host), &digest, bytes.len() as u64, 0))
}
