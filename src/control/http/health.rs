//! The probes of supervisors and load balancers: whether the node is alive, and whether it accepts connections.
//!
//! Both need no token and answer with a line of text. It says what is wrong, and nothing about users.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::Api;
use crate::dispatcher::Unanswered;

/// Time for each shard to answer. The time-outs for probes in `docs/operations.md` are one second longer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Liveness: 200 if the node and each of its shards answer.
///
/// A shard that has drained has nothing left to do, and counts as alive. What fails here for long does not come back by
/// itself.
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "The node is alive", body = String, content_type = "text/plain"),
    (status = 503, description = "Some shards do not answer; the text names them", body = String, content_type = "text/plain")))]
pub(super) async fn live(State(api): State<Api>) -> Response {
    let answers = api.control.dispatcher.by(Instant::now() + ANSWER_TIME).stats().await;
    let dead = |answer: &Result<_, Unanswered>| matches!(answer, Err(Unanswered::Busy | Unanswered::Silent));
    let silent = answers.iter().enumerate().filter(|(_, answer)| dead(answer));
    respond(silent.map(|(shard, _)| format!("shard {shard} did not answer within {ANSWER_TIME:?}")).collect())
}

/// Readiness: 200 if the node accepts connections.
///
/// It does not while it drains, without free descriptors, and with all its connections; the last two pass by themselves.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "The node accepts connections", body = String, content_type = "text/plain"),
    (status = 503, description = "The node accepts no connections; the text says why", body = String, content_type = "text/plain")))]
pub(super) async fn ready(State(api): State<Api>) -> Response {
    respond(api.control.unready_reasons())
}

/// Answers `ok`, or what is wrong.
fn respond(faults: Vec<String>) -> Response {
    let (status, text) = match faults.is_empty() {
        true => (StatusCode::OK, "ok".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, faults.join("; ")),
    };
    (status, [(CACHE_CONTROL, "no-store")], text + "\n").into_response()
}
