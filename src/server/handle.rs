//! The handle by which the program around a node controls it: push, query, kick, reload, drain.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::info;

use super::Node;
use crate::config::{Config, ConnectionLimit, SessionSettings};
use crate::descriptors;
use crate::dispatcher::{Cursor, KickError, Push, Uids, check_close};
use crate::gateway::Reason;
use crate::message::{Delivery, Kind};
use crate::metrics::{NodeCounts, Stats};
use crate::shard::SessionInfo;

/// A running node. Clones refer to the same node, which goes on running when all of them are dropped.
///
/// # Examples
/// ```
/// use pombo::message::{Delivery, Kind};
/// use pombo::{Config, Push, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config { listen: vec!["127.0.0.1:0".parse()?], control: None, ..Config::default() };
/// let node = Server::bind(config)?.start()?;
/// assert_eq!(node.push("alice", Kind::Text, "hi").await, Delivery::Offline);
///
/// // Many at once are cheaper than one by one.
/// let pushes = ["alice", "bob"].map(|uid| Push { uid: uid.into(), kind: Kind::Text, payload: "hi".into() });
/// assert_eq!(node.push_all(pushes).await, [Delivery::Offline, Delivery::Offline]);
///
/// // Who is online, page by page.
/// let mut online = Vec::new();
/// let mut cursor = Some(Default::default());
/// while let Some(from) = cursor {
///     let page = node.uids(from, 1000).await;
///     online.extend(page.uids);
///     cursor = page.next;
/// }
/// assert!(online.is_empty());
/// assert_eq!(node.kick("alice", 4000, "password changed").await?, 0);
/// assert_eq!(node.stats().await.offline, 3);
/// node.drain().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(super) node: Arc<Node>,
}

/// Acts on users.
impl Handle {
    /// Sends a message to every session of `uid`; returns the outcome.
    ///
    /// Delivered means accepted into the outbox of a session, in order with all other messages for it. A text
    /// `payload` that is not UTF-8 is sent as binary. Waits while the shard has too many requests; after the
    /// drain every uid is offline.
    ///
    /// # Cancel safety
    /// When the future is dropped the message may or may not have been delivered.
    pub async fn push(&self, uid: &str, kind: Kind, payload: impl Into<Bytes>) -> Delivery {
        let push = Push { uid: uid.into(), kind, payload: payload.into() };
        self.node.dispatcher.push(push).await.unwrap_or(Delivery::Offline)
    }

    /// Sends each message to its uid; returns the outcome of each, in the order given.
    ///
    /// Messages to one uid arrive in the order given. Cheaper than as many calls of [`Handle::push`]: a request to a
    /// shard holds up to 256 of them. Their number is bounded by the caller's memory only.
    ///
    /// # Cancel safety
    /// When the future is dropped some may have been delivered and others not.
    pub async fn push_all(&self, pushes: impl IntoIterator<Item = Push>) -> Vec<Delivery> {
        let deliveries = self.node.dispatcher.push_all(pushes.into_iter().collect()).await;
        deliveries.into_iter().map(|delivery| delivery.unwrap_or(Delivery::Offline)).collect()
    }

    /// Sends a message to every session of the node; returns the number of sessions.
    ///
    /// # Cancel safety
    /// When the future is dropped some shards may have taken the message and others not.
    pub async fn broadcast(&self, kind: Kind, payload: impl Into<Bytes>) -> usize {
        self.broadcast_except(kind, payload, []).await
    }

    /// Sends a message to every session of the node, except those of the uids in `except`; returns the number of sessions.
    ///
    /// # Cancel safety
    /// As for [`Handle::broadcast`].
    pub async fn broadcast_except<'a>(
        &self,
        kind: Kind,
        payload: impl Into<Bytes>,
        except: impl IntoIterator<Item = &'a str>,
    ) -> usize {
        let except = except.into_iter().map(Box::from).collect();
        self.node.dispatcher.broadcast(kind, payload.into(), except).await.sessions
    }

    /// Closes every session of `uid` after all messages that are due to it; returns how many sessions there were.
    ///
    /// # Errors
    /// When `code` may not be sent in a close frame, or `reason` is longer than 123 bytes.
    pub async fn kick(&self, uid: &str, code: u16, reason: &str) -> Result<usize, KickError> {
        check_close(code, reason)?;
        Ok(self.node.dispatcher.kick(uid, code, reason).await.unwrap_or(0))
    }
}

/// Queries about users.
impl Handle {
    /// Returns the sessions of `uid`, oldest first; none when it is offline.
    pub async fn sessions(&self, uid: &str) -> Vec<SessionInfo> {
        self.node.dispatcher.sessions(uid).await.unwrap_or_default()
    }

    /// Returns up to `most` of the uids that are online, from `cursor` on.
    ///
    /// A uid whose oldest session stays the same from the first page to the last is on exactly one page. A uid that
    /// comes online or goes offline in the meantime may be on a page or not.
    pub async fn uids(&self, cursor: Cursor, most: usize) -> Uids {
        self.node.dispatcher.uids(cursor, most).await.unwrap_or_default()
    }

    /// Returns the index of the shard that owns `uid`.
    pub fn shard_of(&self, uid: &str) -> usize {
        self.node.dispatcher.locate(uid).1
    }
}

/// Queries about the node.
impl Handle {
    /// Returns the sum of the counts of all shards, without those of a shard that has drained.
    pub async fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for stats in self.node.dispatcher.stats().await.into_iter().flatten() {
            sum.add(&stats);
        }
        sum
    }

    /// Returns the counts that no shard has: pushes of other programs, broadcasts from outside the shards, events of the
    /// hook.
    pub fn counts(&self) -> NodeCounts {
        self.node.counts.of_node(&self.node.dispatcher)
    }

    /// Returns how many logins came since the start, in a first frame or with the upgrade, including refused ones.
    pub fn logins(&self) -> u64 {
        self.node.logins.count()
    }

    /// Returns every reason to refuse a connection before it is a session, with the number of such refusals since the start.
    pub fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.node.refusals.count(*reason)))
    }

    /// Returns how many connections are open now, logged in or not.
    pub fn connections(&self) -> usize {
        self.node.admission.count()
    }

    /// Returns the most connections that the node can have, and the limit that they come from.
    pub fn connections_ceiling(&self) -> (ConnectionLimit, u64) {
        let limits = self.node.control_settings.borrow().connection_limits;
        limits.ceiling(descriptors::left_beside(self.node.other_descriptors))
    }
}

/// The life of the node.
impl Handle {
    /// Sends the settings that a running node can change to every thread, and ignores all others (see [`Config::reload`]).
    ///
    /// The files of the certificate are read again soon after. (They are also read again when they change.) Blocks while a
    /// shard has too many requests.
    pub fn reload(&self, config: &Config) {
        if let Some(certificate) = &self.node.certificate {
            certificate.notify_one();
        }
        self.node.settings.send_replace(Arc::new(config.gateway()));
        self.node.control_settings.send_replace(Arc::new(config.control_settings()));
        self.node.drain_timeout.send_replace(config.drain_timeout);
        let memory_bytes_max = config.memory_bytes_max / self.node.dispatcher.shard_count();
        self.node.dispatcher.reload(&Arc::new(SessionSettings { memory_bytes_max, ..config.session() }));
    }

    /// Stops accepting, closes every session with 1001 spread over the first half of `drain_timeout`, and
    /// returns when all have ended or the time is over.
    ///
    /// # Cancel safety
    /// When the future is dropped, the drain goes on; another call waits for the same drain.
    pub async fn drain(&self) {
        let time_out = *self.node.drain_timeout.borrow();
        let is_first = self.node.drain_by.send_if_modified(|by| {
            let is_first = by.is_none();
            by.get_or_insert_with(|| Instant::now() + time_out);
            is_first
        });
        if is_first {
            info!("draining");
        }
        // At every call: an earlier one may have been dropped while it waited for a full queue. A shard acts on the first
        // such request only.
        self.node.dispatcher.drain(time_out).await;
        // Nothing is ever sent: this returns when the last thread has ended.
        self.node.ended.recv_async().await.ok();
    }
}
