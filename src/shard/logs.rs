//! The broadcast logs of a shard, one for each encoding, and the position of each session in its log.
//!
//! A broadcast is written to the logs that have a receiver. Each session knows the position up to which it has taken
//! its log ([`Session::log_from`]); the bytes behind that are due to it.

use super::log::{Log, Position};
use super::session::Session;
use crate::frame::HEADER_BYTES_MAX;
use crate::protocol::{Encoding, Message};

/// The logs of a shard, by encoding, and how many open sessions receive each.
#[derive(Debug, Default)]
pub(super) struct Logs {
    logs: [Log; Encoding::COUNT],
    /// Counted by [`Logs::add_receiver`] and [`Logs::remove_receiver`].
    receivers: [usize; Encoding::COUNT],
}

impl Logs {
    /// Counts one more open session that receives `encoding`.
    pub(super) fn add_receiver(&mut self, encoding: Encoding) {
        self.receivers[encoding as usize] += 1;
    }

    /// Counts one open session less that receives `encoding`.
    pub(super) fn remove_receiver(&mut self, encoding: Encoding) {
        debug_assert!(self.receivers[encoding as usize] > 0, "a receiver is removed that was not added");
        self.receivers[encoding as usize] -= 1;
    }

    /// Returns the log of an encoding.
    #[inline]
    pub(super) fn of(&self, encoding: Encoding) -> &Log {
        &self.logs[encoding as usize]
    }

    /// Returns the log that a session receives.
    #[inline]
    pub(super) fn of_session<S>(&self, session: &Session<S>) -> &Log {
        self.of(session.protocol.encoding())
    }

    /// Whether broadcasts are due to a session.
    #[inline]
    pub(super) fn has_due<S>(&self, session: &Session<S>) -> bool {
        session.log_from != self.of_session(session).end()
    }

    /// Returns how many bytes of broadcasts are due to a session.
    #[inline]
    pub(super) fn due_bytes<S>(&self, session: &Session<S>) -> usize {
        (self.of_session(session).end() - session.log_from) as usize
    }

    /// Returns how many broadcasts a session has not got whole.
    pub(super) fn due_frames<S>(&self, session: &Session<S>) -> u64 {
        self.of_session(session).frames_from(session.log_from) as u64
    }

    /// Moves a session to the end of its log without sending; returns whether anything was due to it.
    pub(super) fn skip<S>(&self, session: &mut Session<S>) -> bool {
        let end = self.of_session(session).end();
        std::mem::replace(&mut session.log_from, end) != end
    }

    /// Returns the end of every log: it moves with each broadcast that has a receiver.
    pub(super) fn ends(&self) -> [Position; Encoding::COUNT] {
        self.logs.each_ref().map(Log::end)
    }

    /// Appends a broadcast to each log that has a receiver, unless its frame is longer than `frame_bytes_max` in that
    /// encoding; returns how many sessions do not get it for that reason.
    pub(super) fn push(&mut self, message: &mut Message<'_>, frame_bytes_max: usize) -> usize {
        let mut too_long = 0;
        for &encoding in Encoding::ALL {
            let receivers = self.receivers[encoding as usize];
            if receivers == 0 {
                continue;
            }
            let (kind, payload) = message.encoded(encoding);
            if HEADER_BYTES_MAX + payload.as_slice().len() > frame_bytes_max {
                too_long += receivers;
                continue;
            }
            self.logs[encoding as usize].push(kind, payload.clone());
        }
        too_long
    }

    pub(super) fn is_empty(&self) -> bool {
        self.logs.iter().all(Log::is_empty)
    }

    /// Whether a log is full: no more broadcasts are taken before the next flush.
    pub(super) fn is_full(&self) -> bool {
        self.logs.iter().any(Log::is_full)
    }

    /// Empties the logs; every session must have taken its own.
    pub(super) fn clear(&mut self) {
        self.logs.iter_mut().for_each(Log::clear);
    }

    /// Asserts that the logs are empty, that every open session has taken its log, and that receivers are counted.
    #[cfg(all(test, not(pombo_loom)))]
    pub(super) fn check<S>(&self, sessions: &super::sessions::Sessions<S>) {
        assert!(self.is_empty(), "the logs are empty between turns");
        let mut receivers = [0; Encoding::COUNT];
        for (_, session) in sessions.iter().filter(|(_, session)| session.phase == super::session::Phase::Open) {
            receivers[session.protocol.encoding() as usize] += 1;
            assert!(!self.has_due(session), "an open session has taken its log");
        }
        assert_eq!(self.receivers, receivers, "open sessions by encoding");
    }
}
