//! Requests to a shard from outside the message path: from the program around the server, and from control.
//!
//! Answers are sent without waiting; an answer whose receiver has gone is counted. The work of one request is
//! bounded, so that none takes a whole turn: more work takes several requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Shard;
use super::budget::Cost;
use super::close::{CloseReason, Unsent};
use super::io::Network;
use super::sweep::Drain;
use crate::config::SessionSettings;
use crate::message::{Delivery, Kind, Payload};
use crate::metrics::Stats;
use crate::peer::Peer;
use crate::protocol::Message;
use crate::uid::UidHash;

/// Most requests that are taken in one turn.
const REQUESTS_PER_TURN: usize = 1024;

/// Most sessions that are looked at for one page of uids.
const SESSIONS_PER_PAGE: usize = 4096;

/// Cost of a page in the turn's budget: it takes about as long as this many deliveries.
const PAGE_DELIVERIES: usize = 512;

/// A request to a shard; answers are sent without waiting.
#[derive(Debug)]
pub enum Request {
    /// Delivers each message to its uid, which this shard owns; in order.
    Push {
        /// The messages; the caller bounds how many.
        pushes: Vec<HashedPush>,
        /// Receives the outcome of each, in the same order.
        answer: flume::Sender<Vec<Delivery>>,
    },
    /// Delivers to every session of this shard.
    Broadcast {
        /// Text or binary.
        kind: Kind,
        /// The message.
        payload: Bytes,
        /// Uids of this shard that don't receive it.
        except: Vec<(UidHash, Box<str>)>,
        /// Receives the number of sessions that it is due to.
        answer: flume::Sender<usize>,
    },
    /// Lists the sessions of a uid, oldest first.
    Sessions {
        /// The uid's hash under the node's key.
        hash: UidHash,
        /// The uid.
        uid: Box<str>,
        /// Receives the sessions; none when the uid is offline.
        answer: flume::Sender<Vec<SessionInfo>>,
    },
    /// Returns a page of the uids that are online.
    Uids {
        /// Cursor: 0 for the first page, [`UidPage::next`] of the page before it otherwise.
        from: u32,
        /// Most uids on the page.
        most: usize,
        /// Receives the page.
        answer: flume::Sender<UidPage>,
    },
    /// Closes every session of a uid.
    Kick {
        /// The uid's hash under the node's key.
        hash: UidHash,
        /// The uid.
        uid: Box<str>,
        /// The close code, one that may be sent.
        code: u16,
        /// The reason; the peer is sent at most 123 bytes of it.
        reason: Box<str>,
        /// Receives the number of sessions that were closed.
        answer: flume::Sender<usize>,
    },
    /// Returns the shard's counters and gauges.
    Stats {
        /// Receives them.
        answer: flume::Sender<Stats>,
    },
    /// Replaces the settings.
    Reload(Arc<SessionSettings>),
    /// Closes every session, spread over the first half of the time-out; the shard ends when all have ended or the time
    /// is over.
    Drain {
        /// Longest time that the drain takes.
        time_out: Duration,
    },
}

/// One message of [`Request::Push`].
#[derive(Clone, Debug)]
pub struct HashedPush {
    /// The uid's hash under the node's key.
    pub hash: UidHash,
    /// The recipient.
    pub uid: Box<str>,
    /// Text or binary.
    pub kind: Kind,
    /// The message.
    pub payload: Bytes,
}

/// One session of a uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// When it logged in, by the wall clock at that time, to the millisecond.
    pub since: SystemTime,
    /// The client's address; `None` for a Unix socket.
    pub peer: Option<Peer>,
}

/// A page of the uids that are online on one shard.
///
/// A uid whose oldest session stays the same while pages are taken is on exactly one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UidPage {
    /// The uids, in no order.
    pub uids: Vec<Box<str>>,
    /// Cursor of the next page; `None` when this is the last.
    pub next: Option<u32>,
}

impl<N: Network> Shard<N> {
    /// Serves requests, within the turn's budget.
    pub(super) fn take_requests(&mut self) {
        self.inlets.check_external_work(&self.mailbox);
        for _ in 0..REQUESTS_PER_TURN {
            if self.is_saturated() || !self.take_request() {
                return;
            }
        }
    }

    /// Serves the oldest request; returns whether there was one.
    pub(super) fn take_request(&mut self) -> bool {
        let Some(request) = self.inlets.requests.take() else { return false };
        // Every request costs something: a flood of cheap ones is work, too.
        self.budget.spend(Cost { deliveries: 1, bytes: 0 });
        match request {
            Request::Push { pushes, answer } => {
                let deliveries = pushes.into_iter().map(|push| self.take_push(push)).collect();
                self.answer(&answer, deliveries);
            }
            Request::Broadcast { kind, payload, except, answer } => {
                let sessions = self.take_broadcast(kind, payload, &except);
                self.answer(&answer, sessions);
            }
            Request::Sessions { hash, uid, answer } => {
                let sessions = self.sessions_of(hash, &uid);
                self.answer(&answer, sessions);
            }
            Request::Uids { from, most, answer } => {
                let page = self.page(from, most);
                self.answer(&answer, page);
            }
            Request::Kick { hash, uid, code, reason, answer } => {
                let sessions = self.kick(hash, &uid, CloseReason::by_caller(code, &reason));
                self.answer(&answer, sessions);
            }
            Request::Stats { answer } => self.answer(&answer, self.stats()),
            Request::Reload(settings) => self.reload(settings),
            Request::Drain { time_out } => {
                if self.drain.is_none() {
                    self.drain = Some(Drain::new(self.now, time_out, self.sessions.slots_end()));
                }
            }
        }
        true
    }

    fn kick(&mut self, hash: UidHash, uid: &str, reason: CloseReason<'_>) -> usize {
        let sessions = self.registry.find(hash, uid.as_bytes()).to_vec();
        for &session in &sessions {
            self.stats.kicked += 1;
            self.close(session, reason, Unsent::Keep);
        }
        sessions.len()
    }

    fn take_push(&mut self, HashedPush { hash, uid, kind, payload }: HashedPush) -> Delivery {
        let mut message = Message::new(kind, Payload::Shared(payload));
        let (delivery, cost) = self.deliver(hash, uid.as_bytes(), &mut message);
        self.budget.spend(cost);
        self.enforce_memory_max();
        delivery
    }

    fn take_broadcast(&mut self, kind: Kind, payload: Bytes, except: &[(UidHash, Box<str>)]) -> usize {
        let bytes = payload.len();
        let sessions = self.broadcast_except(Message::new(kind, Payload::Shared(payload)), except);
        self.budget.spend(Cost { deliveries: 1 + sessions + except.len(), bytes });
        self.enforce_memory_max();
        sessions
    }

    fn sessions_of(&mut self, hash: UidHash, uid: &str) -> Vec<SessionInfo> {
        let keys = self.registry.find(hash, uid.as_bytes());
        let sessions = &mut self.sessions;
        let known = keys.iter().filter_map(|&key| {
            let session = sessions.present(key)?;
            Some(SessionInfo { since: session.since.time(), peer: session.peer })
        });
        known.collect()
    }

    /// Collects a page of uids. It walks over the slots of sessions, which never change; the registry's entries move
    /// when it grows.
    fn page(&mut self, from: u32, most: usize) -> UidPage {
        self.budget.spend(Cost { deliveries: PAGE_DELIVERIES, bytes: 0 });
        let mut page = UidPage::default();
        let (mut slot, mut looked_at) = (from, 0);
        while let Some(key) = self.sessions.next_key(slot) {
            if page.uids.len() == most || looked_at == SESSIONS_PER_PAGE {
                page.next = Some(key.slot());
                break;
            }
            (slot, looked_at) = (key.slot() + 1, looked_at + 1);
            let Some(hash) = self.sessions.present(key).map(|session| session.hash) else { continue };
            page.uids.extend(self.registry.oldest_of(hash, key).map(Box::from));
        }
        page
    }

    fn reload(&mut self, settings: Arc<SessionSettings>) {
        let rates = |settings: &SessionSettings| (settings.message_rate_max, settings.byte_rate_max);
        let old = std::mem::replace(&mut self.settings, settings);
        if rates(&old) != rates(&self.settings) {
            self.reset_meters();
        }
    }

    /// Sends an answer without waiting; one whose receiver has gone is counted.
    fn answer<T>(&mut self, receiver: &flume::Sender<T>, answer: T) {
        if receiver.try_send(answer).is_err() {
            self.stats.answers_dropped += 1;
        }
    }
}
