//! What a registry is shown: nothing, a password, or a token that its token server gave for one scope.
//!
//! Whoever asks for credentials names in `realm` who hands out tokens (token authentication of the distribution
//! project; RFC 6750). The registry's own answer alone is believed: a challenge from anyone else is an error before
//! it comes here. The token server must be asked over https, unless the registry's user settled for plain HTTP and the
//! server is at the same host, or at this one; it gets the password with Basic, or the refresh token in a POST
//! (RFC 6749, section 6).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::answer::show;
use crate::auth_file::{Credentials, Secret};
use crate::body;
use crate::challenge::Challenge;
use crate::error::RegistryError;
use crate::exchange::{Ask, Payload};
use crate::failure::shown;
use crate::guard::is_loopback_host;
use crate::network::{Endpoint, Network};

/// A token that says nothing lives so long (token.md: "at least 60 seconds").
const SHORTEST_LIFE: u64 = 60;
const LONGEST_LIFE: u64 = 24 * 3600;
/// A token is renewed so long before its end, but never before half its life.
const SLACK: Duration = Duration::from_secs(10);
const LONGEST_TOKEN_ANSWER: u64 = 1 << 20;
/// No header that a server takes is longer.
const LONGEST_TOKEN: usize = 64 << 10;
const LONGEST_SCOPE: usize = 4096;
const MOST_TOKENS: usize = 1024;

/// What one endpoint wants to see, and what it was shown.
#[derive(Debug)]
pub(crate) struct Authority {
    keeper: Keeper,
    state: Mutex<State>,
    /// One token is asked for at a time, so that ten layers of an image need one.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Keeper {
    Kept { registry: String, credentials: Arc<Credentials> },
    Given(Secret),
}

#[derive(Debug, Default)]
struct State {
    scheme: Option<Scheme>,
    tokens: HashMap<Vec<String>, Token>,
    secrets: HashMap<String, Option<Secret>>,
}

#[derive(Debug, Clone)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

#[derive(Debug, Clone)]
struct Token {
    proof: Proof,
    until: Instant,
}

/// A value of `Authorization`. `Debug` does not show it.
#[derive(Clone, PartialEq)]
pub(crate) struct Proof {
    pub(crate) header: HeaderValue,
    /// The user's own credentials are behind it.
    pub(crate) of_user: bool,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof(of_user: {})", self.of_user)
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Authority {
    /// With what is kept for a registry.
    pub(crate) fn of_registry(registry: &str, credentials: Arc<Credentials>) -> Self {
        Self::new(Keeper::Kept { registry: registry.to_owned(), credentials })
    }

    /// With what a user gives.
    pub(crate) fn of_user(user: &str, password: &str) -> Self {
        Self::new(Keeper::Given(Secret::Password { user: user.to_owned(), password: password.to_owned() }))
    }

    fn new(keeper: Keeper) -> Self {
        Self { keeper, state: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to show before the registry asks, as far as it is known what it will want.
    pub(crate) async fn ahead(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        ask: &Ask,
    ) -> Result<Option<Proof>, RegistryError> {
        if !endpoint.is_home(&ask.url) {
            return Ok(None);
        }
        let scheme = self.state().scheme.clone();
        match scheme {
            None => Ok(None),
            Some(scheme) => self.prove(network, endpoint, ask, &scheme, &ask.scopes, None).await,
        }
    }

    /// What to show after the registry asked. `before` is what it was shown and did not accept. `None` where there is
    /// nothing else to show.
    pub(crate) async fn meet(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        ask: &Ask,
        challenges: &[Challenge],
        before: Option<&Proof>,
    ) -> Result<Option<Proof>, RegistryError> {
        let bearer = challenges.iter().find(|c| c.scheme == "bearer");
        let basic = challenges.iter().any(|c| c.scheme == "basic");
        let scheme = match (bearer, basic) {
            (Some(challenge), _) => Scheme::Bearer {
                realm: realm_of(endpoint, &ask.url, challenge)?,
                service: challenge.parameter("service").map(str::to_owned),
            },
            (None, true) => Scheme::Basic,
            (None, false) if challenges.is_empty() => return Ok(None),
            (None, false) => return Err(no_known_scheme(&ask.url, challenges)),
        };
        self.state().scheme = Some(scheme.clone());
        let mut scopes = ask.scopes.clone();
        if let Some(wanted) = bearer.and_then(|c| c.parameter("scope")).filter(|s| s.len() <= LONGEST_SCOPE) {
            scopes.extend(wanted.split(' ').filter(|s| !s.is_empty()).map(str::to_owned));
        }
        let mut seen = Vec::new();
        scopes.retain(|scope| {
            !seen.contains(scope) && {
                seen.push(scope.clone());
                true
            }
        });
        let proof = self.prove(network, endpoint, ask, &scheme, &scopes, before).await?;
        Ok(proof.filter(|proof| Some(proof) != before))
    }

    /// What was shown is not accepted, or not any more.
    pub(crate) fn forget(&self, ask: &Ask, shown: Option<&Proof>) {
        let mut state = self.state();
        // Its user may have logged in since.
        state.secrets.remove(&ask.repository);
        if state.tokens.get(&ask.scopes).is_some_and(|token| Some(&token.proof) == shown) {
            state.tokens.remove(&ask.scopes);
        }
    }

    async fn prove(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        ask: &Ask,
        scheme: &Scheme,
        scopes: &[String],
        before: Option<&Proof>,
    ) -> Result<Option<Proof>, RegistryError> {
        match scheme {
            Scheme::Basic => match self.secret(&ask.repository).await? {
                Some(Secret::Password { user, password }) => basic(&user, &password).map(Some),
                _ => Ok(None),
            },
            Scheme::Bearer { realm, service } => {
                let _asking = self.asking.lock().await;
                if let Some(token) = self.valid(&ask.scopes).filter(|proof| Some(proof) != before) {
                    return Ok(Some(token));
                }
                let secret = self.secret(&ask.repository).await?;
                let token = fetch(network, endpoint, realm, service.as_deref(), scopes, secret).await?;
                let proof = token.proof.clone();
                let mut state = self.state();
                if state.tokens.len() >= MOST_TOKENS {
                    state.tokens.clear();
                }
                state.tokens.insert(ask.scopes.clone(), token);
                Ok(Some(proof))
            }
        }
    }

    fn valid(&self, scopes: &[String]) -> Option<Proof> {
        let state = self.state();
        state.tokens.get(scopes).filter(|token| Instant::now() < token.until).map(|token| token.proof.clone())
    }

    /// The credentials for a repository, read once.
    async fn secret(&self, repository: &str) -> Result<Option<Secret>, RegistryError> {
        let (registry, credentials) = match &self.keeper {
            Keeper::Given(secret) => return Ok(Some(secret.clone())),
            Keeper::Kept { registry, credentials } => (registry.clone(), credentials.clone()),
        };
        if let Some(known) = self.state().secrets.get(repository) {
            return Ok(known.clone());
        }
        let path = repository.to_owned();
        // A program that keeps credentials may take long.
        let finding = tokio::task::spawn_blocking(move || credentials.find(&registry, &path));
        let secret = finding.await.map_err(|e| RegistryError::Thread(std::io::Error::other(e)))??;
        self.state().secrets.insert(repository.to_owned(), secret.clone());
        Ok(secret)
    }
}

fn no_known_scheme(url: &Url, challenges: &[Challenge]) -> RegistryError {
    let schemes: Vec<String> = challenges.iter().map(|c| show(&c.scheme, 40)).collect();
    let problem = format!("it wants credentials for {}, only Basic and Bearer are known", schemes.join(", "));
    RegistryError::Protocol { url: shown(url), problem }
}

fn basic(user: &str, password: &str) -> Result<Proof, RegistryError> {
    // Base64 is always a legal header value.
    let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    value.map(|header| sensitive(header, true)).map_err(|e| RegistryError::Thread(std::io::Error::other(e)))
}

fn sensitive(mut header: HeaderValue, of_user: bool) -> Proof {
    header.set_sensitive(true);
    Proof { header, of_user }
}

/// The token server of a challenge, if it is one to give credentials to.
fn realm_of(endpoint: &Endpoint, url: &Url, challenge: &Challenge) -> Result<Url, RegistryError> {
    let text = challenge.parameter("realm").unwrap_or_default();
    let shown_realm = show(text.split(['?', '#']).next().unwrap_or_default(), 300);
    let refuse = |problem| RegistryError::Realm { url: shown(url), realm: shown_realm.clone(), problem };
    let realm = Url::parse(text).map_err(|_| refuse("it is no URL"))?;
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(refuse("it has a user name in it"));
    }
    let host = realm.host_str().unwrap_or_default();
    match realm.scheme() {
        "https" if !host.is_empty() => Ok(realm),
        "http" if endpoint.may_be_plain() && (endpoint.is_same_host(&realm) || is_loopback_host(host)) => Ok(realm),
        "http" => Err(refuse("credentials would go over plain HTTP")),
        _ => Err(refuse("it is neither http nor https")),
    }
}

async fn fetch(
    network: &Network,
    endpoint: &Endpoint,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    secret: Option<Secret>,
) -> Result<Token, RegistryError> {
    let of_user = secret.is_some();
    let (ask, authorization) = request(realm, service, scopes, secret)?;
    let reply = network.follow_from(endpoint, &ask, authorization.as_ref().map(|p| &p.header), realm).await?;
    if !reply.status().is_success() {
        return Err(match network.refusal(reply).await {
            RegistryError::Unauthorized { url, answer, .. } => {
                RegistryError::Unauthorized { url, answer, sent: of_user }
            }
            other => other,
        });
    }
    let deadlines = network.environment.deadlines;
    let bytes = body::whole(reply.response, realm, LONGEST_TOKEN_ANSWER, deadlines).await?;
    token_of(realm, &bytes, of_user)
}

/// What a token server is asked, and what it is shown.
fn request(
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    secret: Option<Secret>,
) -> Result<(Ask, Option<Proof>), RegistryError> {
    let mut url = realm.clone();
    match secret {
        Some(Secret::Identity(token)) => {
            let mut form = Url::parse("form:").map_err(|e| RegistryError::Thread(std::io::Error::other(e)))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "coracle")
                .extend_pairs(service.map(|s| ("service", s)))
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", &token);
            let payload = Payload::Form(Bytes::from(form.query().unwrap_or_default().to_owned()));
            Ok((Ask::new(Method::POST, url, "", Vec::new()).payload(payload), None))
        }
        other => {
            let account = match &other {
                Some(Secret::Password { user, .. }) => Some(("account", user.as_str())),
                _ => None,
            };
            if account.is_some() || service.is_some() || !scopes.is_empty() {
                url.query_pairs_mut()
                    .extend_pairs(account)
                    .extend_pairs(service.map(|s| ("service", s)))
                    .extend_pairs(scopes.iter().map(|s| ("scope", s)));
            }
            let proof = match &other {
                Some(Secret::Password { user, password }) => Some(basic(user, password)?),
                _ => None,
            };
            Ok((Ask::new(Method::GET, url, "", Vec::new()), proof))
        }
    }
}

fn token_of(realm: &Url, bytes: &[u8], of_user: bool) -> Result<Token, RegistryError> {
    let wrong = |problem: &str| RegistryError::Protocol { url: shown(realm), problem: problem.to_owned() };
    let answer: TokenAnswer = serde_json::from_slice(bytes).map_err(|_| wrong("its token is not JSON"))?;
    let text = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
    if text.is_empty() || text.len() > LONGEST_TOKEN || text.bytes().any(|b| b.is_ascii_whitespace()) {
        return Err(wrong("its token is empty, too long or none"));
    }
    let header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| wrong("its token is none"))?;
    let life = Duration::from_secs(answer.expires_in.unwrap_or(SHORTEST_LIFE).clamp(1, LONGEST_LIFE));
    let until = Instant::now() + (life - SLACK.min(life / 2));
    Ok(Token { proof: sensitive(header, of_user), until })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn realm() -> Url {
        Url::parse("https://auth.example/token?a=b").unwrap()
    }

    #[test]
    fn a_token_server_is_asked_in_its_own_words() {
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        let secret = Secret::Password { user: "me@x".into(), password: "p:w".into() };
        let (ask, proof) = request(&realm(), Some("s v"), &scopes, Some(secret)).unwrap();
        assert_eq!(
            ask.url.as_str(),
            "https://auth.example/token?a=b&account=me%40x&service=s+v&scope=repository%3Aa%2Fb%3Apull\
             &scope=repository%3Ac%3Apull"
        );
        assert_eq!(proof.unwrap().header.to_str().unwrap(), "Basic bWVAeDpwOnc=");
        let (ask, proof) = request(&realm(), Some("s"), &scopes, Some(Secret::Identity("r&t".into()))).unwrap();
        assert_eq!((ask.url, proof), (realm(), None));
        let Payload::Form(bytes) = ask.payload else { panic!("no form") };
        assert_eq!(
            bytes,
            "grant_type=refresh_token&client_id=coracle&service=s&scope=repository%3Aa%2Fb%3Apull+repository%3Ac%3Apull\
             &refresh_token=r%26t"
        );
    }

    #[test]
    fn tokens_are_read_and_not_shown() {
        let cases = [
            (r#"{"token":"t"}"#, Some("Bearer t")),
            (r#"{"access_token":"a","expires_in":1}"#, Some("Bearer a")),
            (r#"{"token":"","access_token":"a"}"#, Some("Bearer a")),
            (r#"{"token":"t","expires_in":18446744073709551615}"#, Some("Bearer t")),
            (r#"{"token":"t","expires_in":0}"#, Some("Bearer t")),
            (r#"{"token":"a\r\nX: y"}"#, None),
            (r#"{"token":"a b"}"#, None),
            ("{}", None),
            ("[", None),
            ("", None),
        ];
        for (body, expected) in cases {
            let token = token_of(&realm(), body.as_bytes(), true);
            let header = token.as_ref().ok().and_then(|t| t.proof.header.to_str().ok());
            assert_eq!(header, expected, "{body}");
        }
        let token = token_of(&realm(), br#"{"token":"s3cret"}"#, true).unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(!format!("{:?}", token.proof.header).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn any_token_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), token in "\\PC{0,40}") {
            let _ = token_of(&realm(), &bytes, false);
            let _ = token_of(&realm(), serde_json::json!({ "token": token }).to_string().as_bytes(), false);
        }
    }
}
