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
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use std::time::Duration;
use tokio::time::timeout;

use crate::answer::{Answer, show};
use crate::body::{self, Feed, Pulse, Whole};
use crate::challenge::{self, Challenge};
use crate::error::{RegistryError, Waiting};
use crate::failure::{classify, shown};
use crate::network::{Endpoint, Network, Route};

const MOST_REDIRECTS: usize = 10;
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
        let mut shown_before = endpoint.authority.ahead(self, endpoint, &ask).await?;
        let reply = self.follow(endpoint, &ask, shown_before.as_ref().map(|p| &p.header)).await?;
        if reply.status() != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        if !reply.at_home {
            return Err(RegistryError::Redirect {
                url: shown(&ask.url),
                to: shown(&reply.url),
                problem: "it asks for credentials, which only the registry itself is given".into(),
            });
        }
        let challenges = reply.challenges();
        endpoint.authority.forget(&ask, shown_before.as_ref());
        let can_repeat = !matches!(ask.payload, Payload::Feed(_));
        let proof = endpoint.authority.meet(self, endpoint, &ask, &challenges, shown_before.as_ref()).await?;
        match proof {
            Some(proof) if can_repeat => {
                drop(reply);
                let second = self.follow(endpoint, &ask, Some(&proof.header)).await?;
                if second.status() != StatusCode::UNAUTHORIZED {
                    return Ok(second);
                }
                endpoint.authority.forget(&ask, Some(&proof));
                shown_before = Some(proof);
                Err(self.unauthorized(second, shown_before.is_some_and(|p| p.of_user)).await)
            }
            _ => Err(self.unauthorized(reply, shown_before.is_some_and(|p| p.of_user)).await),
        }
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
        let response = self.watch(&route, url, request, pulse).await?;
        endpoint.answered(url, response.remote_addr().filter(|_| !route.proxied));
        Ok(response)
    }

    /// Waits for the head of the answer; while the request's body goes out, for each piece of it.
    async fn watch(
        &self,
        route: &Route,
        url: &Url,
        request: reqwest::RequestBuilder,
        pulse: Option<Pulse>,
    ) -> Result<Response, RegistryError> {
        let deadlines = &self.environment.deadlines;
        let limit = match pulse {
            None => deadlines.connect + deadlines.answer,
            Some(_) => deadlines.connect + deadlines.commit,
        };
        let sending = request.send();
        tokio::pin!(sending);
        loop {
            let left = limit.saturating_sub(pulse.as_ref().map_or(Duration::ZERO, Pulse::still));
            match timeout(left, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(classify(url, &error, route.proxied, deadlines)),
                Err(_) if pulse.as_ref().is_some_and(|pulse| pulse.still() < limit) => {}
                Err(_) => {
                    return Err(RegistryError::Timeout { url: shown(url), waiting: Waiting::Answer, after: limit });
                }
            }
        }
    }

    /// The error that an answer is which is no success.
    pub(crate) async fn refusal(&self, reply: Reply) -> RegistryError {
        let status = reply.status();
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
