//! What the program around a node can do with it: push, ask, act, reload, drain.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::info;

use super::Node;
use crate::config::{Config, SessionSettings};
use crate::dispatcher::{Cursor, KickError, Push, Uids, check_close};
use crate::gateway::Reason;
use crate::message::{Delivery, Kind};
use crate::metrics::{NodeCounts, Stats};
use crate::shard::SessionInfo;

/// A running node; clones stand for the same node, which goes on when all of them are dropped.
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

/// To users.
impl Handle {
    /// Sends a message to every session of `uid`; says what became of it.
    ///
    /// Delivered means accepted into the outbox of a session, in order with everything else for it. A text
    /// `payload` that is not UTF-8 is sent as binary. Waits while the shard has too many requests; after the
    /// drain everybody is offline.
    ///
    /// # Cancel safety
    /// When the future is dropped the message may or may not have been delivered.
    pub async fn push(&self, uid: &str, kind: Kind, payload: impl Into<Bytes>) -> Delivery {
        let push = Push { uid: uid.into(), kind, payload: payload.into() };
        self.node.dispatcher.push(push).await.unwrap_or(Delivery::Offline)
    }

    /// Sends each message to its uid; says what became of each, in the order given.
    ///
    /// Messages to one uid arrive in the order given. Cheaper than as many calls of [`Handle::push`]: they go to the
    /// shards by the hundred. The bound on how many is the caller's memory.
    ///
    /// # Cancel safety
    /// When the future is dropped some may have been delivered and others not.
    pub async fn push_all(&self, pushes: impl IntoIterator<Item = Push>) -> Vec<Delivery> {
        let deliveries = self.node.dispatcher.push_all(pushes.into_iter().collect()).await;
        deliveries.into_iter().map(|delivery| delivery.unwrap_or(Delivery::Offline)).collect()
    }

    /// Sends a message to every session of the node; returns how many it is due to.
    ///
    /// # Cancel safety
    /// When the future is dropped some shards may have taken the message and others not.
    pub async fn broadcast(&self, kind: Kind, payload: impl Into<Bytes>) -> usize {
        self.broadcast_except(kind, payload, []).await
    }

    /// Sends a message to every session of the node but those of some uids; returns how many it is due to.
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

    /// Closes every session of `uid`, behind what is due to it; returns how many there were.
    ///
    /// # Errors
    /// When `code` may not be sent in a close frame, or `reason` is longer than 123 bytes.
    pub async fn kick(&self, uid: &str, code: u16, reason: &str) -> Result<usize, KickError> {
        check_close(code, reason)?;
        Ok(self.node.dispatcher.kick(uid, code, reason).await.unwrap_or(0))
    }
}

/// About users.
impl Handle {
    /// Returns the sessions of `uid`, oldest first; none when it is offline.
    pub async fn sessions(&self, uid: &str) -> Vec<SessionInfo> {
        self.node.dispatcher.sessions(uid).await.unwrap_or_default()
    }

    /// Returns up to `most` of the uids that are online, from `cursor` on.
    ///
    /// A uid whose oldest session stays the same from the first page to the last is on exactly one of them; of those
    /// that come and go meanwhile, some are on a page.
    pub async fn uids(&self, cursor: Cursor, most: usize) -> Uids {
        self.node.dispatcher.uids(cursor, most).await.unwrap_or_default()
    }

    /// Returns the index of the shard that owns `uid`.
    pub fn shard_of(&self, uid: &str) -> usize {
        self.node.dispatcher.locate(uid).1
    }
}

/// About the node.
impl Handle {
    /// Returns what all shards have counted; a shard that has drained counts nothing.
    pub async fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for stats in self.node.dispatcher.stats().await.into_iter().flatten() {
            sum.add(&stats);
        }
        sum
    }

    /// Returns what no shard counts: pushes of other programs, broadcasts that came from outside, events of the hook.
    pub fn counts(&self) -> NodeCounts {
        self.node.counts.of_node(&self.node.dispatcher)
    }

    /// Returns how many logins were read since the start, in a first frame or with the upgrade, refused ones too.
    pub fn logins(&self) -> u64 {
        self.node.logins.count()
    }

    /// Returns every reason to refuse a connection before it is a session, and how often it was since the start.
    pub fn refusals(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (*reason, self.node.refusals.count(*reason)))
    }

    /// Returns how many connections are open now, logged in or not.
    pub fn connections(&self) -> usize {
        self.node.admission.count()
    }
}

/// Its life.
impl Handle {
    /// Hands what can change while running to every thread; what can't is ignored (see [`Config::reload`]).
    ///
    /// The files of the certificate are read again, soon after; they are when they change, too. Blocks while a shard has too
    /// many requests.
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
    /// A drain that was begun goes on when the future is dropped; calling it again waits for the same drain.
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
        // Every time: an earlier call may have been dropped in front of a full queue, and a shard heeds the first only.
        self.node.dispatcher.drain(time_out).await;
        // Nothing is ever sent: this ends with the last thread.
        self.node.ended.recv_async().await.ok();
    }
}
