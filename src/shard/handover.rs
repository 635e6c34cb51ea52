//! The hand-over of a logged-in connection from the gateway to its shard, with its login number and its permit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::peer::Peer;
use crate::protocol::Protocol;
use crate::rights::Rights;
use crate::uid::Uid;

/// A logged-in connection on its way from the gateway to the shard that owns its uid. The gateway keeps nothing of it.
#[derive(Debug)]
pub struct Handover<S> {
    /// The connected stream, non-blocking.
    pub socket: S,
    /// Every byte received behind the login frame.
    pub unread: Vec<u8>,
    /// The uid that it is logged in as.
    pub uid: Uid,
    /// The protocol of the client.
    pub protocol: Protocol,
    /// The rights of the client.
    pub rights: Rights,
    /// When the credential expires, by the wall clock; `None` if it never does.
    pub expires: Option<SystemTime>,
    /// The order of this login among all: when its login frame was read, or the request with its credential.
    pub login: LoginNumber,
    /// The peer's address; `None` for a Unix socket.
    pub peer: Option<Peer>,
    /// The permit from admission, released when the session is dropped.
    pub permit: Permit,
}

/// Position of a login in the order of all logins on this node; a session never replaces one with a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginNumber(u64);

impl fmt::Display for LoginNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The source of login numbers; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct LoginNumbers(Arc<AtomicU64>);

impl LoginNumbers {
    /// Draws the next number.
    pub fn draw(&self) -> LoginNumber {
        // Relaxed: only the counter's own order matters.
        LoginNumber(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns how many numbers were drawn.
    pub fn count(&self) -> u64 {
        // Relaxed: a statistic.
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts the connections of the node against a bound; shared by the gateway's threads.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Count>);

/// Counts the connections of one address, which are also counted for the node.
#[derive(Debug)]
pub struct Share(Arc<Count>);

/// One connection in the count of the node, and in that of its address if it has a share; dropping it takes it out of
/// both.
///
/// It is one pointer in either case, since every idle session has one. To drop it takes an atomic decrement or two, for
/// which a shard never waits.
#[derive(Debug)]
pub struct Permit(Option<Arc<Count>>);

/// A count of connections.
#[derive(Debug, Default)]
struct Count {
    connections: AtomicUsize,
    /// The count that contains these connections, too.
    whole: Option<Arc<Count>>,
}

impl Admission {
    /// Returns how many connections there are.
    pub fn count(&self) -> usize {
        // Relaxed: a statistic.
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection, if there are fewer than `connections_max`.
    pub fn admit(&self, connections_max: usize) -> Option<Permit> {
        self.0.take(connections_max).then(|| Permit(Some(Arc::clone(&self.0))))
    }

    /// Makes an empty share for one address.
    pub fn share(&self) -> Share {
        Share(Arc::new(Count { connections: AtomicUsize::new(0), whole: Some(Arc::clone(&self.0)) }))
    }
}

impl Share {
    /// Counts the connection of `permit` in this share, too, if it has fewer than `sessions_max`; returns whether it
    /// did.
    pub fn admit(&self, permit: &mut Permit, sessions_max: usize) -> bool {
        let is_admitted = self.0.take(sessions_max);
        if is_admitted {
            // The count of the node is reached through that of the share from now on.
            permit.0 = Some(Arc::clone(&self.0));
        }
        is_admitted
    }

    /// Returns whether no permit is counted in this share; only the owner of the share adds any.
    pub fn is_empty(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Permit {
    /// Returns whether the connection is counted in the share of an address.
    pub fn has_share(&self) -> bool {
        self.0.as_ref().is_some_and(|count| count.whole.is_some())
    }
}

impl Count {
    fn take(&self, most: usize) -> bool {
        // Relaxed: a count; nothing else is ordered by it.
        let is_taken = self.connections.fetch_add(1, Ordering::Relaxed) < most;
        if !is_taken {
            // Relaxed, as above.
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        is_taken
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut next = self.0.as_deref();
        while let Some(count) = next {
            // Relaxed, as in `take`.
            count.connections.fetch_sub(1, Ordering::Relaxed);
            next = count.whole.as_deref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_back_all_that_it_stands_for() {
        let node = Admission::default();
        let share = node.share();
        let mut permits = [node.admit(3), node.admit(3), node.admit(3)].map(|permit| permit.expect("there is room"));
        assert!(node.admit(3).is_none());
        assert_eq!(node.count(), 3);
        let [first, second, third] = &mut permits;
        assert!(share.admit(first, 2) && share.admit(second, 2) && !share.admit(third, 2));
        assert_eq!(node.count(), 3, "a share is a part of the node's count");
        drop(permits);
        assert_eq!(node.count(), 0);
        assert!(share.is_empty());
        assert_eq!(size_of::<Permit>(), size_of::<usize>());
    }
}
