//! The uids that are online, closing the sessions of a uid, and the totals of the node.

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::Api;
use super::access::Right;
use super::idempotency::{self, Fingerprint, Keyed};
use super::outcome::check_uid;
use super::parameters::{Pairs, Parameters, UidInPath, uid};
use super::reply::Reply;
use crate::clock;
use crate::control::problem::{BYTES_MAX, Failure, Problem};
use crate::control::tokens::Caller;
use crate::dispatcher::{Cursor, check_close};
use crate::metrics::Stats;
use crate::presence::AsOf;

/// Uids on a page, unless it is asked for another number, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// Close code and reason of a kick whose caller gives none.
const CLOSE_CODE: u16 = 1008;
const CLOSE_REASON: &str = "closed by the operator";

/// Whether a uid is online.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Online {
    uid: String,
    /// Whether it has a session.
    online: bool,
    /// Its sessions, oldest first.
    sessions: Vec<Session>,
}

/// A session of a uid.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Session {
    /// When it logged in (RFC 3339, UTC); the same text in each answer.
    #[schema(format = "date-time")]
    since: String,
    /// The client's address, with its port if that is known; none over a Unix socket.
    #[schema(example = "192.0.2.1:49152")]
    address: Option<String>,
}

/// Returns whether a uid is online, and its sessions.
#[utoipa::path(
    get,
    path = "/v1/uids/{uid}",
    tag = "query",
    params(("uid" = String, Path, description = "The uid, percent-encoded", min_length = 1)),
    responses((status = 200, description = "Whether it is online", body = Online)),
)]
pub(super) async fn sessions(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    path: UidInPath,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    caller.require(Right::Query)?;
    Parameters::read(pairs, &[])?;
    let uid = uid(path)?;
    check_uid(&uid, &api.settings())?;
    let sessions = api.dispatcher().sessions(&uid).await?;
    let shown = sessions.iter().map(|session| Session {
        since: clock::rfc3339(session.since),
        address: session.peer.map(|peer| peer.to_string()),
    });
    Ok(Reply::json(&Online { online: !sessions.is_empty(), sessions: shown.collect(), uid }))
}

/// What a node counts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counts {
    /// Shards of the node.
    shards: usize,
    /// Sessions logged in now.
    sessions: u64,
    /// Uids with a session now.
    uids: u64,
    /// Connections that logged in, since the start.
    logins: u64,
    /// Deliveries of messages to a uid since the start: one for each session whose outbox took the message.
    delivered: u64,
    /// Messages to a uid that nobody was logged in under, since the start.
    offline: u64,
    /// Messages that were dropped, for whatever reason, since the start.
    shed: u64,
    /// Messages due to sessions by broadcasts, since the start.
    broadcast_deliveries: u64,
}

/// Returns the node's counts.
#[utoipa::path(get, path = "/v1/counts", tag = "query",
    responses((status = 200, description = "The counts", body = Counts)))]
pub(super) async fn counts(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    caller.require(Right::Query)?;
    Parameters::read(pairs, &[])?;
    let dispatcher = api.dispatcher();
    let mut sum = Stats::default();
    for stats in dispatcher.stats().await {
        sum.add(&stats?);
    }
    Ok(Reply::json(&Counts {
        shards: dispatcher.shard_count(),
        sessions: sum.sessions,
        uids: sum.uids,
        logins: sum.logins,
        delivered: sum.delivered,
        offline: sum.offline,
        shed: sum.shed_newest + sum.shed_oldest + sum.shed_closed + sum.shed_shard_gone,
        broadcast_deliveries: sum.broadcast_deliveries,
    }))
}

/// Some of the uids that are online.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    /// The uids, in no order.
    uids: Vec<String>,
    /// The cursor of the next page; none when this is the last.
    next: Option<String>,
    /// The last event of the hook that the page includes; absent without `hook_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Point>,
}

/// A position in the sequence of the hook's events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Point {
    /// The node's name, which each batch of events has.
    node: String,
    /// Events with a higher number than that of the first page apply after all pages.
    sequence: u64,
}

/// Lists the uids that are online, page by page.
///
/// A uid whose oldest session stays the same from the first page to the last is on exactly one of them.
#[utoipa::path(
    get,
    path = "/v1/uids",
    tag = "query",
    params(("cursor" = Option<String>, Query, description = "The `next` of the page before; without it, the first page"),
           ("limit" = Option<usize>, Query, description = "Most uids on the page, 100 by default",
            minimum = 1, maximum = 1000)),
    responses((status = 200, description = "A page of uids", body = Page)),
)]
pub(super) async fn page(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    caller.require(Right::Query)?;
    let parameters = Parameters::read(pairs, &["cursor", "limit"])?;
    let cursor = match parameters.one("cursor")? {
        None => Cursor::default(),
        Some(text) => decode(text).ok_or_else(|| {
            Problem::Malformed.with_detail("the cursor is none of this node's, expected the next of another page")
        })?,
    };
    let most = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE);
    let found = api.dispatcher().uids(cursor, most).await?;
    let uids = found.uids.into_iter().map(String::from).collect();
    let as_of = found.as_of.map(|AsOf { node, sequence }| Point { node: node.to_string(), sequence });
    Ok(Reply::json(&Page { uids, next: found.next.map(encode), as_of }))
}

/// How many sessions were closed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Closed {
    uid: String,
    /// How many sessions there were; none when it is offline.
    sessions: usize,
}

/// Closes every session of a uid, behind what is due to it.
#[utoipa::path(
    delete,
    path = "/v1/uids/{uid}",
    tag = "admin",
    params(("uid" = String, Path, description = "The uid, percent-encoded", min_length = 1),
           ("code" = Option<u16>, Query, description = "The close code that its clients see: 1008 by default; 3000 to 4999 are free for your own",
            minimum = 1000, maximum = 4999),
           ("reason" = Option<String>, Query, description = "The reason beside it, up to 123 bytes", max_length = 123),
           ("Idempotency-Key" = Option<String>, Header, description = "Key of this request: a repeated request with the same key is not executed again")),
    responses((status = 200, description = "How many sessions were closed", body = Closed)),
)]
pub(super) async fn close(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    path: UidInPath,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Failure> {
    caller.require(Right::Admin)?;
    let uid = uid(path)?;
    check_uid(&uid, &api.settings())?;
    let parameters = Parameters::read(pairs, &["code", "reason"])?;
    let code = parameters.number("code", 0, u16::MAX.into())?;
    let code = code.and_then(|code| u16::try_from(code).ok()).unwrap_or(CLOSE_CODE);
    let reason = parameters.one("reason")?.unwrap_or(CLOSE_REASON).to_owned();
    check_close(code, &reason).map_err(|error| Problem::Close.with_detail(error.to_string()))?;
    let (parts, _) = request.into_parts();
    let fingerprint = Fingerprint::of(&parts, &[]);
    let (dispatcher, name) = (api.dispatcher(), caller.name.clone());
    let keyed = fingerprint.map(|fingerprint| {
        let done = Closed { uid: uid.clone(), sessions: usize::MAX };
        Keyed { fingerprint, body_bytes_max: Reply::json_bytes(&done).max(BYTES_MAX) }
    });
    let act = async move {
        match dispatcher.kick(&uid, code, &reason).await {
            Ok(sessions) => {
                info!(token = name.as_deref(), uid, code, sessions, "sessions closed on request");
                Reply::json(&Closed { uid, sessions })
            }
            Err(unanswered) => unanswered.into(),
        }
    };
    idempotency::once(&api, &caller, &parts.headers, keyed, act).await
}

/// Writes a cursor as text, whose form is no part of the API.
fn encode(Cursor { shard, place }: Cursor) -> String {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&u32::try_from(shard).expect("there are few shards").to_be_bytes());
    bytes[4..].copy_from_slice(&place.to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

fn decode(text: &str) -> Option<Cursor> {
    let bytes: [u8; 8] = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()?;
    let [shard, place] =
        [&bytes[..4], &bytes[4..]].map(|half| u32::from_be_bytes(half.try_into().expect("four bytes")));
    Some(Cursor { shard: shard.try_into().ok()?, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        for cursor in [Cursor::default(), Cursor { shard: 255, place: u32::MAX }, Cursor { shard: 1, place: 4096 }] {
            assert_eq!(decode(&encode(cursor)), Some(cursor));
        }
        for text in ["", "x", "AAAAAAAAAA", "AAAAAAAAAAA=", "AAAAAAAAAAB", "!!!!!!!!!!!", "AAAAAAAAAAAAAAAA"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
