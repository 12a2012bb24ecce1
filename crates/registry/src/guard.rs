//! Where a request may go.
//!
//! A registry is where its user says it is. Where the registry sends us on — by a redirect, the place of an upload, a
//! token server — is another matter: it must not make us ask the hosts that only we can reach. The rule, by the class
//! of the address that the registry itself was reached at:
//!
//! ```text
//! registry is at        it may send us to
//! loopback              public, private, loopback
//! private network       public, private
//! public, or unknown    public
//! ```
//!
//! and nobody may send us to link-local addresses (the metadata services of clouds), to `0.0.0.0`, or to multicast.
//! "Unknown" is a registry behind a proxy. The rule is held where names become addresses, in [`Guarded`], so that no
//! name service can talk us round it; addresses that stand in the URL are checked by [`Reach::admits`] before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Public,
    Private,
    Loopback,
    /// Link-local, unspecified, multicast, reserved.
    Forbidden,
}

/// How far a request may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// The user named this host.
    Anywhere,
    Loopback,
    Private,
    Public,
}

impl Reach {
    /// Where a registry at such an address may send us.
    pub(crate) fn from(registry: Option<Class>) -> Self {
        match registry {
            Some(Class::Loopback) => Self::Loopback,
            Some(Class::Private) => Self::Private,
            _ => Self::Public,
        }
    }

    fn reaches(self, class: Class) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Loopback => class != Class::Forbidden,
            Self::Private => matches!(class, Class::Public | Class::Private),
            Self::Public => class == Class::Public,
        }
    }

    /// Whether the URL's host may be asked, as far as it can be told without a name service.
    pub(crate) fn admits(self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        match address_of(host) {
            Some(address) => self.reaches(class_of(address)),
            None => !is_loopback_host(host) || self.reaches(Class::Loopback),
        }
    }
}

fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// `localhost`, what is below it, and loopback addresses.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    match address_of(host) {
        Some(address) => class_of(address) == Class::Loopback,
        None => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// The class of an address. IPv6 addresses that stand for IPv4 ones are of the class of these.
pub(crate) fn class_of(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(v4) => class_of_v4(v4),
        IpAddr::V6(v6) => class_of_v6(v6),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Class {
    let [a, b, ..] = address.octets();
    match (a, b) {
        (0 | 224.., _) | (169, 254) => Class::Forbidden,
        (127, _) => Class::Loopback,
        // RFC 1918; RFC 6598 (carriers, overlay networks); RFC 2544 (names that a local proxy makes up).
        (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) | (198, 18 | 19) => Class::Private,
        _ => Class::Public,
    }
}

fn class_of_v6(address: Ipv6Addr) -> Class {
    if address.is_loopback() {
        return Class::Loopback;
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let low = || {
        let [p, q] = g.to_be_bytes();
        let [r, s] = h.to_be_bytes();
        class_of_v4(Ipv4Addr::new(p, q, r, s))
    };
    match (a, b, c, d, e, f) {
        // ::ffff:0:0/96 (RFC 4291) and 64:ff9b::/96 (RFC 6052).
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => low(),
        (0, ..) => Class::Forbidden,
        // Link-local and multicast.
        (0xfe80..=0xfebf | 0xff00.., ..) => Class::Forbidden,
        // Unique local, and what site-local was.
        (0xfc00..=0xfdff | 0xfec0..=0xfeff, ..) => Class::Private,
        // 6to4 (RFC 3056): the IPv4 address follows the prefix.
        (0x2002, ..) => {
            let [p, q] = b.to_be_bytes();
            let [r, s] = c.to_be_bytes();
            class_of_v4(Ipv4Addr::new(p, q, r, s))
        }
        _ => Class::Public,
    }
}

/// A name that has no address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NameFailure(pub(crate) String);

/// A name that has only addresses that are out of reach.
#[derive(Debug, thiserror::Error)]
#[error("{name} is {address}, which a registry elsewhere may not send us to")]
pub(crate) struct OutOfReach {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
}

/// The system's name service, less the addresses that are out of reach.
#[derive(Debug)]
pub(crate) struct Guarded {
    pub(crate) reach: Reach,
    /// The proxy's own name is asked for too, and may be anywhere.
    pub(crate) proxy: Option<String>,
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = if self.proxy.as_deref() == Some(name.as_str()) { Reach::Anywhere } else { self.reach };
        Box::pin(async move {
            let name = name.as_str();
            let found = tokio::net::lookup_host((name, 0)).await.map_err(|e| NameFailure(e.to_string()))?;
            let addresses = within(reach, name, &found.collect::<Vec<_>>())?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn within(
    reach: Reach,
    name: &str,
    found: &[SocketAddr],
) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let admitted: Vec<SocketAddr> = found.iter().copied().filter(|a| reach.reaches(class_of(a.ip()))).collect();
    match (admitted.is_empty(), found.first()) {
        (false, _) => Ok(admitted),
        (true, Some(address)) => Err(OutOfReach { name: name.to_owned(), address: address.ip() }.into()),
        (true, None) => Err(NameFailure("the name has no address".into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_classes() {
        let cases = [
            ("8.8.8.8", Class::Public),
            ("10.0.0.1", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.32.0.1", Class::Public),
            ("192.168.1.1", Class::Private),
            ("100.100.100.200", Class::Private),
            ("127.0.0.1", Class::Loopback),
            ("127.255.0.1", Class::Loopback),
            ("169.254.169.254", Class::Forbidden),
            ("0.0.0.0", Class::Forbidden),
            ("255.255.255.255", Class::Forbidden),
            ("224.0.0.1", Class::Forbidden),
            ("::1", Class::Loopback),
            ("::", Class::Forbidden),
            ("::7f00:1", Class::Forbidden),
            ("fe80::1", Class::Forbidden),
            ("ff02::1", Class::Forbidden),
            ("fd00:ec2::254", Class::Private),
            ("2001:db8::1", Class::Public),
            ("::ffff:127.0.0.1", Class::Loopback),
            ("::ffff:169.254.169.254", Class::Forbidden),
            ("64:ff9b::169.254.169.254", Class::Forbidden),
            ("2002:7f00:1::", Class::Loopback),
        ];
        for (address, class) in cases {
            assert_eq!(class_of(address.parse().unwrap()), class, "{address}");
        }
    }

    #[test]
    fn a_registry_sends_us_no_nearer_than_it_is() {
        let admitted = |reach: Reach, url: &str| reach.admits(&Url::parse(url).unwrap());
        let public = Reach::from(Some(Class::Public));
        let private = Reach::from(Some(Class::Private));
        let loopback = Reach::from(Some(Class::Loopback));
        assert_eq!(Reach::from(None), public);
        for url in
            ["http://127.0.0.1/", "http://localhost/", "http://a.localhost./", "http://[::1]/", "http://2130706433/"]
        {
            assert!(!admitted(public, url) && !admitted(private, url) && admitted(loopback, url), "{url}");
        }
        for url in ["http://10.1.1.1/", "http://[fd00::1]/"] {
            assert!(!admitted(public, url) && admitted(private, url) && admitted(loopback, url), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://0/", "http://[fe80::1]/", "http://[::ffff:a9fe:a9fe]/"] {
            assert!(!admitted(public, url) && !admitted(private, url) && !admitted(loopback, url), "{url}");
        }
        assert!(admitted(public, "https://cdn.example/") && admitted(Reach::Anywhere, "http://169.254.169.254/"));
    }

    #[test]
    fn a_name_with_addresses_on_both_sides_is_asked_on_the_far_one() {
        let near: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let far: SocketAddr = "8.8.8.8:0".parse().unwrap();
        assert_eq!(within(Reach::Public, "a", &[near, far]).unwrap(), [far]);
        assert!(within(Reach::Public, "a", &[near]).unwrap_err().is::<OutOfReach>());
        assert!(within(Reach::Public, "a", &[]).unwrap_err().is::<NameFailure>());
    }
}
