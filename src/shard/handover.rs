//! What a shard is given from outside: logged-in connections, requests, and the numbers that order logins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::SessionSettings;
use crate::message::{Delivery, Kind};
use crate::metrics::Stats;
use crate::rights::Rights;
use crate::uid::{Uid, UidHash};

/// A logged-in connection on its way from the gateway to the shard that owns its uid; one value, nothing left behind.
#[derive(Debug)]
pub struct Handover<S> {
    /// The connected stream, non-blocking.
    pub socket: S,
    /// Every byte received behind the login frame.
    pub unread: Vec<u8>,
    /// Who logged in.
    pub uid: Uid,
    /// What the client may do.
    pub rights: Rights,
    /// When the session ends for want of a newer credential; `None` if it may last.
    pub expires: Option<Instant>,
    /// When the login frame was read, relative to others, or the request that held the credential.
    pub login: LoginNumber,
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The place that admission gave; given back when the session is dropped.
    pub permit: Permit,
}

/// Order in which login frames were read on this node; a lower one never replaces a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginNumber(u64);

/// Where login numbers are drawn; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct LoginNumbers(Arc<AtomicU64>);

impl LoginNumbers {
    /// Draws the next number.
    pub fn draw(&self) -> LoginNumber {
        // Relaxed: only the counter's own order matters.
        LoginNumber(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns how many were drawn.
    pub fn count(&self) -> u64 {
        // Relaxed: a statistic.
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections on the node, against a bound; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<AtomicUsize>);

/// A connection's place on the node; dropping it gives the place back.
#[derive(Debug)]
pub struct Permit(Arc<AtomicUsize>);

impl Admission {
    /// Returns how many places are taken.
    pub fn count(&self) -> usize {
        // Relaxed: a statistic.
        self.0.load(Ordering::Relaxed)
    }

    /// Takes a place if fewer than `connections_max` are taken.
    pub fn admit(&self, connections_max: usize) -> Option<Permit> {
        // Relaxed: a count; nothing else is ordered by it.
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(&self.0));
        (taken < connections_max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Relaxed, as in `admit`.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is asked of a shard from outside the message path; answers are sent without waiting.
#[derive(Debug)]
pub enum Request {
    /// Delivers to one uid, which this shard owns.
    Push {
        /// The uid's hash under the node's key.
        hash: UidHash,
        /// Whom it is for.
        uid: Box<str>,
        /// How it goes on the wire.
        kind: Kind,
        /// The message.
        payload: Bytes,
        /// Takes what became of it.
        answer: flume::Sender<Delivery>,
    },
    /// Delivers to every session of this shard.
    Broadcast {
        /// How it goes on the wire.
        kind: Kind,
        /// The message.
        payload: Bytes,
        /// Takes the number of sessions that it is due to.
        answer: flume::Sender<usize>,
    },
    /// Tells what was counted.
    Stats {
        /// Takes the counts.
        answer: flume::Sender<Stats>,
    },
    /// Uses other settings from the next turn on.
    Reload(Arc<SessionSettings>),
    /// Closes every session, spread over the first half of the time; ends when all are gone or the time is over.
    Drain {
        /// How long it may take.
        time_out: Duration,
    },
}
