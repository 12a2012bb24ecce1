//! `coracle login`, `logout`.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use engine::{
    Engine,
    registry::{Credentials, Kept},
};

use crate::{
    output::report::{self, Refusal},
    registry::flags::{LoginFlags, LogoutFlags},
    terminal::prompt,
};

/// The registry that is meant when none is named.
const DEFAULT: &str = "docker.io";

/// Most bytes of a password on standard input.
const SECRET_MAX: u64 = 64 << 10;

/// Checks the credentials with the registry, then keeps them where docker and podman do.
pub(crate) fn login(engine: &Engine, flags: &LoginFlags) -> anyhow::Result<()> {
    let registry = registry(flags.server.as_deref())?;
    let (user, secret) = credentials(flags)?;
    engine.registry_client()?.login(&registry, &user, &secret).map_err(engine::Error::from)?;
    let kept = Credentials::from_environment().store(&registry, &user, &secret).map_err(engine::Error::from)?;
    let mut out = io::stdout().lock();
    match kept {
        Kept::File(path) => {
            report::note(&format!(
                "WARNING! The password is stored unencrypted in {}; a credential helper (`credsStore`) avoids that",
                path.display()
            ));
        }
        Kept::Helper(helper) => writeln!(out, "Kept by docker-credential-{helper}")?,
    }
    Ok(writeln!(out, "Login Succeeded")?)
}

pub(crate) fn logout(flags: &LogoutFlags) -> anyhow::Result<()> {
    let registry = registry(flags.server.as_deref())?;
    let erased = Credentials::from_environment().erase(&registry).map_err(engine::Error::from)?;
    let said = if erased { "Removing login credentials for" } else { "Not logged in to" };
    Ok(writeln!(io::stdout(), "{said} {registry}")?)
}

/// The registry that a user means: a scheme before it and a path behind it do not count.
fn registry(server: Option<&str>) -> anyhow::Result<String> {
    let text = server.unwrap_or(DEFAULT);
    let host = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) || host.contains('@') {
        let hint = "write a host name, with a port or without, as in registry.example:5000";
        return Err(Refusal::new(format!("{text:?} is not a registry"), hint).into());
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DEFAULT.to_owned(),
        host => host.to_owned(),
    })
}

fn credentials(flags: &LoginFlags) -> anyhow::Result<(String, String)> {
    let asks = flags.username.is_none() || (flags.password.is_none() && !flags.password_stdin);
    if asks && !io::stdin().is_terminal() {
        let hint = "give the user with -u, and the password with --password-stdin";
        return Err(Refusal::new("standard input is not a terminal to ask for user and password", hint).into());
    }
    if flags.password.is_some() {
        report::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    let user = match &flags.username {
        Some(user) => user.clone(),
        None => prompt::ask("Username: ")?,
    };
    let secret = match &flags.password {
        Some(secret) => secret.clone(),
        None if flags.password_stdin => secret_of_input()?,
        None => prompt::ask_hidden("Password: ")?,
    };
    if user.is_empty() || secret.is_empty() {
        return Err(Refusal::new("user and password must not be empty", "give both").into());
    }
    Ok((user, secret))
}

/// All of standard input, without the newline that it ends with.
fn secret_of_input() -> anyhow::Result<String> {
    let mut secret = String::new();
    io::stdin().lock().take(SECRET_MAX).read_to_string(&mut secret)?;
    Ok(secret.strip_suffix('\n').map_or(&*secret, |secret| secret.strip_suffix('\r').unwrap_or(secret)).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_people_name_them() {
        for (text, expected) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://registry.example/v2/"), "registry.example"),
        ] {
            assert_eq!(registry(text).unwrap(), expected);
        }
        for text in ["", "https://", "a b", "user@host"] {
            assert!(registry(Some(text)).is_err(), "{text:?}");
        }
    }
}
