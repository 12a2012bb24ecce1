//! Which proxy a request goes through.
//!
//! From the variables `https_proxy`, `http_proxy` (by the scheme of the request) and `all_proxy`, in lower case or
//! upper case, the lower case first, as curl reads them. A value is `http://`, `https://`, `socks5://`, `socks5h://`,
//! `socks4://` or `socks4a://`, with `user:password@` or without; without a scheme it is `http://`. An empty value is
//! none.
//!
//! `no_proxy` is a list, by commas or spaces, of hosts that are asked directly: `*` is all of them; `example.com` and
//! `.example.com` are that host and those below it; an address is itself, `10.0.0.0/8` a network of addresses (as
//! they stand in the URL: no name is resolved for this); with `:port`, only that port.
//!
//! Where this differs from curl, it is as docker does: `localhost`, 127.0.0.0/8 and `::1` are never asked through a
//! proxy.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use crate::error::RegistryError;
use crate::guard;

const SCHEMES: [&str; 6] = ["http", "https", "socks5", "socks5h", "socks4", "socks4a"];

/// The proxies of an environment. `Debug` shows no passwords.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    no_proxy: Vec<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl Proxies {
    /// Those of an environment, of which `variable` gives the values.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let value = variable(name).filter(|v| !v.trim().is_empty());
            value.or_else(|| variable(&name.to_uppercase())).filter(|v| !v.trim().is_empty())
        };
        let all = either("all_proxy");
        let list = either("no_proxy").unwrap_or_default();
        Self {
            http: either("http_proxy").or_else(|| all.clone()),
            https: either("https_proxy").or(all),
            no_proxy: list.split([',', ' ']).map(|e| e.trim().to_lowercase()).filter(|e| !e.is_empty()).collect(),
        }
    }

    /// The proxy through which `url` is asked, `None` for a direct connection.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Proxy`] where the variable's value is no proxy.
    pub(crate) fn of(&self, url: &Url) -> Result<Option<Url>, RegistryError> {
        let (value, variable) = match url.scheme() {
            "https" => (&self.https, "https_proxy"),
            _ => (&self.http, "http_proxy"),
        };
        let Some(value) = value else { return Ok(None) };
        let Some(host) = url.host_str() else { return Ok(None) };
        if guard::is_loopback_host(host) || self.is_direct(host, url.port_or_known_default()) {
            return Ok(None);
        }
        parse_proxy(value).map(Some).map_err(|problem| RegistryError::Proxy { variable, problem })
    }

    /// Whether a proxy is at this host.
    pub(crate) fn is_proxy(&self, host: &str) -> bool {
        let proxies = [&self.http, &self.https].into_iter().flatten();
        proxies.filter_map(|value| parse_proxy(value).ok()).any(|url| url.host_str() == Some(host))
    }

    fn is_direct(&self, host: &str, port: Option<u16>) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_lowercase();
        self.no_proxy.iter().any(|entry| matches_entry(entry, &host, port))
    }
}

fn parse_proxy(value: &str) -> Result<Url, String> {
    let value = value.trim();
    let url = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
    let url = url.map_err(|e| e.to_string())?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(format!("there are no {:?} proxies", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) { Err("it has no host".into()) } else { Ok(url) }
}

fn matches_entry(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let address: Option<IpAddr> = host.parse().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        return match (network.parse(), bits.parse(), address) {
            (Ok(network), Ok(bits), Some(address)) => in_network(address, network, bits),
            _ => false,
        };
    }
    let (name, only) = split_port(entry);
    if only.is_some() && only != port {
        return false;
    }
    let name = name.trim_start_matches('.').trim_end_matches('.');
    match (name.parse::<IpAddr>(), address) {
        (Ok(named), Some(address)) => named == address,
        (Ok(_), None) | (Err(_), Some(_)) => false,
        (Err(_), None) => {
            !name.is_empty() && (host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
        }
    }
}

/// `host:port` apart. A bare IPv6 address has colons, but no port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((inside, rest)) = entry.strip_prefix('[').and_then(|e| e.split_once(']')) {
        return (inside, rest.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let Some(rest) = u32::checked_sub(width, bits) else { return false };
    rest == width || address >> rest == network >> rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn through(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).of(&Url::parse(url).unwrap()).unwrap().map(String::from)
    }

    #[test]
    fn the_scheme_chooses_and_lower_case_wins() {
        let variables = [
            ("https_proxy", "http://low:1"),
            ("HTTPS_PROXY", "http://up:2"),
            ("HTTP_PROXY", "plain:3"),
            ("all_proxy", "socks5://all:4"),
        ];
        assert_eq!(through(&variables, "https://r.example/v2/").unwrap(), "http://low:1/");
        assert_eq!(through(&variables, "http://r.example/v2/").unwrap(), "http://plain:3/");
        assert_eq!(through(&variables[3..], "https://r.example/").unwrap(), "socks5://all:4");
        assert_eq!(through(&[("http_proxy", " ")], "http://r.example/"), None);
        assert_eq!(through(&[], "http://r.example/"), None);
    }

    #[test]
    fn loopback_is_never_asked_through_a_proxy() {
        let variables = [("all_proxy", "http://p:1")];
        for url in ["http://localhost:5000/", "https://127.1.2.3/", "http://[::1]:5000/", "http://a.localhost/"] {
            assert_eq!(through(&variables, url), None, "{url}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_networks_and_ports() {
        let cases = [
            ("*", "https://r.example/", true),
            ("example.com", "https://example.com/", true),
            ("example.com", "https://a.example.com/", true),
            (".example.com", "https://a.example.com/", true),
            (".example.com", "https://example.com/", true),
            ("example.com", "https://badexample.com/", false),
            ("example.com", "https://example.com.evil/", false),
            ("EXAMPLE.com", "https://Example.COM/", true),
            ("a, b example.com", "https://example.com/", true),
            ("example.com:5000", "https://example.com:5000/", true),
            ("example.com:5000", "https://example.com/", false),
            ("example.com:443", "https://example.com/", true),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("10.0.0.0/99", "https://10.1.2.3/", false),
            ("0.0.0.0/0", "https://10.1.2.3/", true),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("2.3", "https://10.1.2.3/", false),
            ("", "https://r.example/", false),
        ];
        for (list, url, direct) in cases {
            let variables = [("all_proxy", "http://p:1"), ("no_proxy", list)];
            assert_eq!(through(&variables, url).is_none(), direct, "{list:?} {url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_said() {
        for value in ["ftp://p:1", "http://", "://", "http://p:99999"] {
            let error = proxies(&[("https_proxy", value)]).of(&Url::parse("https://r.example/").unwrap()).unwrap_err();
            assert!(matches!(error, RegistryError::Proxy { variable: "https_proxy", .. }), "{value}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_password() {
        let shown = format!("{:?}", proxies(&[("all_proxy", "http://me:secret@p:1")]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_list_and_any_host_match_or_not(list in "[a-z0-9.:/\\[\\]*, -]{0,40}", host in "[a-z0-9.-]{1,20}") {
            let list = proxies(&[("no_proxy", &list)]);
            let _ = list.is_direct(&host, Some(443));
        }
    }
}
