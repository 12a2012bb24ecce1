//! `coracle port`.

use clap::Args;
use engine::Engine;

use crate::output::report::Refusal;

#[derive(Debug, Args)]
#[command(override_usage = "CONTAINER [PORT[/PROTOCOL]]")]
pub(crate) struct PortFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// A port of the container
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = port)]
    pub(crate) port: Option<Port>,
}

/// A port and its protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    number: u16,
    protocol: String,
}

/// A text that is no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a port is a number with or without a protocol, as in 80 or 53/udp")]
pub(crate) struct NoPort;

fn port(text: &str) -> Result<Port, NoPort> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let known = matches!(protocol, "tcp" | "udp" | "sctp");
    let number = number.parse().ok().filter(|number| *number > 0 && known).ok_or(NoPort)?;
    Ok(Port { number, protocol: protocol.to_owned() })
}

/// Lists published ports: none, for containers have no network yet.
pub(crate) fn list(engine: &Engine, flags: &PortFlags) -> anyhow::Result<()> {
    let container = engine.container(&flags.container)?;
    match &flags.port {
        None => Ok(()),
        Some(Port { number, protocol }) => {
            let message = format!("no public port '{number}/{protocol}' published for {}", container.name);
            Err(Refusal::new(message, "containers have no network yet, and so no ports").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let of = |number, protocol: &str| Ok(Port { number, protocol: protocol.to_owned() });
        assert_eq!(port("80"), of(80, "tcp"));
        assert_eq!(port("53/udp"), of(53, "udp"));
        for text in ["", "0", "65536", "80/icmp", "http"] {
            assert_eq!(port(text), Err(NoPort), "{text}");
        }
    }
}
