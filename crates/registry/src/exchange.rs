//! One request and its answer: redirects, and what the registry wants to see.
//!
//! # Redirects
//!
//! At most ten, none of them twice, to `http` and `https` only, never from `https` to `http`, and where
//! [`crate::guard`] lets us go. Credentials go to the endpoint itself alone, by scheme, host and port: the first
//! redirect elsewhere ends that for the rest of the way, also where it leads back. What such a target answers with 401
//! is not a challenge that is met.
//!
//! ```text
//!            ┌────────── redirect, still at home ──────────┐
//!            ▼                                             │
//! ask ─► at home ─► 401 ─► credentials or token ─► at home once more ─► answer
//!            │ redirect elsewhere
//!            ▼
//!        elsewhere, without credentials ─► answer; 401 is an error
//! ```

use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

use crate::answer::{Answer, show};
use crate::auth::Proof;
use crate::body::{self, Beat, Feed, Pulse, Whole};
use crate::challenge::{self, Challenge};
use crate::error::{RegistryError, Waiting};
use crate::failure::{classify, shown};
use crate::network::{Endpoint, Network, Route};

const MOST_REDIRECTS: usize = 10;
/// So often is looked whether a body gets on.
const LOOK: Duration = Duration::from_millis(250);
/// So much is read of an answer that explains a failure.
const LONGEST_EXPLANATION: usize = 64 << 10;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) payload: Payload,
    /// What the token must allow: `repository:<path>:pull`.
    pub(crate) scopes: Vec<String>,
    /// The repository, for credentials that are kept for it alone.
    pub(crate) repository: String,
}

/// What goes with it.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// Bytes with their media type. They can be sent again.
    Bytes(Bytes, String),
    /// A form with a secret in it: goes to its URL alone.
    Form(Bytes),
    /// Bytes that are sent once.
    Feed(Mutex<Option<Feed>>),
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url, repository: &str, scopes: Vec<String>) -> Self {
        Self { method, url, headers: Vec::new(), payload: Payload::None, scopes, repository: repository.to_owned() }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }
}

/// What was answered, and by whom.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response,
    pub(crate) url: Url,
    /// It came from the endpoint itself, and from nobody in between.
    pub(crate) at_home: bool,
}

/// What became of a request.
enum Asked {
    Answered(Reply),
    /// The endpoint itself wants to see something else.
    Unauthorized(Reply),
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A header as text, if it is printable ASCII.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn protocol(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { url: shown(&self.url), problem: problem.into() }
    }

    fn challenges(&self) -> Vec<Challenge> {
        let headers = self.response.headers().get_all(WWW_AUTHENTICATE);
        headers.iter().filter_map(|value| value.to_str().ok()).take(16).flat_map(challenge::parse).collect()
    }
}

impl Network {
    /// Asks an endpoint; what it wants to see it is shown, once. Gives any answer but 401.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, ask: Ask) -> Result<Reply, RegistryError> {
        let before = endpoint.authority.ahead(self, endpoint, &ask).await?;
        let reply = match self.ask_with(endpoint, &ask, before.as_ref()).await? {
            Asked::Answered(reply) => return Ok(reply),
            Asked::Unauthorized(reply) => reply,
        };
        let proof = endpoint.authority.meet(self, endpoint, &ask, &reply.challenges(), before.as_ref()).await?;
        let of_user = before.is_some_and(|proof| proof.of_user);
        let Some(proof) = proof.filter(|_| !matches!(ask.payload, Payload::Feed(_))) else {
            return Err(self.unauthorized(reply, of_user).await);
        };
        drop(reply);
        match self.ask_with(endpoint, &ask, Some(&proof)).await? {
            Asked::Answered(reply) => Ok(reply),
            Asked::Unauthorized(reply) => Err(self.unauthorized(reply, proof.of_user).await),
        }
    }

    async fn ask_with(&self, endpoint: &Endpoint, ask: &Ask, proof: Option<&Proof>) -> Result<Asked, RegistryError> {
        let reply = self.follow(endpoint, ask, proof.map(|proof| &proof.header)).await?;
        if reply.status() != StatusCode::UNAUTHORIZED {
            return Ok(Asked::Answered(reply));
        }
        if !reply.at_home {
            return Err(RegistryError::Redirect {
                url: shown(&ask.url),
                to: shown(&reply.url),
                problem: "it asks for credentials, which only the registry itself is given".into(),
            });
        }
        endpoint.authority.forget(ask, proof);
        Ok(Asked::Unauthorized(reply))
    }

    async fn unauthorized(&self, reply: Reply, sent: bool) -> RegistryError {
        match self.refusal(reply).await {
            RegistryError::Unauthorized { url, answer, .. } => RegistryError::Unauthorized { url, answer, sent },
            other => other,
        }
    }

    /// Asks, and follows redirects. `authorization` goes to the endpoint itself alone.
    pub(crate) async fn follow(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        self.walk(endpoint, ask, authorization, &|url| endpoint.is_home(url)).await
    }

    /// The same for a token server that an endpoint named: `authorization` goes there alone.
    pub(crate) async fn follow_from(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
        home: &Url,
    ) -> Result<Reply, RegistryError> {
        self.walk(endpoint, ask, authorization, &|url| url.origin() == home.origin()).await
    }

    async fn walk(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
        is_home: &(dyn Fn(&Url) -> bool + Send + Sync),
    ) -> Result<Reply, RegistryError> {
        let mut url = ask.url.clone();
        let mut visited = Vec::new();
        let mut at_home = true;
        loop {
            at_home &= is_home(&url);
            let response = self.send(endpoint, ask, &url, authorization.filter(|_| at_home)).await?;
            let Some(location) = redirect_of(&response) else {
                return Ok(Reply { response, url, at_home });
            };
            visited.push(url.clone());
            let next = target(&url, location)?;
            let refuse = |problem: String| RegistryError::Redirect { url: shown(&url), to: shown(&next), problem };
            if matches!(ask.payload, Payload::Form(_)) {
                return Err(refuse("with a secret in the request".into()));
            }
            check_repeat(ask, response.status()).map_err(|problem| refuse(problem.into()))?;
            if visited.contains(&next) {
                return Err(refuse(format!("a loop of {} redirects", visited.len())));
            }
            if visited.len() > MOST_REDIRECTS {
                return Err(refuse(format!("more than {MOST_REDIRECTS} redirects")));
            }
            url = next;
        }
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let route = self.route(endpoint, url)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &ask.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name.clone(), value);
            }
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let request = route.connection.request(ask.method.clone(), url.clone()).headers(headers);
        let (request, pulse) = match &ask.payload {
            Payload::None => (request, None),
            Payload::Form(form) => {
                (request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone()), None)
            }
            // Some servers want to be told that nothing comes.
            Payload::Bytes(bytes, media_type) if bytes.is_empty() => {
                (request.header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, "0"), None)
            }
            Payload::Bytes(bytes, media_type) => {
                let body = Whole::new(bytes);
                let pulse = body.pulse();
                (request.header(CONTENT_TYPE, media_type).body(reqwest::Body::wrap(body)), Some(pulse))
            }
            Payload::Feed(feed) => {
                let feed = feed.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(feed) = feed else {
                    return Err(RegistryError::Broken { url: shown(url), detail: "it was sent already".into() });
                };
                let pulse = feed.pulse();
                let request = request.header(CONTENT_TYPE, "application/octet-stream");
                (request.body(reqwest::Body::wrap(feed)), Some(pulse))
            }
        };
        let deadlines = &self.environment.deadlines;
        let uploads = matches!(ask.method, Method::PUT | Method::PATCH);
        let answer = if uploads { deadlines.commit } else { deadlines.answer };
        let response = self.watch(&route, url, request, answer, pulse).await?;
        endpoint.answered(url, response.remote_addr().filter(|_| !route.proxied));
        Ok(response)
    }

    /// Waits for the head of the answer; while the request's body goes out, for each piece of it.
    async fn watch(
        &self,
        route: &Route,
        url: &Url,
        request: reqwest::RequestBuilder,
        answer: Duration,
        pulse: Option<Pulse>,
    ) -> Result<Response, RegistryError> {
        let deadlines = &self.environment.deadlines;
        let start = Instant::now();
        // Between bodies of a request and its answer lie whole buffers of the system, and before them the connection.
        let end = || match pulse.as_ref().map_or(Beat::Ended(start), Pulse::last) {
            Beat::Took(at) => (at + deadlines.connect + deadlines.stall, Waiting::Bytes, deadlines.stall),
            Beat::Starves => (Instant::now() + deadlines.stall, Waiting::Bytes, deadlines.stall),
            Beat::Ended(at) => (at + deadlines.connect + answer, Waiting::Answer, answer),
        };
        let sending = request.send();
        tokio::pin!(sending);
        loop {
            let wake = end().0.min(Instant::now() + LOOK);
            match timeout_at(wake.into(), &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(classify(url, &error, route.proxied, deadlines)),
                Err(_) => {
                    let (end, waiting, after) = end();
                    if Instant::now() >= end {
                        return Err(RegistryError::Timeout { url: shown(url), waiting, after });
                    }
                }
            }
        }
    }

    /// The error that an answer is which is no success.
    pub(crate) async fn refusal(&self, reply: Reply) -> RegistryError {
        let status = reply.status();
        if !status.is_client_error() && !status.is_server_error() {
            return reply.protocol(format!("status {} means nothing here", status.as_u16()));
        }
        let url = shown(&reply.url);
        let retry_after = reply.header(RETRY_AFTER.as_str()).and_then(retry_after);
        let deadline = self.environment.deadlines.answer;
        let body = body::some(reply.response, LONGEST_EXPLANATION, deadline).await;
        let answer = Answer::read(status.as_u16(), &body);
        match status.as_u16() {
            401 => RegistryError::Unauthorized { url, answer, sent: false },
            403 => RegistryError::Denied { url, answer },
            404 => RegistryError::NotFound { url, answer },
            429 => RegistryError::RateLimited { url, answer, retry_after },
            500 | 502 | 503 | 504 => RegistryError::Unavailable { url, answer, retry_after },
            _ => RegistryError::Refused { url, answer },
        }
    }
}

/// `Location` of an answer that is a redirect.
fn redirect_of(response: &Response) -> Option<&HeaderValue> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION),
        _ => None,
    }
}

/// Where a `Location` leads from `url`: it may be relative (RFC 9110, section 10.2.2).
pub(crate) fn target(url: &Url, location: &HeaderValue) -> Result<Url, RegistryError> {
    let text = String::from_utf8_lossy(location.as_bytes());
    let refuse =
        |problem: String| RegistryError::Redirect { url: shown(url), to: show(without_query(&text), 300), problem };
    let mut target = url.join(&text).map_err(|e| refuse(e.to_string()))?;
    match (url.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(refuse("from https to http".into())),
        (_, other) => return Err(refuse(format!("neither http nor https, but {}", show(other, 40)))),
    }
    if target.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it has no host".into()));
    }
    // Whoever redirects has no credentials to give us.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    target.set_fragment(None);
    Ok(target)
}

fn without_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or_default()
}

/// Whether a request can be repeated elsewhere as it was.
fn check_repeat(ask: &Ask, status: StatusCode) -> Result<(), &'static str> {
    let reads = matches!(ask.method, Method::GET | Method::HEAD);
    match ask.payload {
        Payload::Feed(_) => Err("a blob that is being sent is not sent again elsewhere"),
        _ if reads || matches!(status.as_u16(), 307 | 308) => Ok(()),
        _ => Err("with a status that makes another request of it"),
    }
}

/// `Retry-After` in seconds. A date is not read: the registry's clock is not ours.
fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(from: &str, location: &str) -> Result<String, RegistryError> {
        let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        target(&Url::parse(from).unwrap(), &value).map(String::from)
    }

    #[test]
    fn locations_are_resolved_and_checked() {
        let home = "https://r.example/v2/a/blobs/x?y";
        assert_eq!(to(home, "/z").unwrap(), "https://r.example/z");
        assert_eq!(to(home, "z").unwrap(), "https://r.example/v2/a/blobs/z");
        assert_eq!(to(home, "//cdn.example/z?s=1#f").unwrap(), "https://cdn.example/z?s=1");
        assert_eq!(to(home, "https://me:pw@cdn.example/").unwrap(), "https://cdn.example/");
        assert_eq!(to("http://r.example/", "http://cdn.example/").unwrap(), "http://cdn.example/");
        for location in
            ["http://r.example/", "file:///etc/passwd", "ftp://a/", "data:,x", "gopher://a", "https://", "http:"]
        {
            assert!(matches!(to(home, location), Err(RegistryError::Redirect { .. })), "{location}");
        }
    }

    #[test]
    fn what_is_shown_of_a_refused_location_has_no_query() {
        let shown = to("https://r.example/", "ftp://a/b?secret=1").unwrap_err().to_string();
        assert!(shown.contains("ftp://a/b") && !shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_location_leads_to_http_or_nowhere(location in "[ -~\u{80}-\u{ff}]{0,60}") {
            let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
            if let Ok(target) = target(&Url::parse("https://r.example/").unwrap(), &value) {
                prop_assert_eq!(target.scheme(), "https");
            }
        }
    }
}
