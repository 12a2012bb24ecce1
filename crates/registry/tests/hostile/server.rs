//! A registry that does as it is told: threads, sockets, and a record of all that it was sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What is done with a connection after a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// These bytes go out.
    Send(Vec<u8>),
    /// These bytes go out one by one, with a pause after each, until the client leaves.
    Drip(Vec<u8>, Duration),
    /// These bytes go out again and again, until the client leaves.
    Flood(Vec<u8>),
    /// Nothing goes out, and the connection stays.
    Hang,
    /// Bytes go both ways between this client and another server.
    Tunnel(SocketAddr),
}

/// An answer with a length.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<Act> {
    let body = body.as_ref();
    let mut all = head(status, headers, &format!("Content-Length: {}\r\n", body.len()));
    all.extend_from_slice(body);
    vec![Act::Send(all)]
}

/// The head of an answer, with `more` header lines.
pub(crate) fn head(status: u16, headers: &[(&str, &str)], more: &str) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Status\r\n{lines}{more}Connection: close\r\n\r\n").into_bytes()
}

pub(crate) fn ok(body: impl AsRef<[u8]>) -> Vec<Act> {
    answer(200, &[], body)
}

/// A redirect.
pub(crate) fn to(location: &str) -> Vec<Act> {
    answer(307, &[("Location", location)], "")
}

pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Vec<Act> {
    vec![Act::Send(bytes.as_ref().to_vec())]
}

type Script = dyn Fn(&Request) -> Vec<Act> + Send + Sync;

/// A server on loopback, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl Server {
    /// Speaks plain HTTP, and says 400 to TLS, as most servers do.
    pub(crate) fn plain(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(script))
    }

    pub(crate) fn tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(config), Arc::new(script))
    }

    fn start(tls: Option<Arc<ServerConfig>>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (log, stop) = (requests.clone(), stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (tls, script, log, stop) = (tls.clone(), script.clone(), log.clone(), stop.clone());
                // A client that leaves in the middle is what many of these tests are about.
                thread::spawn(move || drop(serve(stream, tls, &*script, &log, &stop)));
            }
        });
        Self { address, requests, stopped }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `localhost:port`: the same server, but another host.
    pub(crate) fn other_host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that came so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests had a path that ends so.
    pub(crate) fn count(&self, end: &str) -> usize {
        self.requests().iter().filter(|r| r.path().ends_with(end)).count()
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn serve(
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    script: &Script,
    log: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let other_end = socket.try_clone()?;
    let mut first = [0];
    let speaks_tls = socket.peek(&mut first)? == 1 && first == [0x16];
    let mut stream: Box<dyn Stream> = match (tls, speaks_tls) {
        (Some(config), _) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(connection, socket))
        }
        (None, false) => Box::new(socket),
        (None, true) => {
            let mut socket = socket;
            return socket.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        }
    };
    let request = read_request(&mut *stream)?;
    log.lock().unwrap().push(request.clone());
    for act in script(&request) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes)?,
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[byte])?;
                    stream.flush()?;
                    thread::sleep(pause);
                }
            }
            Act::Flood(bytes) => {
                let end = Instant::now() + Duration::from_secs(20);
                while !stop.load(Ordering::SeqCst) && Instant::now() < end {
                    stream.write_all(&bytes)?;
                }
            }
            Act::Hang => {
                let end = Instant::now() + Duration::from_secs(20);
                while !stop.load(Ordering::SeqCst) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            Act::Tunnel(address) => return tunnel(other_end, TcpStream::connect(address)?),
        }
        stream.flush()?;
    }
    Ok(())
}

fn tunnel(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        // The tunnel ends with either side.
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Both);
    });
    let (mut from_server, mut to_client) = (server, client);
    io::copy(&mut from_server, &mut to_client)?;
    to_client.shutdown(std::net::Shutdown::Both)
}

fn read_request(stream: &mut dyn Stream) -> io::Result<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    stream.take(length).read_to_end(&mut request.body)?;
    Ok(request)
}
