//! What must hold of a shard between two turns, as one assertion for each promise; the tests call it after every turn.
//!
//! The invariants of a part stand with that part: [`super::sessions::Sessions::check`], [`super::registry::Registry::check`],
//! [`super::outbox::Outbox::check`]. Here is what binds them together: the flags of a session and the lists that it is on.

use super::Shard;
use super::io::{Network, Socket};
use super::session::Phase;

impl<N: Network> Shard<N> {
    /// Asserts everything that holds between two turns.
    ///
    /// # Panics
    /// When something does not hold, with what it is.
    pub(super) fn check_invariants(&mut self) {
        self.sessions.check();
        self.lists.check(&self.sessions);
        self.memory.check(&self.sessions);
        self.wheel.check(&self.sessions);
        self.logs.check(&self.sessions);
        self.registry.check();
        self.mailbox.check();
        self.check_stalls();
        let mut open = 0;
        let mut slot = 0;
        while let Some(key) = self.sessions.next_key(slot) {
            slot = key.slot() + 1;
            let session = self.sessions.present(key).expect("it was found just now");
            let flags = session.flags;
            // An outbox is there while something waits, and then somebody sends it.
            match &session.outbox {
                Some(outbox) => {
                    outbox.check();
                    let is_sent = session.listed.is_dirty() || (flags.is_blocked && flags.is_watched);
                    assert!(is_sent, "something waits, and nobody sends it: {flags:?}");
                }
                None => assert!(!flags.has_pong, "a pong waits in no outbox"),
            }
            assert!(
                !session.socket.has_unsent() || session.listed.is_dirty() || flags.is_watched,
                "bytes are held back for ever"
            );
            match session.phase {
                Phase::Open => {
                    open += 1;
                    assert!(self.registry.holds(session.hash, key), "an open session is not registered");
                }
                Phase::Closing | Phase::Lingering => {
                    assert!(session.unread.is_none() && session.meter.is_none(), "it is not read any more");
                    assert!(!self.registry.holds(session.hash, key), "a closing session is registered");
                    assert!(session.phase == Phase::Closing || session.outbox.is_none(), "sent behind the end");
                }
            }
        }
        assert_eq!(self.registry.sessions(), open, "every registered session is open");
    }
}
