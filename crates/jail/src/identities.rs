//! Whose files a process reads and writes.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use rustix::process::{getegid, geteuid, getpid};
use rustix::thread::UnshareFlags;

use crate::subordinate::{self, Range};
use crate::{JailError, sys};

/// What numbers of users and groups mean to a process that has entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identities {
    /// The host's: it is root.
    Host,
    /// 0 is the caller, those from 1 on are its subordinate ids (subuid(5), subgid(5)).
    Subordinate,
    /// 0 is the caller, and there is no other.
    Own,
}

/// Waits for a line, then writes both maps: it stays outside of the namespace, where the programs have their rights.
const MAPPER: &str = r#"read -r go && newgidmap "$0" 0 "$3" 1 1 "$4" "$5" && newuidmap "$0" 0 "$1" 1 1 "$2" "$6""#;

/// Becomes root of a user namespace, unless the process is root already.
pub(crate) fn enter() -> Result<Identities, JailError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if user == 0 {
        return Ok(Identities::Host);
    }
    match subordinate::of(user).filter(|_| is_found("newuidmap") && is_found("newgidmap")) {
        Some((users, groups)) => with_subordinates((user, users), (group, groups)),
        None => alone(user, group),
    }
}

fn unshare() -> Result<(), JailError> {
    sys::unshare(UnshareFlags::NEWUSER).map_err(|source| JailError::Namespace { kind: "user", source: source.into() })
}

fn alone(user: u32, group: u32) -> Result<Identities, JailError> {
    unshare()?;
    let write = || -> io::Result<()> {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1"))
    };
    write().map_err(|error| JailError::Ids(error.to_string()))?;
    Ok(Identities::Own)
}

fn with_subordinates(user: (u32, Range), group: (u32, Range)) -> Result<Identities, JailError> {
    let failed = |error: io::Error| JailError::Ids(error.to_string());
    let arguments = [
        getpid().as_raw_nonzero().to_string(),
        user.0.to_string(),
        user.1.first.to_string(),
        group.0.to_string(),
        group.1.first.to_string(),
        group.1.count.to_string(),
        user.1.count.to_string(),
    ];
    let mut mapper = Command::new("/bin/sh")
        .args(["-c", MAPPER])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let unshared = unshare();
    let mut go = mapper.stdin.take();
    if let (Ok(()), Some(go)) = (&unshared, &mut go) {
        go.write_all(b"\n").map_err(failed)?;
    }
    drop(go);
    let mut complaint = String::new();
    if let Some(stderr) = mapper.stderr.take() {
        stderr.take(1024).read_to_string(&mut complaint).map_err(failed)?;
    }
    let status = mapper.wait().map_err(failed)?;
    unshared?;
    if status.success() {
        Ok(Identities::Subordinate)
    } else {
        Err(JailError::Ids(complaint.trim().replace('\n', "; ")))
    }
}

fn is_found(program: &str) -> bool {
    let search = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&search).any(|directory| directory.join(program).is_file())
}
