//! Spans around requests and pushes: they connect a push in the sender's trace with the node's log and traces.
//!
//! ```text
//!   request {method, route, trace_id, span_id, parent, token, status}
//!     └─ push {uid, bytes, outcome, sessions, reason}
//!        push_list {uids, bytes}, batch {}: and a count for each outcome
//!        broadcast {bytes, except, outcome, sessions, reason}
//! ```
//! All spans have the level `debug`; if neither the log nor an export takes that level, none is made. The outcome for each uid
//! of a list or a batch is an event of the level `trace`.

use std::future::Future;

use axum::extract::MatchedPath;
use axum::http::Extensions;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span, debug, debug_span, trace};

use super::outcome::PushResult;
use crate::control::problem::Failure;
use crate::message::Delivery;
use crate::trace;

/// Makes the span of a request, in the trace of its `traceparent`.
pub(super) fn request(request: &Request<Incoming>) -> Span {
    let span = debug_span!(
        "request",
        method = %request.method(),
        route = Empty,
        trace_id = Empty,
        span_id = Empty,
        parent = Empty,
        token = Empty,
        status = Empty
    );
    if !span.is_disabled() {
        trace::join(&span, Some(request.headers()));
    }
    span
}

/// Runs a request's handler in its span, and records the status.
pub(super) async fn answer<E>(span: Span, answer: impl Future<Output = Result<Response, E>>) -> Result<Response, E> {
    let answered = answer.instrument(span.clone()).await;
    if let Ok(response) = &answered {
        span.record("status", response.status().as_u16());
    }
    answered
}

/// Records the route and the token's name in the span of the request.
pub(super) fn record_route(request: &Extensions, token: Option<&str>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    if let Some(route) = request.get::<MatchedPath>() {
        span.record("route", display(route.as_str()));
    }
    if let Some(token) = token {
        span.record("token", token);
    }
}

/// A message to one uid.
pub(super) fn push(uid: &str, bytes: usize) -> Span {
    debug_span!("push", uid, bytes, outcome = Empty, sessions = Empty, reason = Empty)
}

/// A message to a list of uids.
pub(super) fn push_list(uids: usize, bytes: usize) -> Span {
    debug_span!(
        "push_list",
        uids,
        bytes,
        delivered = Empty,
        offline = Empty,
        shed = Empty,
        refused = Empty,
        unknown = Empty
    )
}

/// A message to everybody.
pub(super) fn broadcast(bytes: usize, except: usize) -> Span {
    debug_span!("broadcast", bytes, except, outcome = Empty, sessions = Empty, reason = Empty)
}

/// Messages a line each, for as long as they come.
pub(super) fn batch() -> Span {
    debug_span!("batch", delivered = Empty, offline = Empty, shed = Empty, refused = Empty, unknown = Empty)
}

/// Returns the fields of a message's outcome: its name, the number of sessions that have it, and the reason if none has.
fn outcome_fields(answered: &PushResult) -> (&'static str, Option<usize>, Option<&'static str>) {
    match answered {
        Ok(Delivery::Delivered { sessions }) => ("delivered", Some(*sessions), None),
        Ok(Delivery::Offline) => ("offline", None, None),
        Ok(Delivery::Shed(shed)) => ("shed", None, Some(shed.name())),
        Err(failure) => (failure_outcome(failure), None, Some(failure.problem.name())),
    }
}

fn failure_outcome(failure: &Failure) -> &'static str {
    if failure.problem.may_be_done() { "unknown" } else { "refused" }
}

fn record(span: &Span, outcome: &'static str, sessions: Option<usize>, reason: Option<&'static str>) {
    span.record("outcome", outcome);
    if let Some(sessions) = sessions {
        span.record("sessions", sessions);
    }
    if let Some(reason) = reason {
        span.record("reason", reason);
    }
    span.in_scope(|| debug!("pushed"));
}

/// Records the outcome of a push in its span.
pub(super) fn pushed(span: &Span, answered: &PushResult) {
    if span.is_disabled() {
        return;
    }
    let (outcome, sessions, reason) = outcome_fields(answered);
    record(span, outcome, sessions, reason);
}

/// Records the outcome of a broadcast in its span.
pub(super) fn broadcasted(span: &Span, due: &Result<usize, Failure>) {
    if span.is_disabled() {
        return;
    }
    let (outcome, sessions, reason) = match due {
        Ok(sessions) => ("delivered", Some(*sessions), None),
        Err(failure) => (failure_outcome(failure), failure.sessions, Some(failure.problem.name())),
    };
    record(span, outcome, sessions, reason);
}

/// The names of the outcomes.
const OUTCOMES: [&str; 5] = ["delivered", "offline", "shed", "refused", "unknown"];

/// Counts the outcomes of many messages, and records the counts in their span when it is dropped.
#[derive(Debug)]
pub(super) struct Tally {
    span: Span,
    counts: [usize; OUTCOMES.len()],
}

impl Tally {
    pub(super) fn new(span: Span) -> Self {
        Self { span, counts: [0; OUTCOMES.len()] }
    }

    /// Returns the span around all messages.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Counts messages, and traces the outcome of each.
    pub(super) fn count<'a>(&mut self, answered: impl IntoIterator<Item = (Option<&'a str>, &'a PushResult)>) {
        if self.span.is_disabled() {
            return;
        }
        let _entered = self.span.enter();
        for (uid, answered) in answered {
            let (outcome, sessions, reason) = outcome_fields(answered);
            trace!(uid, outcome, sessions, reason, "pushed");
            if let Some(place) = OUTCOMES.iter().position(|other| *other == outcome) {
                self.counts[place] += 1;
            }
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        for (outcome, count) in OUTCOMES.iter().zip(self.counts).filter(|(_, count)| *count > 0) {
            self.span.record(*outcome, count);
        }
        self.span.in_scope(|| debug!("pushed"));
    }
}
