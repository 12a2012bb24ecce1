//! Programs that keep credentials: `docker-credential-<name>` (the protocol of docker-credential-helpers: the action
//! is the argument, the registry or a JSON object is on standard input, the answer is JSON on standard output).

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{CredentialsError, Secret};
use crate::answer;

/// Programs that ask their user something are waited for.
const DEADLINE: Duration = Duration::from_secs(60);
const LONGEST_OUTPUT: u64 = 1 << 20;
/// What such programs say, on standard output, when they have none.
const NOT_FOUND: &str = "credentials not found";
/// The user name that says that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks for the credentials under a key; `None` where the program has none.
pub(super) fn get(directory: Option<&Path>, name: &str, key: &str) -> Result<Option<Secret>, CredentialsError> {
    let Some(output) = run(directory, name, "get", key.as_bytes())? else { return Ok(None) };
    let got: Got = serde_json::from_slice(&output).map_err(|_| failure(name, "its answer is not what it should be"))?;
    Ok(match got {
        Got { secret, .. } if secret.is_empty() => None,
        Got { username, secret } if username == TOKEN_USER => Some(Secret::Identity(secret)),
        Got { username, secret } => Some(Secret::Password { user: username, password: secret }),
    })
}

/// Gives it credentials to keep.
pub(super) fn store(
    directory: Option<&Path>,
    name: &str,
    key: &str,
    user: &str,
    secret: &str,
) -> Result<(), CredentialsError> {
    let input = serde_json::json!({ "ServerURL": key, "Username": user, "Secret": secret }).to_string();
    run(directory, name, "store", input.as_bytes()).map(drop)
}

/// Makes it forget a key; whether it had it.
pub(super) fn erase(directory: Option<&Path>, name: &str, key: &str) -> Result<bool, CredentialsError> {
    if get(directory, name, key)?.is_none() {
        return Ok(false);
    }
    Ok(run(directory, name, "erase", key.as_bytes())?.is_some())
}

fn failure(name: &str, problem: &str) -> CredentialsError {
    CredentialsError::Helper { helper: answer::show(name, 100), problem: problem.to_owned() }
}

/// Its output; `None` where it says that it has no such credentials.
fn run(directory: Option<&Path>, name: &str, action: &str, input: &[u8]) -> Result<Option<Vec<u8>>, CredentialsError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(failure(name, "its name may have only letters, digits, '-' and '_'"));
    }
    let program = format!("docker-credential-{name}");
    let program = directory.map_or_else(|| program.clone().into(), |d| d.join(&program));
    let mut command = Command::new(&program);
    command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().map_err(|e| failure(name, &format!("cannot start {}: {e}", program.display())))?;
    let (success, output) = converse(child, input).map_err(|e| failure(name, &e.to_string()))?;
    if success {
        return Ok(Some(output));
    }
    let said = String::from_utf8_lossy(&output);
    if said.contains(NOT_FOUND) { Ok(None) } else { Err(failure(name, &refusal(action, &said))) }
}

fn refusal(action: &str, said: &str) -> String {
    match answer::show(said, 300) {
        said if said.is_empty() => format!("{action} failed"),
        said => format!("{action} failed: {said}"),
    }
}

/// Gives a program its input and reads its output, both bounded in time.
fn converse(mut child: Child, input: &[u8]) -> io::Result<(bool, Vec<u8>)> {
    let (sender, output) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(LONGEST_OUTPUT).read_to_end(&mut bytes);
            // Nobody is there any more once the deadline has passed.
            let _ = sender.send(read.map(|_| bytes));
        });
    }
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that does not read its input fails by what it answers.
        thread::spawn(move || stdin.write_all(&input));
    }
    let end = Instant::now() + DEADLINE;
    let outcome = wait(&mut child, &output, end);
    if outcome.is_err() {
        // It may have ended meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

fn wait(child: &mut Child, output: &mpsc::Receiver<io::Result<Vec<u8>>>, end: Instant) -> io::Result<(bool, Vec<u8>)> {
    let late = || io::Error::other(format!("no answer within {DEADLINE:?}"));
    let bytes = output.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|_| late())??;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok((status.success(), bytes));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(late())
}
