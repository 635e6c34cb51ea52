//! Holds sessions to their rates: pauses a session that is over its limit, and closes it if it stays there.
//!
//! A paused session is not read, so that TCP holds its peer back. If the session stays over its limit for
//! `rate_patience`, the peer ignores backpressure, and the session is closed. A session without limits has no
//! [`Meter`]: each read costs it one check.

use super::Shard;
use super::close::{CloseReason, Unsent};
use super::io::{Network, SessionKey};
use super::meter::Meter;
use super::session::Phase;
use super::wheel::Tick;
use crate::frame::close;

/// The state of a paused session, as found by [`Shard::check_pause`].
pub(super) enum Paused {
    /// It stays paused until this tick.
    Until(Tick),
    /// Its pause has ended.
    Over,
    /// It is closed, or being closed.
    Closed,
}

impl<N: Network> Shard<N> {
    /// Takes the tokens of `messages` from a session's meter, if it has one; pauses the session if a bucket is then
    /// empty.
    ///
    /// `is_all` says that everything received was decoded.
    pub(super) fn charge(&mut self, key: SessionKey, messages: u64, is_all: bool) {
        // One of its messages may have closed or ended it.
        let Some(session) = self.sessions.get(key) else { return };
        let Some(meter) = &mut session.meter else { return };
        meter.decoded(messages, &self.settings, self.tick);
        let ready = meter.refill(&self.settings, self.tick);
        if ready > self.tick {
            meter.over(self.tick);
            let closed_at = meter.closed_at(&self.settings);
            // It may be paused already: the tokens of a message that stalled are taken when the mail takes the message.
            if !std::mem::replace(&mut session.flags.is_paused, true) {
                self.stats.rate_pauses += 1;
            }
            self.wake_at(key, ready.min(closed_at));
        } else if is_all && !session.flags.is_readable {
            meter.caught_up();
        }
    }

    /// Ends the pause of a session when its buckets have refilled; closes the session when its patience is over.
    pub(super) fn check_pause(&mut self, key: SessionKey) -> Paused {
        let Some(session) = self.sessions.present(key) else { return Paused::Closed };
        let Some(meter) = &mut session.meter else { return Paused::Over };
        let ready = meter.refill(&self.settings, self.tick);
        let closed_at = meter.closed_at(&self.settings);
        if closed_at <= self.tick {
            self.stats.rate_limited += 1;
            let reason = meter.reason(&self.settings);
            self.close(key, CloseReason::with_text(close::POLICY, &reason), Unsent::Keep);
            return Paused::Closed;
        }
        if ready > self.tick {
            return Paused::Until(ready.min(closed_at));
        }
        session.flags.is_paused = false;
        if session.has_input() {
            self.enqueue(key);
        } else if let Some(meter) = &mut session.meter {
            meter.caught_up();
        }
        Paused::Over
    }

    /// Gives every open session a new meter, or none, by the settings as they are now; ends all pauses.
    pub(super) fn reset_meters(&mut self) {
        let mut slot = 0;
        while let Some(key) = self.sessions.next_key(slot) {
            slot = key.slot() + 1;
            let Some(session) = self.sessions.present(key) else { continue };
            if session.phase != Phase::Open {
                continue;
            }
            session.meter = Meter::new(&self.settings, self.tick);
            if std::mem::take(&mut session.flags.is_paused) && session.has_input() {
                self.enqueue(key);
            }
        }
    }
}
