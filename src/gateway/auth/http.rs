//! A service that authenticates: it is posted the credential with what is known of the request, and answers who it is.
//!
//! ```text
//!   POST auth_url  {"credential": "…", "address": "…", "path": "/", "query": null, "origin": null, "headers": {…}}
//!   200            {"uid": "alice", "may": ["unicast"], "expires": 1893456000}     who it is; the last two as it likes
//!   4xx            nobody gets in with this
//!   anything else  nobody gets in now
//! ```
//! The number of questions at a time is bounded, and so are the time, the answer, and the answers kept.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, debug_span, warn};

use super::cache::{Cache, Key};
use super::credential::RequestFacts;
use super::{Claims, rights, seconds};
use crate::config::AuthSettings;
use crate::gateway::Reason;
use crate::roots::RootsError;
use crate::service::{self, Complaints, ServiceClient, causes};
use crate::trace::{self, TRACEPARENT, TraceContext};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The service, and what is remembered of its answers.
#[derive(Debug)]
pub(super) struct Service {
    client: ServiceClient,
    in_flight: Semaphore,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    answers: Cache<Result<Claims, Reason>>,
    complaints: Complaints,
}

/// What the service is asked.
#[derive(Serialize)]
struct Question<'a> {
    credential: &'a str,
    #[serde(flatten)]
    facts: &'a RequestFacts,
}

impl Service {
    /// Makes the way to the service; asks nothing yet.
    ///
    /// # Errors
    /// When nobody could vouch for a service over TLS.
    pub(super) fn new(settings: &AuthSettings) -> Result<Self, RootsError> {
        let (url, ca) = (settings.url.as_ref(), settings.url_ca.as_deref());
        let client = service::client(url, "auth_url_ca", ca, settings.url_in_flight_max)?;
        let memory = Memory { answers: Cache::new(settings.cache_entries_max), complaints: Complaints::default() };
        Ok(Self { client, in_flight: Semaphore::new(settings.url_in_flight_max), memory: Mutex::new(memory) })
    }

    /// Asks who bears `credential`, unless that was answered lately.
    pub(super) async fn ask(
        &self,
        credential: &[u8],
        facts: &RequestFacts,
        settings: &AuthSettings,
    ) -> Result<Claims, Reason> {
        let credential = std::str::from_utf8(credential).map_err(|_| Reason::AuthRefused)?;
        let question = serde_json::to_vec(&Question { credential, facts }).expect("texts in a struct are JSON");
        let key = digest::digest(&digest::SHA256, &question).as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(answer) = self.remembered(&key, settings.cache_ttl) {
            return answer;
        }
        let span = debug_span!("ask", trace_id = Empty, span_id = Empty, status = Empty);
        let context = trace::join(&span, None);
        let answer = timeout(settings.url_timeout, self.post(question, context, settings)).instrument(span).await;
        let answer = answer.unwrap_or_else(|_| {
            self.complain(&format!("no answer within {:?}", settings.url_timeout));
            Err(Reason::AuthUnavailable)
        });
        if answer != Err(Reason::AuthUnavailable) {
            self.memory().answers.keep(key, answer.clone(), Instant::now(), settings.cache_ttl);
        }
        answer
    }

    async fn post(&self, question: Vec<u8>, context: TraceContext, settings: &AuthSettings) -> Result<Claims, Reason> {
        let _place = self.in_flight.acquire().await.expect("the semaphore is never closed");
        let unavailable = |reason: &str| {
            self.complain(reason);
            Reason::AuthUnavailable
        };
        // The config was checked, but a reload of a program's own may have taken it away.
        let url = settings.url.as_ref().ok_or_else(|| unavailable("auth_url is not set"))?;
        let request = Request::post(url.uri())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(TRACEPARENT, context.traceparent())
            .body(Full::from(question))
            .expect("the parts of the request are sound");
        let response = self.client.request(request).await.map_err(|error| unavailable(&causes(&error)))?;
        Span::current().record("status", response.status().as_u16());
        match response.status() {
            StatusCode::OK => {}
            // It has no time, or had too many questions: that says nothing of this one.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(unavailable(response.status().as_str()));
            }
            status if status.is_client_error() => return Err(Reason::AuthRefused),
            status => return Err(unavailable(&format!("status {}", status.as_str()))),
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unavailable(&format!("its answer can't be read: {error}")))?;
        understood(&body.to_bytes()).map_err(unavailable)
    }

    /// Logs what is wrong with the service, now and then.
    pub(super) fn complain(&self, reason: &str) {
        let is_due = self.memory().complaints.is_due(Instant::now());
        if is_due {
            warn!(reason = %reason.escape_debug(), "the service of auth_url fails, nobody gets in");
        }
    }

    fn remembered(&self, key: &Key, ttl: Duration) -> Option<Result<Claims, Reason>> {
        self.memory().answers.find(key, Instant::now(), ttl)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A cache that a panic left half changed still answers what was answered before.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the service's answer; says what is wrong with one that can't be read.
fn understood(answer: &[u8]) -> Result<Claims, &'static str> {
    let answer: Value = serde_json::from_slice(answer).map_err(|_| "its answer is not JSON")?;
    let uid = answer.get("uid").and_then(Value::as_str).ok_or("its answer has no uid, expected a text")?;
    let set = |name| answer.get(name).filter(|value: &&Value| !value.is_null());
    let rights = set("may").map(|words| rights(words).ok_or("its answer has a may that is no list of words"));
    let expires =
        set("expires").map(|time| seconds(time).ok_or("its answer has an expires that is no time in seconds"));
    Ok(Claims { uid: uid.to_owned(), rights: rights.transpose()?, expires: expires.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::Rights;

    #[test]
    fn understands_answers() {
        let claims = |rights, expires: Option<&str>| {
            let expires = expires.and_then(|time| seconds(&serde_json::from_str(time).expect("JSON")));
            Ok(Claims { uid: "alice".to_owned(), rights, expires })
        };
        for (answer, expected) in [
            (r#"{"uid": "alice"}"#, claims(None, None)),
            (r#"{"uid": "alice", "may": null, "expires": null, "more": 1}"#, claims(None, None)),
            (r#"{"uid": "alice", "may": ["broadcast"]}"#, claims(Some(Rights::BROADCAST), None)),
            (r#"{"uid": "alice", "may": [], "expires": 7.5}"#, claims(Some(Rights::RECEIVE), Some("7.5"))),
        ] {
            assert_eq!(understood(answer.as_bytes()), expected, "{answer}");
        }
        for answer in ["", "alice", "{}", "[]", "null", r#"{"uid": 7}"#, r#"{"uid": "a", "may": "unicast"}"#] {
            assert!(understood(answer.as_bytes()).is_err(), "{answer}");
        }
        assert!(understood(br#"{"uid": "a", "expires": "soon"}"#).is_err());
    }
}
