//! A certificate authority of a test's own, made with `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// An authority and what it signed: a certificate for `localhost`, and one for a client.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

impl Authority {
    /// Makes one in a new directory.
    ///
    /// # Panics
    ///
    /// If `openssl` fails.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        fs::create_dir_all(directory).expect("a directory");
        let authority = Self { directory: directory.to_owned() };
        authority.self_signed("ca", "/CN=Coracle's tests", "ec");
        authority.sign("server", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        authority.sign("client", "extendedKeyUsage=clientAuth");
        authority
    }

    /// A file of it: `ca.crt`, `server.crt`, `client.crt`, and the keys.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Puts what a client has to know into a directory `certs.d/HOST`: the authority, and what to show it.
    ///
    /// # Panics
    ///
    /// If a file cannot be copied.
    pub fn install(&self, directory: &Path, with_client: bool) {
        fs::create_dir_all(directory).expect("a directory");
        let copy = |from: &str, to: &str| {
            fs::copy(self.file(from), directory.join(to)).expect("copied");
        };
        copy("ca.crt", "ca.crt");
        if with_client {
            copy("client.crt", "client.cert");
            copy("client.key", "client.key");
        }
    }

    /// The part of a registry's configuration.
    pub(super) fn server(&self, for_clients_alone: bool) -> Value {
        let mut config = json!({"certificate": self.file("server.crt"), "key": self.file("server.key")});
        if for_clients_alone {
            config["clientcas"] = json!([self.file("ca.crt")]);
        }
        config
    }

    fn self_signed(&self, name: &str, subject: &str, key: &str) {
        let [key_file, certificate] = [format!("{name}.key"), format!("{name}.crt")];
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", subject];
        arguments.extend(key_arguments(key));
        arguments.extend(["-keyout", &key_file, "-out", &certificate]);
        openssl(&self.directory, &arguments);
    }

    fn sign(&self, name: &str, extension: &str) {
        let file = |suffix: &str| format!("{name}.{suffix}");
        let [key, request, certificate, extensions] = ["key", "csr", "crt", "ext"].map(file);
        let mut arguments = vec!["req", "-nodes", "-subj", "/CN=localhost"];
        arguments.extend(key_arguments("ec"));
        arguments.extend(["-keyout", &key, "-out", &request]);
        openssl(&self.directory, &arguments);
        fs::write(self.file(&extensions), format!("basicConstraints=CA:FALSE\n{extension}\n")).expect("written");
        let mut arguments = vec!["x509", "-req", "-days", "2", "-in", &request, "-out", &certificate];
        arguments.extend(["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extensions]);
        openssl(&self.directory, &arguments);
    }
}

fn key_arguments(key: &str) -> Vec<&'static str> {
    match key {
        "ec" => vec!["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        _ => vec!["-newkey", "rsa:2048"],
    }
}

/// An RSA key `key.pem` and a certificate `cert.pem` for it.
pub(super) fn signing_key(directory: &Path) {
    let mut arguments = vec!["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=tokens"];
    arguments.extend(key_arguments("rsa"));
    arguments.extend(["-keyout", "key.pem", "-out", "cert.pem"]);
    openssl(directory, &arguments);
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let out = Command::new("openssl").args(arguments).current_dir(directory).output().expect("openssl");
    assert!(out.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}
