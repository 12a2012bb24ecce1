//! A server of tokens, as the distribution project's "Token Authentication Specification" describes it.
//!
//! It answers `GET /token?service=…&scope=repository:NAME:ACTIONS` with a JSON Web Token that the registry believes,
//! because it is signed with a key whose certificate the registry was told of.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::certificates::signing_key;
use super::{PASSWORD, USER};

const SERVICE: &str = "registry of the tests";
const ISSUER: &str = "issuer of the tests";

/// A running server. Its thread ends with the process.
#[derive(Debug)]
pub(super) struct TokenServer {
    directory: PathBuf,
    port: u16,
}

impl TokenServer {
    pub(super) fn start(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory");
        signing_key(directory);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let signer = Signer::new(directory);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let signer = signer.clone();
                // A client that breaks off is its own affair.
                thread::spawn(move || drop(signer.serve(&stream)));
            }
        });
        Self { directory: directory.to_owned(), port }
    }

    /// The part of the registry's configuration.
    pub(super) fn config(&self) -> Value {
        json!({"token": {
            "realm": format!("http://localhost:{}/token", self.port),
            "service": SERVICE, "issuer": ISSUER, "rootcertbundle": self.directory.join("cert.pem"),
        }})
    }
}

#[derive(Debug, Clone)]
struct Signer {
    key: PathBuf,
    /// The certificate as it stands in a token: base64 without PEM's frame.
    certificate: String,
}

impl Signer {
    fn new(directory: &Path) -> Self {
        let pem = fs::read_to_string(directory.join("cert.pem")).expect("the certificate");
        let certificate = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Self { key: directory.join("key.pem"), certificate }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut authorization = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.trim().to_owned());
            }
        }
        let (status, body) = self.answer(&request, authorization.as_deref());
        let body = body.to_string();
        write!(
            { stream },
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn answer(&self, request: &str, authorization: Option<&str>) -> (&'static str, Value) {
        let basic = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes(), STANDARD, true));
        let known = match authorization {
            None => false,
            Some(text) if text == basic => true,
            Some(_) => return ("401 Unauthorized", json!({"details": "wrong user or password"})),
        };
        let query = request.split(' ').nth(1).and_then(|path| path.strip_prefix("/token?")).unwrap_or_default();
        let fields = query.split('&').filter_map(|field| field.split_once('='));
        let scopes = fields.filter(|(name, _)| *name == "scope").map(|(_, value)| decode(value));
        let scopes: Vec<String> =
            scopes.flat_map(|scope| scope.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        let access: Vec<Value> = scopes.iter().filter_map(|scope| granted(scope, known)).collect();
        let token = self.token(&access);
        ("200 OK", json!({"token": token, "access_token": token, "expires_in": 300}))
    }

    fn token(&self, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": access,
        });
        let [header, claims] = [header, claims].map(|part| base64(part.to_string().as_bytes(), URL, false));
        let signed = format!("{header}.{claims}");
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", base64(&signature, URL, false))
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-sign"]).arg(&self.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("openssl");
        child.stdin.take().expect("a pipe").write_all(bytes).expect("written");
        child.wait_with_output().expect("openssl").stdout
    }
}

/// What a scope like `repository:public/busybox:pull,push` gets.
fn granted(scope: &str, known: bool) -> Option<Value> {
    let mut parts = scope.splitn(2, ':');
    let kind = parts.next()?;
    let (name, actions) = parts.next()?.rsplit_once(':')?;
    let wanted = actions.split(',');
    let actions: Vec<&str> = match known {
        true => wanted.collect(),
        false if name.starts_with("public/") => wanted.filter(|action| *action == "pull").collect(),
        false => Vec::new(),
    };
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

/// Takes percent encoding away.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 (RFC 4648).
fn base64(bytes: &[u8], alphabet: &[u8; 64], padded: bool) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            match (position <= chunk.len(), padded) {
                (true, _) => text.push(char::from(alphabet[bits >> (18 - 6 * position) & 63])),
                (false, true) => text.push('='),
                (false, false) => {}
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes(), STANDARD, true), text);
        }
        assert_eq!(base64(&[0xfb, 0xff], URL, false), "-_8");
    }

    #[test]
    fn anonymous_users_pull_what_is_public() {
        let actions = |scope: &str, known| granted(scope, known).expect("a scope")["actions"].clone();
        assert_eq!(actions("repository:public/a:pull,push", false), json!(["pull"]));
        assert_eq!(actions("repository:private/a:pull", false), json!([]));
        assert_eq!(actions("repository:private/a:pull,push", true), json!(["pull", "push"]));
    }
}
