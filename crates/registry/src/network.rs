//! The registries and mirrors that a client knows, and the connections to them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use crate::auth::Authority;
use crate::auth_file::Credentials;
use crate::environment::Environment;
use crate::error::{RegistryError, Waiting};
use crate::failure::{classify, may_be_plain, shown};
use crate::guard::{self, Class, Guarded, Reach};
use crate::retry::Retries;
use crate::settings::Settings;
use crate::tls::{self, Files};

/// Where Docker Hub answers.
const HUB: &str = "registry-1.docker.io";
/// A mirror that could not be reached is not asked for so long.
const MIRROR_REST: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct Network {
    settings: Settings,
    credentials: Arc<Credentials>,
    pub(crate) environment: Environment,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
}

/// A registry, or a mirror of one.
pub(crate) struct Endpoint {
    /// As it stands in names of images, in the settings and beside credentials.
    pub(crate) name: String,
    /// `host` or `host:port` of its URLs.
    host: String,
    /// What stands before the repository in its URLs: empty, or with a slash at its end.
    prefix: String,
    insecure: bool,
    pub(crate) is_mirror: bool,
    files: Files,
    scheme: OnceLock<&'static str>,
    found: Mutex<Found>,
    connections: Mutex<HashMap<(Role, Option<Url>), reqwest::Client>>,
    /// What it wants to see.
    pub(crate) authority: Authority,
}

/// What is found out about an endpoint by asking it.
#[derive(Debug, Default)]
struct Found {
    class: Option<Class>,
    reached: bool,
    down_until: Option<Instant>,
}

/// Whom a connection is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Role {
    /// The endpoint's own host: it is shown the client's certificate, and may be `insecure`.
    own: bool,
    reach: Reach,
}

/// The endpoint itself.
const HOME: Role = Role { own: true, reach: Reach::Anywhere };

/// A connection to ask something over.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) connection: reqwest::Client,
    pub(crate) proxied: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} at {}/{})", self.name, self.host, self.prefix)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    pub(crate) fn new(
        settings: Settings,
        credentials: Credentials,
        environment: Environment,
    ) -> Result<Self, RegistryError> {
        for (name, host) in &settings.registries {
            for mirror in &host.mirrors {
                parse_mirror(name, mirror)?;
            }
        }
        let credentials = Arc::new(credentials);
        Ok(Self { settings, credentials, environment, endpoints: Mutex::default() })
    }

    pub(crate) fn retries(&self, endpoint: &Endpoint) -> Retries {
        let retries = Retries::new(self.environment.deadlines);
        if endpoint.is_mirror { retries.impatient() } else { retries }
    }

    /// The registry that names of images call `name`.
    pub(crate) fn registry(&self, name: &str) -> Result<Arc<Endpoint>, RegistryError> {
        self.endpoint(name, || self.make(name, hub_host(name).to_owned(), String::new(), None, false))
    }

    /// The registry again, with credentials that are tried, and nothing remembered.
    pub(crate) fn registry_for_login(
        &self,
        name: &str,
        user: &str,
        secret: &str,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        let mut endpoint = self.make(name, hub_host(name).to_owned(), String::new(), None, false)?;
        endpoint.authority = Authority::of_user(user, secret);
        Ok(Arc::new(endpoint))
    }

    /// Where to pull from, in this order: the mirrors that are up, then the registry.
    pub(crate) fn sources(&self, name: &str) -> Result<Vec<Arc<Endpoint>>, RegistryError> {
        let mut sources = Vec::new();
        for mirror in self.settings.registries.get(name).map_or(&[][..], |host| &host.mirrors) {
            let endpoint = self.endpoint(&format!("mirror {mirror}"), || {
                let parsed = parse_mirror(name, mirror)?;
                self.make(&parsed.name, parsed.host, parsed.prefix, parsed.scheme, true)
            })?;
            if !endpoint.rests() {
                sources.push(endpoint);
            }
        }
        sources.push(self.registry(name)?);
        Ok(sources)
    }

    fn endpoint(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<Endpoint, RegistryError>,
    ) -> Result<Arc<Endpoint>, RegistryError> {
        if let Some(endpoint) = lock(&self.endpoints).get(key) {
            return Ok(endpoint.clone());
        }
        let made = Arc::new(make()?);
        Ok(lock(&self.endpoints).entry(key.to_owned()).or_insert(made).clone())
    }

    fn make(
        &self,
        name: &str,
        host: String,
        prefix: String,
        scheme: Option<&'static str>,
        is_mirror: bool,
    ) -> Result<Endpoint, RegistryError> {
        let settings = self.settings.registries.get(name).cloned().unwrap_or_default();
        let url = Url::parse(&format!("https://{host}/"));
        let Some(bare) = url.ok().and_then(|url| url.host_str().map(str::to_owned)) else {
            return Err(unusable(name, "it is no host"));
        };
        let may_be_plain = settings.insecure || guard::is_loopback_host(&bare);
        if scheme == Some("http") && !may_be_plain {
            return Err(unusable(name, "a mirror with http:// needs `insecure` in an entry of its own"));
        }
        let known = match scheme {
            Some(scheme) => OnceLock::from(scheme),
            None if may_be_plain => OnceLock::new(),
            None => OnceLock::from("https"),
        };
        Ok(Endpoint {
            files: Files::of(name, &settings, &self.environment.certificate_directories)?,
            authority: Authority::of_registry(name, self.credentials.clone()),
            name: name.to_owned(),
            host,
            prefix,
            insecure: settings.insecure,
            is_mirror,
            scheme: known,
            found: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    /// The endpoint's root URL. Where it may speak plain HTTP, it is asked first whether it speaks TLS.
    pub(crate) async fn root(&self, endpoint: &Endpoint) -> Result<Url, RegistryError> {
        if let Some(scheme) = endpoint.scheme.get() {
            return endpoint.root(scheme);
        }
        let secure = endpoint.root("https")?;
        match self.speaks_tls(endpoint, &secure).await? {
            true => endpoint.root(endpoint.scheme.get_or_init(|| "https")),
            false => endpoint.root("http"),
        }
    }

    /// False where something else than TLS is spoken, or nobody listens.
    async fn speaks_tls(&self, endpoint: &Endpoint, root: &Url) -> Result<bool, RegistryError> {
        let route = self.route(endpoint, root)?;
        let deadlines = &self.environment.deadlines;
        let url = root.join("v2/").map_err(|e| unusable(&endpoint.name, &e.to_string()))?;
        let asking = route.connection.get(url.clone()).send();
        match tokio::time::timeout(deadlines.connect + deadlines.answer, asking).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) if may_be_plain(&error) => Ok(false),
            Ok(Err(error)) => Err(classify(&url, &error, route.proxied, deadlines)),
            Err(_) => {
                Err(RegistryError::Timeout { url: shown(&url), waiting: Waiting::Answer, after: deadlines.answer })
            }
        }
    }

    /// The connection over which `url` is asked on behalf of an endpoint: its own, that of another host that the user
    /// named, or one that reaches no nearer than the endpoint is.
    pub(crate) fn route(&self, endpoint: &Endpoint, url: &Url) -> Result<Route, RegistryError> {
        let proxy = self.environment.proxies.of(url)?;
        let host = url.host_str().unwrap_or_default();
        if endpoint.is_home(url) {
            return endpoint.connection(self, HOME, proxy);
        }
        if let Some(named) = self.named(url)? {
            return named.connection(self, HOME, proxy);
        }
        let reach = Reach::from(endpoint.class());
        if !reach.admits(url) || (proxy.is_none() && self.environment.proxies.is_proxy(host)) {
            let problem = format!("a registry elsewhere may not send us to {host}");
            return Err(RegistryError::Redirect { url: endpoint.shown(), to: shown(url), problem });
        }
        endpoint.connection(self, Role { own: endpoint.is_same_host(url), reach }, proxy)
    }

    /// The registry at the host of `url`, if it has an entry in the settings.
    fn named(&self, url: &Url) -> Result<Option<Arc<Endpoint>>, RegistryError> {
        let authority = authority(url);
        let named = self.settings.registries.keys().find(|name| {
            let parsed = Url::parse(&format!("{}://{}/", url.scheme(), hub_host(name)));
            parsed.is_ok_and(|parsed| self::authority(&parsed) == authority)
        });
        named.map(|name| self.registry(name)).transpose()
    }

    fn connect(&self, endpoint: &Endpoint, role: Role, proxy: Option<&Url>) -> Result<reqwest::Client, RegistryError> {
        let Role { own, reach } = role;
        let tls = tls::configure(&endpoint.name, &endpoint.files, own && endpoint.insecure, own)?;
        let proxy_host = proxy.and_then(|url| url.host_str()).map(str::to_owned);
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(Guarded { reach, proxy: proxy_host }))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(self.environment.deadlines.connect)
            .pool_idle_timeout(IDLE)
            .user_agent(USER_AGENT);
        let builder = match proxy {
            None => builder.no_proxy(),
            Some(url) => builder
                .proxy(reqwest::Proxy::all(url.clone()).map_err(|_| unusable(&endpoint.name, "its proxy is none"))?),
        };
        builder.build().map_err(|e| unusable(&endpoint.name, &e.to_string()))
    }
}

impl Endpoint {
    fn root(&self, scheme: &str) -> Result<Url, RegistryError> {
        Url::parse(&format!("{scheme}://{}/", self.host)).map_err(|e| unusable(&self.name, &e.to_string()))
    }

    /// The repository as it stands in this endpoint's URLs and scopes.
    pub(crate) fn repository(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn bare_host(&self) -> Option<String> {
        self.root("https").ok()?.host_str().map(str::to_owned)
    }

    fn shown(&self) -> String {
        format!("{}://{}/", self.scheme.get().unwrap_or(&"https"), self.host)
    }

    /// Whether credentials may go to `url`: it is this endpoint, by scheme, host and port.
    pub(crate) fn is_home(&self, url: &Url) -> bool {
        self.root(url.scheme()).is_ok_and(|root| authority(&root) == authority(url))
            && self.scheme.get().is_none_or(|scheme| *scheme == url.scheme())
    }

    /// Whether plain HTTP to this host is what its user settled for.
    pub(crate) fn may_be_plain(&self) -> bool {
        self.insecure || self.scheme.get() == Some(&"http")
    }

    /// Whether `url` has the same host name, with any port.
    pub(crate) fn is_same_host(&self, url: &Url) -> bool {
        self.bare_host().as_deref() == url.host_str()
    }

    /// It answered at this URL.
    pub(crate) fn answered(&self, url: &Url, address: Option<std::net::SocketAddr>) {
        if !self.is_home(url) {
            return;
        }
        let scheme = if url.scheme() == "http" { "http" } else { "https" };
        self.scheme.get_or_init(|| scheme);
        let mut found = lock(&self.found);
        found.reached = true;
        found.class = address.map(|a| guard::class_of(a.ip())).or(found.class);
    }

    fn class(&self) -> Option<Class> {
        lock(&self.found).class
    }

    /// Whether it ever answered.
    pub(crate) fn reached(&self) -> bool {
        lock(&self.found).reached
    }

    /// It cannot be reached: as a mirror, it is left alone for a while.
    pub(crate) fn rest(&self) {
        lock(&self.found).down_until = Some(Instant::now() + MIRROR_REST);
    }

    fn rests(&self) -> bool {
        lock(&self.found).down_until.is_some_and(|until| Instant::now() < until)
    }

    fn connection(&self, network: &Network, role: Role, proxy: Option<Url>) -> Result<Route, RegistryError> {
        let proxied = proxy.is_some();
        let key = (role, proxy);
        if let Some(connection) = lock(&self.connections).get(&key) {
            return Ok(Route { connection: connection.clone(), proxied });
        }
        let connection = network.connect(self, role, key.1.as_ref())?;
        let connection = lock(&self.connections).entry(key).or_insert(connection).clone();
        Ok(Route { connection, proxied })
    }
}

/// Scheme, host and port.
fn authority(url: &Url) -> (&str, Option<&str>, Option<u16>) {
    (url.scheme(), url.host_str(), url.port_or_known_default())
}

fn hub_host(name: &str) -> &str {
    if name == "docker.io" { HUB } else { name }
}

fn unusable(registry: &str, problem: &str) -> RegistryError {
    RegistryError::Settings { registry: registry.to_owned(), problem: problem.to_owned() }
}

struct Mirror {
    name: String,
    host: String,
    prefix: String,
    scheme: Option<&'static str>,
}

/// `host`, `host:port`, or a URL.
fn parse_mirror(registry: &str, text: &str) -> Result<Mirror, RegistryError> {
    let wrong =
        |problem: &str| unusable(registry, &format!("its mirror {:?} {problem}", crate::answer::show(text, 200)));
    let (scheme, url) = match text.contains("://") {
        true => (Some(()), Url::parse(text)),
        false => (None, Url::parse(&format!("https://{text}"))),
    };
    let url = url.map_err(|e| wrong(&format!("is no host or URL: {e}")))?;
    let scheme = match (scheme, url.scheme()) {
        (None, _) => None,
        (Some(()), "https") => Some("https"),
        (Some(()), "http") => Some("http"),
        _ => return Err(wrong("is neither https:// nor http://")),
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("may have no user, password, query or fragment"));
    }
    let host = url.host_str().ok_or_else(|| wrong("has no host"))?;
    let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = url.path().trim_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    Ok(Mirror { host: name.clone(), name, prefix, scheme })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_hosts_or_urls() {
        let cases = [
            ("m.example", Some(("m.example", "", None))),
            ("m.example:5000", Some(("m.example:5000", "", None))),
            ("https://m.example", Some(("m.example", "", Some("https")))),
            ("https://m.example/hub/a/", Some(("m.example", "hub/a/", Some("https")))),
            ("http://127.0.0.1:5000", Some(("127.0.0.1:5000", "", Some("http")))),
            ("[::1]:5000", Some(("[::1]:5000", "", None))),
            ("ftp://m.example", None),
            ("https://me:pw@m.example", None),
            ("https://m.example/?q", None),
            ("", None),
            ("https://", None),
        ];
        for (text, expected) in cases {
            let mirror = parse_mirror("docker.io", text);
            let read = mirror.as_ref().ok().map(|m| (m.host.as_str(), m.prefix.as_str(), m.scheme));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn plain_mirrors_need_to_be_near_or_called_insecure() {
        let network = |json: &str| {
            let settings = serde_json::from_str(json).unwrap();
            Network::new(settings, Credentials::anonymous(), Environment::empty()).unwrap()
        };
        let far = network(r#"{"docker.io":{"mirrors":["http://m.example"]}}"#);
        assert!(matches!(far.sources("docker.io"), Err(RegistryError::Settings { .. })));
        let allowed = network(r#"{"docker.io":{"mirrors":["http://m.example"]},"m.example":{"insecure":true}}"#);
        assert_eq!(allowed.sources("docker.io").unwrap().len(), 2);
        let near = network(r#"{"docker.io":{"mirrors":["http://127.0.0.1:1"]}}"#);
        assert_eq!(near.sources("docker.io").unwrap().len(), 2);
        assert!(serde_json::from_str::<Settings>(r#"{"a":{"unknown":1}}"#).is_err());
    }
}
