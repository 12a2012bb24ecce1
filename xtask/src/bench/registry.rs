//! A registry on loopback to pull from: Debian's `docker-registry`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Ends when it is dropped.
pub(crate) struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    /// Starts one that keeps its content in `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = directory.join("config.yml");
        let storage = directory.join("storage");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
                storage.display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("docker-registry")?;
        let registry = Self { process, host };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            if Instant::now() > deadline {
                bail!("docker-registry does not answer at {}", registry.host);
            }
            sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }

    /// Where it listens.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
