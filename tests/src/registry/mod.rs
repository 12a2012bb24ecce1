//! A real registry, Debian's `docker-registry`, on a free port of the loopback interface, with the kinds of access
//! control that registries have; and what it was asked for.

mod certificates;
mod tokens;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub use certificates::Authority;
use tokens::TokenServer;

/// The user that every access control here knows.
pub const USER: &str = "rower";
/// Their password.
pub const PASSWORD: &str = "paddle:with:colons";

/// How long a registry may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who may do what, and how they show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, everything.
    Open,
    /// [`USER`], with every request.
    Basic,
    /// [`USER`] with a token from a server beside the registry; anybody to pull what is below `public/`.
    Token,
}

/// How the registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTP.
    Plain,
    /// HTTPS; its certificate is signed by [`Registry::authority`].
    Tls,
    /// HTTPS, for those who show a certificate signed by the same.
    ClientTls,
}

/// A running registry. It ends when it is dropped, and with the thread that started it.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    directory: TempDir,
    port: u16,
    authority: Option<Authority>,
    _tokens: Option<TokenServer>,
}

impl Registry {
    /// Starts one that is open to all, without TLS.
    #[must_use]
    pub fn open() -> Self {
        Self::start(Access::Open, Transport::Plain)
    }

    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it does not answer in time: with what it said.
    #[must_use]
    pub fn start(access: Access, transport: Transport) -> Self {
        let directory = TempDir::with_prefix("coracle-registry-").expect("a temporary directory");
        let authority = (transport != Transport::Plain).then(|| Authority::new(&directory.path().join("tls")));
        let tokens = (access == Access::Token).then(|| TokenServer::start(&directory.path().join("tokens")));
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": false}},
            "storage": {"filesystem": {"rootdirectory": directory.path().join("storage")}, "delete": {"enabled": true}},
            "http": {"secret": "no secret"},
        });
        if let Some(authority) = &authority {
            config["http"]["tls"] = authority.server(transport == Transport::ClientTls);
        }
        match (access, &tokens) {
            (Access::Basic, _) => config["auth"] = basic(directory.path()),
            (_, Some(tokens)) => config["auth"] = tokens.config(),
            _ => {}
        }
        let (child, port) = launch(directory.path(), &config);
        Self { child, directory, port, authority, _tokens: tokens }
    }

    /// `localhost:PORT`, as it stands in names of images.
    #[must_use]
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The name of an image there.
    #[must_use]
    pub fn image(&self, rest: &str) -> String {
        format!("localhost:{}/{rest}", self.port)
    }

    /// Who signed its certificate.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("a registry with TLS")
    }

    /// How often each blob was sent, whatever the repository, by its digest.
    #[must_use]
    pub fn blobs_sent(&self) -> BTreeMap<String, usize> {
        self.blobs("2")
    }

    /// How often a part of each blob was sent, by the blob's digest.
    #[must_use]
    pub fn parts_sent(&self) -> BTreeMap<String, usize> {
        self.blobs("206")
    }

    /// How often each blob was asked for with an answer whose status begins with `status`.
    fn blobs(&self, status: &str) -> BTreeMap<String, usize> {
        let log = fs::read_to_string(self.directory.path().join("access")).expect("the access log");
        let mut counts = BTreeMap::new();
        for line in log.lines() {
            // 127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"
            let mut quoted = line.split('"').skip(1);
            let (Some(request), Some(answer)) = (quoted.next(), quoted.next()) else { continue };
            let path = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
            let digest = path.and_then(|path| path.split_once("/blobs/")).map(|(_, digest)| digest);
            if let Some(digest) = digest.filter(|_| answer.trim().starts_with(status)) {
                *counts.entry(digest.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part of the configuration for `htpasswd`.
fn basic(directory: &Path) -> Value {
    let path = directory.join("htpasswd");
    let out = Command::new("htpasswd").args(["-Bbn", USER, PASSWORD]).output().expect("htpasswd of apache2-utils");
    assert!(out.status.success(), "htpasswd: {}", String::from_utf8_lossy(&out.stderr));
    fs::write(&path, out.stdout).expect("written");
    json!({"htpasswd": {"realm": "basic", "path": path}})
}

/// Starts the program on a port that is free; another one may be faster to take it, so more than one is tried.
fn launch(directory: &Path, config: &Value) -> (Child, u16) {
    let mut said = String::new();
    for _ in 0..5 {
        let port = free_port();
        let mut config = config.clone();
        config["http"]["addr"] = json!(format!("127.0.0.1:{port}"));
        let path = directory.join("config.yml");
        fs::write(&path, config.to_string()).expect("written");
        let file = |name: &str| File::create(directory.join(name)).expect("a file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "docker-registry", "serve"]).arg(path);
        command.stdin(Stdio::null()).stdout(file("access")).stderr(file("log"));
        let mut child = command.spawn().expect("setpriv of util-linux");
        if answers(&mut child, port) {
            return (child, port);
        }
        let _ = child.kill();
        let _ = child.wait();
        said = fs::read_to_string(directory.join("log")).unwrap_or_default();
    }
    panic!("docker-registry does not start: {said}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn answers(child: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while Instant::now() < deadline && child.try_wait().expect("wait").is_none() {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            // Whoever listens there: it is ours if it is still alive.
            thread::sleep(Duration::from_millis(20));
            return child.try_wait().expect("wait").is_none();
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// A directory where docker's and podman's configuration is found: `$HOME`.
#[must_use]
pub fn certificates_of(home: &Path, registry: &Registry) -> PathBuf {
    home.join(".config/containers/certs.d").join(registry.host())
}
