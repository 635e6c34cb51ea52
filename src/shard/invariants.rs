//! The invariants of a shard between two turns; the tests assert them after every turn.
//!
//! Each part asserts its own invariants in a method `check`. Here are the assertions that bind parts together.

use super::Shard;
use super::io::{Network, Socket};
use super::session::Phase;

impl<N: Network> Shard<N> {
    /// Asserts every invariant.
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
        for (key, session) in self.sessions.iter() {
            let flags = session.flags;
            // A session has an outbox only while frames wait, and then something will flush it.
            match &session.outbox {
                Some(outbox) => {
                    outbox.check();
                    let is_sent = session.listed.is_dirty() || (flags.is_blocked && flags.is_watched);
                    assert!(is_sent, "frames wait, and nothing will flush them: {flags:?}");
                }
                None => assert!(!flags.has_pong, "a pong waits without an outbox"),
            }
            assert!(
                !session.socket.has_unsent() || session.listed.is_dirty() || flags.is_watched,
                "the socket has unsent bytes, and nothing will flush them"
            );
            match session.phase {
                Phase::Open => {
                    open += 1;
                    assert!(self.registry.holds(session.hash, key), "an open session is not registered");
                }
                Phase::Closing | Phase::Lingering => {
                    assert!(session.unread.is_none() && session.meter.is_none(), "a closing session can still be read");
                    assert!(!self.registry.holds(session.hash, key), "a closing session is registered");
                    assert!(
                        session.phase == Phase::Closing || session.outbox.is_none(),
                        "frames wait behind the end of the stream"
                    );
                }
            }
        }
        assert_eq!(self.registry.sessions(), open, "every registered session is open");
    }
}
