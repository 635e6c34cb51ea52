//! Pushes: to a uid, to a list of uids, to everybody.

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use serde::Serialize;
use tracing::Instrument as _;
use utoipa::ToSchema;

use super::access::Right;
use super::idempotency::{self, Fingerprint, Keyed};
use super::outcome::{self, List, Outcome, PushResult, outcome};
use super::parameters::{Pairs, Parameters, UidInPath, uid};
use super::reply::Reply;
use super::spans::{self, Tally};
use super::{Api, body};
use crate::control::problem::{BYTES_MAX, Failure, Problem};
use crate::control::tokens::Caller;
use crate::dispatcher::{Broadcast, Push, Unanswered};

/// Sends a message to every session of a uid.
#[utoipa::path(
    post,
    path = "/v1/push/{uid}",
    tag = "push",
    params(("uid" = String, Path, description = "The receiver's uid, percent-encoded", min_length = 1),
           ("Idempotency-Key" = Option<String>, Header, description = "Key of this request: a repeated request with the same key is not executed again")),
    request_body(description = "The message", content(
        (String = "text/plain"), (serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, description = "Its outcome", body = Outcome)),
)]
pub(super) async fn one(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    path: UidInPath,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Failure> {
    caller.require(Right::Push)?;
    let settings = api.settings();
    Parameters::read(pairs, &[])?;
    let uid = uid(path)?;
    outcome::check_uid(&uid, &settings)?;
    let (parts, body) = request.into_parts();
    let kind = body::kind(&parts.headers)?;
    let payload = body::read(&parts.headers, body, settings.push_bytes_max, settings.body_timeout).await?;
    body::check(kind, &payload)?;
    let fingerprint = Fingerprint::of(&parts, &payload);
    let (dispatcher, counts) = (api.dispatcher(), api.control.counts.clone());
    let keyed = fingerprint.map(|fingerprint| {
        let longest = outcome(Some(&uid), outcome::longest());
        Keyed { fingerprint, body_bytes_max: Reply::json_bytes(&longest) }
    });
    let act = async move {
        let push = Push { uid: uid.as_str().into(), kind, payload };
        let span = spans::push(&uid, push.payload.len());
        let answered = counts.push(&dispatcher, push).instrument(span.clone()).await.map_err(Failure::from);
        spans::pushed(&span, &answered);
        match answered {
            Ok(_) => Reply::json(&outcome(Some(&uid), &answered)),
            Err(failure) => failure.into(),
        }
    };
    idempotency::once(&api, &caller, &parts.headers, keyed, act).await
}

/// What became of a message to each uid of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Outcomes<'a> {
    /// In the order of the uids.
    outcomes: Vec<Outcome<'a>>,
}

/// Sends a message to every session of each uid of a list.
#[utoipa::path(
    post,
    path = "/v1/push",
    tag = "push",
    params(("Idempotency-Key" = Option<String>, Header, description = "Key of this request: a repeated request with the same key is not executed again")),
    request_body(description = "The message and its receivers", content((List = "application/json"))),
    responses((status = 200, description = "Its outcome for each uid", body = Outcomes)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Failure> {
    caller.require(Right::Push)?;
    let settings = api.settings();
    Parameters::read(pairs, &[])?;
    let (parts, body) = request.into_parts();
    body::require(&parts.headers, &["application/json"])?;
    // Each uid with its quotes and comma, and as for a line of a batch.
    let uids_bytes_max = settings.push_uids_max.saturating_mul(settings.uid_bytes_max + 4);
    let bytes_max = api.line_bytes_max().saturating_add(uids_bytes_max);
    let bytes = body::read(&parts.headers, body, bytes_max, settings.body_timeout).await?;
    let fingerprint = Fingerprint::of(&parts, &bytes);
    let List { uids, text, base64 } = serde_json::from_slice(&bytes).map_err(|error| {
        let form = "expected {\"uids\": […], \"text\": …} or {\"uids\": […], \"base64\": …}";
        Problem::Malformed.with_detail(format!("{form}: {error}"))
    })?;
    check_count(uids.len(), settings.push_uids_max)?;
    let (kind, payload) = outcome::message(text, base64, &settings)?;
    let (dispatcher, counts) = (api.dispatcher(), api.control.counts.clone());
    // For each uid the refusal, if nobody can have it.
    let refused: Vec<Option<PushResult>> =
        uids.iter().map(|uid| outcome::check_uid(uid, &settings).err().map(Err)).collect();
    let keyed = fingerprint.map(|fingerprint| {
        let longest = refused.iter().map(|refused| refused.as_ref().unwrap_or_else(|| outcome::longest()));
        let outcomes = uids.iter().zip(longest).map(|(uid, longest)| outcome(Some(uid), longest)).collect();
        Keyed { fingerprint, body_bytes_max: Reply::json_bytes(&Outcomes { outcomes }) }
    });
    let act = async move {
        let sound = uids.iter().zip(&refused).filter(|(_, refused)| refused.is_none()).map(|(uid, _)| uid);
        let pushes: Vec<_> =
            sound.map(|uid| Push { uid: uid.as_str().into(), kind, payload: payload.clone() }).collect();
        counts.note_refused(uids.len() - pushes.len());
        let span = spans::push_list(uids.len(), payload.len());
        let mut deliveries = counts.push_all(&dispatcher, pushes).instrument(span.clone()).await.into_iter();
        let mut answer = || deliveries.next().expect("one for each push").map_err(Failure::from);
        let answered: Vec<PushResult> =
            refused.into_iter().map(|refused| refused.unwrap_or_else(&mut answer)).collect();
        let mut tally = Tally::new(span);
        tally.count(uids.iter().map(|uid| Some(uid.as_str())).zip(&answered));
        drop(tally);
        let outcomes = uids.iter().zip(&answered).map(|(uid, answered)| outcome(Some(uid), answered)).collect();
        Reply::json(&Outcomes { outcomes })
    };
    idempotency::once(&api, &caller, &parts.headers, keyed, act).await
}

/// How many sessions a broadcast is due to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Due {
    /// Those that were logged in, less those left out.
    sessions: usize,
}

/// Sends a message to every session of the node.
#[utoipa::path(
    post,
    path = "/v1/broadcast",
    tag = "push",
    params(("except" = Option<Vec<String>>, Query, description = "Uids that are left out; may be repeated"),
           ("Idempotency-Key" = Option<String>, Header, description = "Key of this request: a repeated request with the same key is not executed again")),
    request_body(description = "The message", content(
        (String = "text/plain"), (serde_json::Value = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, description = "The number of sessions that it is to be delivered to", body = Due)),
)]
pub(super) async fn broadcast(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Failure> {
    caller.require(Right::Push)?;
    let settings = api.settings();
    let except = Parameters::read(pairs, &["except"])?.all("except");
    check_count(except.len(), settings.push_uids_max)?;
    // A uid that nobody can have is a mistake of the caller: the message would reach a user who should not get it.
    except.iter().try_for_each(|uid| outcome::check_uid(uid, &settings))?;
    let (parts, body) = request.into_parts();
    let kind = body::kind(&parts.headers)?;
    let payload = body::read(&parts.headers, body, settings.push_bytes_max, settings.body_timeout).await?;
    body::check(kind, &payload)?;
    let fingerprint = Fingerprint::of(&parts, &payload);
    let (dispatcher, counts) = (api.dispatcher(), api.control.counts.clone());
    let keyed = fingerprint.map(|fingerprint| Keyed { fingerprint, body_bytes_max: BYTES_MAX });
    let act = async move {
        let span = spans::broadcast(payload.len(), except.len());
        let except = except.into_iter().map(String::into_boxed_str).collect();
        let shards = dispatcher.shard_count();
        let broadcast = counts.broadcast(&dispatcher, (kind, payload), except).instrument(span.clone());
        let due = broadcast_result(broadcast.await, shards);
        spans::broadcasted(&span, &due);
        match due {
            Ok(sessions) => Reply::json(&Due { sessions }),
            Err(failure) => failure.into(),
        }
    };
    idempotency::once(&api, &caller, &parts.headers, keyed, act).await
}

/// How many sessions a broadcast is due to, or what of it was not done.
fn broadcast_result(Broadcast { sessions, unanswered }: Broadcast, shards: usize) -> Result<usize, Failure> {
    let Some(first) = unanswered.first() else { return Ok(sessions) };
    if unanswered.len() == shards && unanswered.iter().all(|other| other == first) {
        return Err((*first).into());
    }
    let silent = unanswered.iter().filter(|why| **why == Unanswered::Silent).count();
    let refused = unanswered.len() - silent;
    let detail = format!(
        "of {shards} shards {refused} did not take the message and {silent} may have; the others' {sessions} sessions have it"
    );
    Err(Failure { sessions: Some(sessions), ..Problem::Incomplete.with_detail(detail) })
}

fn check_count(count: usize, max: usize) -> Result<(), Failure> {
    if count > max {
        return Err(Problem::TooLarge.with_detail(format!("there are {count} uids, expected at most {max}")));
    }
    Ok(())
}

impl From<Unanswered> for Reply {
    fn from(unanswered: Unanswered) -> Self {
        Failure::from(unanswered).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_that_some_shards_have_not_answered_is_incomplete() {
        let with = |sessions, unanswered: &[Unanswered]| {
            let broadcast = Broadcast { sessions, unanswered: unanswered.to_vec() };
            broadcast_result(broadcast, 2).map_err(|failure| (failure.problem, failure.sessions))
        };
        assert_eq!(with(3, &[]), Ok(3));
        assert_eq!(with(0, &[Unanswered::Busy; 2]), Err((Problem::ShardBusy, None)));
        assert_eq!(with(0, &[Unanswered::Drained; 2]), Err((Problem::Draining, None)));
        assert_eq!(with(0, &[Unanswered::Silent; 2]), Err((Problem::ShardSilent, None)));
        assert_eq!(with(0, &[Unanswered::Busy, Unanswered::Silent]), Err((Problem::Incomplete, Some(0))));
        assert_eq!(with(5, &[Unanswered::Busy]), Err((Problem::Incomplete, Some(5))));
    }

    #[test]
    fn no_answer_to_a_broadcast_is_longer_than_there_is_room_for() {
        let unanswered = [vec![Unanswered::Busy; 1000], vec![Unanswered::Silent; 1000]].concat();
        let failure =
            broadcast_result(Broadcast { sessions: usize::MAX, unanswered }, usize::MAX).expect_err("not all have it");
        for failure in [failure, Unanswered::Busy.into(), Unanswered::Silent.into(), Unanswered::Drained.into()] {
            assert!(Reply::from(failure).body.len() <= BYTES_MAX);
        }
        assert!(Reply::json_bytes(&Due { sessions: usize::MAX }) <= BYTES_MAX);
    }
}
