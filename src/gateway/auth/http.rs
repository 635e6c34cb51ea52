//! The authentication service: it gets the credential and the facts of the request in a POST, and answers with the uid.
//!
//! ```text
//!   POST auth_url  {"credential": "…" or null, "address": "…", "path": "/", "query": null, "origin": null, "headers": {…}}
//!   200            {"uid": "alice", "may": ["unicast"], "expires": 1893456000}     the identity; the last two are optional
//!   4xx            the credential is refused, as it is by a 200 whose uid is not valid
//!   anything else  the service is unavailable
//! ```
//! The number of concurrent requests is bounded, and so are their time, the length of an answer, and the number of answers
//! in the cache.

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
use tracing::{Instrument as _, Span, debug_span};

use super::cache::{Cache, Key};
use super::credential::RequestFacts;
use super::{Claims, rights, seconds};
use crate::config::AuthSettings;
use crate::gateway::Reason;
use crate::roots::RootsError;
use crate::service::{self, Complaints, ServiceClient, causes, printable};
use crate::trace::{self, TRACEPARENT, TraceContext};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The service, and a cache of its answers.
#[derive(Debug)]
pub(super) struct Service {
    client: ServiceClient,
    in_flight: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answers: Cache<Result<Claims, Reason>>,
    complaints: Complaints,
    /// Complaints about uids that are not valid; apart, so that they hide none about a service that fails.
    uid_complaints: Complaints,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerFault {
    /// The answer does not have the form, so that nobody can log in.
    Form(&'static str),
    /// The uid of this one client is not valid.
    Uid(&'static str),
}

/// The body of a request to the service.
#[derive(Serialize)]
struct Question<'a> {
    /// `None` if the headers in the facts stand for it.
    credential: Option<&'a str>,
    #[serde(flatten)]
    facts: &'a RequestFacts,
}

impl Service {
    /// Makes a client for the service; sends nothing yet.
    ///
    /// # Errors
    /// When there are no root certificates to check the service's certificate with.
    pub(super) fn new(settings: &AuthSettings) -> Result<Self, RootsError> {
        let (url, ca) = (settings.url.as_ref(), settings.url_ca.as_deref());
        let client = service::client(url, "auth_url_ca", ca, settings.url_in_flight_max)?;
        let state = State {
            answers: Cache::new(settings.cache_entries_max),
            complaints: Complaints::default(),
            uid_complaints: Complaints::default(),
        };
        Ok(Self { client, in_flight: Semaphore::new(settings.url_in_flight_max), state: Mutex::new(state) })
    }

    /// Asks the service for the owner of `credential`, or of the headers in `facts`, unless the cache has the answer.
    pub(super) async fn ask(
        &self,
        credential: Option<&[u8]>,
        facts: &RequestFacts,
        settings: &AuthSettings,
    ) -> Result<Claims, Reason> {
        let credential = credential.map(std::str::from_utf8).transpose().map_err(|_| Reason::AuthRefused)?;
        let question = serde_json::to_vec(&Question { credential, facts }).expect("texts in a struct are JSON");
        let key = digest::digest(&digest::SHA256, &question).as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(answer) = self.cached(&key, settings.cache_ttl) {
            return answer;
        }
        let span = debug_span!("ask", trace_id = Empty, span_id = Empty, status = Empty);
        let context = trace::join(&span, None);
        let answer = timeout(settings.url_timeout, self.post(question, context, settings)).instrument(span).await;
        let answer = answer.unwrap_or_else(|_| {
            self.warn(&format!("no answer within {:?}", settings.url_timeout));
            Err(Reason::AuthUnavailable)
        });
        if answer != Err(Reason::AuthUnavailable) {
            self.state().answers.insert(key, answer.clone(), Instant::now(), settings.cache_ttl);
        }
        answer
    }

    async fn post(&self, question: Vec<u8>, context: TraceContext, settings: &AuthSettings) -> Result<Claims, Reason> {
        let _place = self.in_flight.acquire().await.expect("the semaphore is never closed");
        let unavailable = |reason: &str| {
            self.warn(reason);
            Reason::AuthUnavailable
        };
        // The config was checked at the start, but a program that embeds the server may have reloaded one without the address.
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
            // The service is overloaded: this is no answer about the credential.
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(unavailable(response.status().as_str()));
            }
            status if status.is_client_error() => return Err(Reason::AuthRefused),
            status => return Err(unavailable(&format!("status {}", status.as_str()))),
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unavailable(&format!("its answer can't be read: {error}")))?;
        parse_answer(&body.to_bytes()).map_err(|fault| match fault {
            AnswerFault::Form(reason) => unavailable(reason),
            AnswerFault::Uid(reason) => self.refuse_uid(reason),
        })
    }

    /// Logs a fault of the service, at a bounded rate.
    fn warn(&self, reason: &str) {
        let is_due = self.state().complaints.is_due(Instant::now());
        if is_due {
            tracing::warn!(reason = printable(reason), "the service of auth_url fails, nobody gets in");
        }
    }

    /// Logs that the service's uid for one client is not valid, at a bounded rate; returns the client's refusal.
    ///
    /// The client is refused for good: the same question would have the same answer.
    pub(super) fn refuse_uid(&self, reason: &str) -> Reason {
        let is_due = self.state().uid_complaints.is_due(Instant::now());
        if is_due {
            tracing::warn!(
                reason = printable(reason),
                "the service of auth_url answers with a uid that is not valid, this client does not get in"
            );
        }
        Reason::AuthRefused
    }

    fn cached(&self, key: &Key, ttl: Duration) -> Option<Result<Claims, Reason>> {
        self.state().answers.get(key, Instant::now(), ttl)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A cache that a panic left half changed still answers what was answered before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses the service's answer; the error says what is wrong with it.
fn parse_answer(answer: &[u8]) -> Result<Claims, AnswerFault> {
    use AnswerFault::{Form, Uid};
    let answer: Value = serde_json::from_slice(answer).map_err(|_| Form("its answer is not JSON"))?;
    let uid = match answer.get("uid") {
        Some(Value::String(uid)) => uid.clone(),
        None | Some(Value::Null) => return Err(Form("its answer has no uid, expected a text")),
        Some(Value::Number(_)) => return Err(Uid("uid is a number, expected a text such as \"42\"")),
        Some(_) => return Err(Uid("uid is no text, expected one")),
    };
    let set = |name| answer.get(name).filter(|value: &&Value| !value.is_null());
    let rights = set("may").map(|words| rights(words).ok_or(Form("its answer has a may that is no list of words")));
    let expires =
        set("expires").map(|time| seconds(time).ok_or(Form("its answer has an expires that is no time in seconds")));
    Ok(Claims { uid, rights: rights.transpose()?, expires: expires.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::Rights;

    #[test]
    fn answers_are_parsed() {
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
            assert_eq!(parse_answer(answer.as_bytes()), expected, "{answer}");
        }
        let fault = |answer: &str| parse_answer(answer.as_bytes()).expect_err(answer);
        for answer in ["", "alice", "{}", "[]", "null", r#"{"uid": null}"#, r#"{"uid": "a", "may": "unicast"}"#] {
            assert!(matches!(fault(answer), AnswerFault::Form(_)), "{answer}");
        }
        assert!(matches!(fault(r#"{"uid": "a", "expires": "soon"}"#), AnswerFault::Form(_)));
        for (answer, part) in [(r#"{"uid": 42}"#, "is a number"), (r#"{"uid": ["a"]}"#, "is no text")] {
            assert!(matches!(fault(answer), AnswerFault::Uid(reason) if reason.contains(part)), "{answer}");
        }
    }
}
