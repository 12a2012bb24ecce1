//! Against the distribution project's own registry (Debian's `docker-registry`; `htpasswd` of apache2-utils), on
//! loopback: plain HTTP, with Basic, and with TLS.

use std::fs;
use std::io::{self, Cursor, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use registry::{Client, Credentials, Environment, Reference, RegistryError, Settings, Upload};
use store::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry that runs as long as this value lives.
struct Registry {
    child: Child,
    host: String,
    _place: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts one. `more` is added to its configuration, in which `PLACE` is a directory of its own that `prepare` fills.
fn start(prepare: impl Fn(&Path), http: &str, more: &str) -> Registry {
    for _ in 0..5 {
        let place = tempfile::tempdir().unwrap();
        prepare(place.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: PLACE/store\n  delete:\n    \
             enabled: true\nhttp:\n  addr: {host}\n{http}{more}"
        );
        let path = place.path().join("config.yml");
        fs::write(&path, config.replace("PLACE", &place.path().display().to_string())).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry, which Debian's package docker-registry installs");
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            if TcpStream::connect(&host).is_ok() {
                return Registry { child, host, _place: place };
            }
            thread::sleep(Duration::from_millis(20));
        }
        // Another process took the port meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("docker-registry does not start");
}

fn plain() -> Registry {
    start(|_| {}, "", "")
}

fn client_with(credentials: Credentials, settings: Settings) -> Client {
    Client::with_environment(settings, credentials, Environment::empty()).unwrap()
}

fn client() -> Client {
    client_with(Credentials::anonymous(), Settings::default())
}

fn named(host: &str, rest: &str) -> Reference {
    Reference::parse(&format!("{host}/{rest}")).unwrap()
}

/// Bytes that are the same every time and compress badly.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn push_known(client: &Client, repository: &Reference, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let bytes = bytes.to_vec();
    let open = move || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(bytes.clone()))) };
    let size = open().unwrap().read_to_end(&mut Vec::new()).unwrap() as u64;
    let upload = Upload::Known { digest, size, open: &open };
    assert_eq!(client.push_blob(repository, upload).unwrap(), (digest, size));
    digest
}

fn pull(client: &Client, repository: &Reference, digest: &Digest, size: u64, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.blob(repository, digest, size, offset).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn manifest(config: &Digest, config_size: usize, layer: &Digest, layer_size: usize) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
    )
    .into_bytes()
}

fn push_an_image_and_read_it_back(client: &Client, host: &str) {
    let tagged = named(host, "team/app:1");
    let layer = noise(3 << 20);
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    assert_eq!(client.has_blob(&tagged, &Digest::of(&layer)).unwrap(), None);
    let layer_digest = push_known(client, &tagged, &layer);
    let config_digest = push_known(client, &tagged, config);
    assert_eq!(client.has_blob(&tagged, &layer_digest).unwrap(), Some(layer.len() as u64));
    assert_eq!(client.manifest_digest(&tagged).unwrap(), None);
    let bytes = manifest(&config_digest, config.len(), &layer_digest, layer.len());
    let digest = client.push_manifest(&tagged, MANIFEST, &bytes).unwrap();

    let read = client.manifest(&tagged).unwrap();
    assert_eq!((read.digest, read.media_type.as_str(), read.bytes), (digest, MANIFEST, bytes.clone()));
    let head = client.manifest_digest(&tagged).unwrap().unwrap();
    assert_eq!((head.digest, head.media_type.as_str(), head.size), (digest, MANIFEST, bytes.len() as u64));
    let by_digest = named(host, &format!("team/app@{digest}"));
    assert_eq!(client.manifest(&by_digest).unwrap().bytes, bytes);
    let size = layer.len() as u64;
    assert!(pull(client, &tagged, &layer_digest, size, 0) == layer);
    assert!(pull(client, &tagged, &layer_digest, size, 1_000_000) == layer[1_000_000..]);
    assert!(pull(client, &tagged, &layer_digest, size, size).is_empty());
    let other = Digest::of(b"other");
    assert!(matches!(client.blob(&tagged, &other, 5, 0), Err(RegistryError::NotFound { .. })));
    assert!(matches!(client.manifest(&named(host, "team/app:2")), Err(RegistryError::NotFound { .. })));
}

#[test]
fn an_image_over_plain_http() {
    let registry = plain();
    push_an_image_and_read_it_back(&client(), &registry.host);
}

#[test]
fn streams_of_every_length_arrive() {
    let registry = plain();
    let client = client();
    let repository = named(&registry.host, "team/app:1");
    for length in [0, 1, 1000, 4 << 20, (4 << 20) + 1, 9 << 20] {
        let bytes = noise(length);
        let pushed = client.push_blob(&repository, Upload::Stream(Box::new(&bytes[..]))).unwrap();
        assert_eq!(pushed, (Digest::of(&bytes), length as u64), "{length}");
        assert!(pull(&client, &repository, &pushed.0, pushed.1, 0) == bytes, "{length}");
    }
    push_known(&client, &repository, &[]);
}

#[test]
fn blobs_are_mounted_across_repositories() {
    let registry = plain();
    let client = client();
    let (first, second) = (named(&registry.host, "team/first"), named(&registry.host, "team/second"));
    let bytes = noise(100_000);
    let digest = push_known(&client, &first, &bytes);
    assert_eq!(client.has_blob(&second, &digest).unwrap(), None);
    assert!(client.mount_blob(&second, &digest, &first).unwrap());
    assert!(pull(&client, &second, &digest, bytes.len() as u64, 0) == bytes);
    assert!(!client.mount_blob(&second, &Digest::of(b"none"), &first).unwrap());
}

#[test]
fn a_manifest_whose_blobs_are_missing_is_refused_with_the_registrys_words() {
    let registry = plain();
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let error = client().push_manifest(&named(&registry.host, "a:1"), MANIFEST, &manifest(&a, 1, &b, 1)).unwrap_err();
    let RegistryError::Refused { answer, .. } = &error else { panic!("{error}") };
    assert!(answer.errors.iter().any(|(code, _)| code == "MANIFEST_BLOB_UNKNOWN"), "{error}");
}

#[test]
fn a_blob_that_is_not_its_digest_is_refused() {
    let registry = plain();
    let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(&b"wrong"[..])) };
    let upload = Upload::Known { digest: Digest::of(b"right"), size: 5, open: &open };
    let error = client().push_blob(&named(&registry.host, "a"), upload).unwrap_err();
    let RegistryError::Refused { answer, .. } = &error else { panic!("{error}") };
    assert!(answer.errors.iter().any(|(code, _)| code == "DIGEST_INVALID"), "{error}");
}

#[test]
fn basic_is_checked() {
    let passwords = |place: &Path| {
        let made = Command::new("htpasswd")
            .args(["-Bbn", "me", "s3cret"])
            .output()
            .expect("htpasswd, which Debian's package apache2-utils installs");
        fs::write(place.join("htpasswd"), made.stdout).unwrap();
    };
    let registry = start(passwords, "", "auth:\n  htpasswd:\n    realm: test\n    path: PLACE/htpasswd\n");
    let host = &registry.host;
    let place = tempfile::tempdir().unwrap();
    let credentials = Credentials::in_file(place.path().join("config.json"));
    let client = || client_with(credentials.clone(), Settings::default());
    let tagged = named(host, "a:1");

    let error = client().manifest(&tagged).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { sent: false, .. }), "{error}");
    assert!(error.hint().unwrap().contains("log in"));
    let error = client().login(host, "me", "wrong").unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { sent: true, .. }), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    client().login(host, "me", "s3cret").unwrap();
    credentials.store(host, "me", "wrong").unwrap();
    let error = client().manifest(&tagged).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { sent: true, .. }), "{error}");
    credentials.store(host, "me", "s3cret").unwrap();
    push_an_image_and_read_it_back(&client(), host);
}

#[test]
fn tls_is_checked() {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let write = |place: &Path| {
        fs::write(place.join("cert.pem"), made.pem()).unwrap();
        fs::write(place.join("key.pem"), key.serialize_pem()).unwrap();
    };
    let registry = start(write, "  tls:\n    certificate: PLACE/cert.pem\n    key: PLACE/key.pem\n", "");
    let error = client().manifest(&named(&registry.host, "a:1")).unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }), "{error}");

    let place = tempfile::tempdir().unwrap();
    write(place.path());
    let json = format!(r#"{{"{}":{{"ca":["{}"]}}}}"#, registry.host, place.path().join("cert.pem").display());
    let trusting = client_with(Credentials::anonymous(), serde_json::from_str(&json).unwrap());
    push_an_image_and_read_it_back(&trusting, &registry.host);

    let json = format!(r#"{{"{}":{{"insecure":true}}}}"#, registry.host);
    let careless = client_with(Credentials::anonymous(), serde_json::from_str(&json).unwrap());
    careless.manifest(&named(&registry.host, "team/app:1")).unwrap();
}
