//! The contents of `/etc/hosts` and `/etc/resolv.conf` in a container. Text in, text out.

use std::net::{IpAddr, Ipv6Addr};

/// `/etc/hosts` for a machine without a network: loopback, the well-known IPv6 names, and the container's
/// own name, which must resolve (`sudo` and many servers ask for it).
#[must_use]
pub fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n\
         127.0.1.1\t{hostname}\n"
    )
}

/// `/etc/resolv.conf` from the host's: `search` and `options` lines stay, name servers that only the host
/// itself can reach (loopback, link-local) go, comments go. When none of its servers is left, those of
/// `upstream` are taken: what a local resolver of the host itself asks (`/run/systemd/resolve/resolv.conf`).
#[must_use]
pub fn resolv_conf(host: &str, upstream: Option<&str>) -> String {
    let mut servers = reachable_servers(host);
    if servers.is_empty() {
        servers = upstream.map(reachable_servers).unwrap_or_default();
    }
    let mut content = String::new();
    for server in servers.into_iter().take(3) {
        content.push_str(&format!("nameserver {server}\n"));
    }
    for line in host.lines().map(str::trim) {
        if matches!(line.split_whitespace().next(), Some("search" | "options" | "domain")) && line != "search ." {
            content.push_str(line);
            content.push('\n');
        }
    }
    content
}

fn reachable_servers(content: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()?.parse().ok()
    };
    content.lines().filter_map(server).filter(is_reachable_from_guest).collect()
}

fn is_reachable_from_guest(address: &IpAddr) -> bool {
    let link_local = |v6: &Ipv6Addr| v6.is_unicast_link_local();
    !address.is_loopback() && !address.is_unspecified() && !matches!(address, IpAddr::V6(v6) if link_local(v6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_resolvers_are_filtered() {
        let host = "# made by x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n\
                    nameserver ::1\noptions edns0 trust-ad\nsearch example.org\n; end\n";
        assert_eq!(
            resolv_conf(host, Some("nameserver 9.9.9.9")),
            "nameserver 10.0.0.1\noptions edns0 trust-ad\nsearch example.org\n"
        );
    }

    #[test]
    fn a_local_resolver_is_replaced_by_what_it_asks() {
        let host = "nameserver 127.0.0.53\nsearch .\n";
        assert_eq!(resolv_conf(host, Some("nameserver 192.0.2.1\n")), "nameserver 192.0.2.1\n");
        assert_eq!(resolv_conf(host, None), "");
        assert_eq!(resolv_conf("", None), "");
    }

    #[test]
    fn hosts_names_the_container() {
        assert!(hosts("web").ends_with("127.0.1.1\tweb\n"));
        assert!(hosts("web").starts_with("127.0.0.1\tlocalhost\n"));
    }
}
