//! How much a session may send: a token bucket for its messages and one for its bytes (`message_rate_max`,
//! `byte_rate_max`).
//!
//! A session without limits has no [`Meter`], and pays a look for one per read. One that is over its rate is not read
//! until there is something in its buckets again: TCP then holds its peer back. A read may overdraw a bucket, and is
//! waited for. When the session was not caught up with for `rate_patience`, its peer is not minding, and it is closed.

use super::Shard;
use super::close::{Farewell, Unsent};
use super::io::{Network, SessionKey};
use super::session::{Phase, Session};
use super::wheel::{TICK, Tick};
use crate::config::SessionSettings;
use crate::frame::close;

/// Ticks in a second; a bucket counts in as many parts of a token, so that each tick fills it by whole parts.
const TICKS: i64 = (1000 / TICK.as_millis()) as i64;

/// Stands for a rate that is not limited; a second of it is far from overflowing.
const UNLIMITED: i64 = 1 << 40;

/// What a session may still send; only there while a rate is limited.
#[derive(Debug)]
pub(crate) struct Meter {
    messages: Bucket,
    bytes: Bucket,
    /// Up to when the buckets were filled.
    filled: Tick,
    /// Since when there was always more than could be taken; [`Tick::NEVER`] while the session is caught up with.
    over_since: Tick,
}

/// Tokens left, in parts of [`TICKS`]; below zero when overdrawn.
#[derive(Debug)]
struct Bucket(i64);

impl Bucket {
    fn spend(&mut self, tokens: u64) {
        self.0 = self.0.saturating_sub_unsigned(tokens.saturating_mul(TICKS as u64));
    }

    /// Fills it for `ticks`; it holds what comes in a second.
    fn fill(&mut self, rate: i64, ticks: u32) {
        self.0 = self.0.saturating_add(rate.saturating_mul(ticks.into())).min(rate * TICKS);
    }

    /// Returns for how many ticks there will be no whole token.
    fn empty_for(&self, rate: i64) -> u32 {
        let missing = TICKS.saturating_sub(self.0).max(0);
        u32::try_from(missing.saturating_add(rate - 1) / rate).unwrap_or(u32::MAX)
    }
}

/// Tokens per second.
fn rate(limit: Option<usize>) -> i64 {
    limit.map_or(UNLIMITED, |limit| limit as i64)
}

impl Meter {
    /// Makes one with full buckets, if `settings` limit a rate.
    pub(super) fn new(settings: &SessionSettings, now: Tick) -> Option<Box<Self>> {
        let (messages, bytes) = (settings.message_rate_max, settings.byte_rate_max);
        let is_limited = messages.is_some() || bytes.is_some();
        let full = |limit| Bucket(rate(limit) * TICKS);
        is_limited.then(|| {
            Box::new(Self { messages: full(messages), bytes: full(bytes), filled: now, over_since: Tick::NEVER })
        })
    }

    /// Takes note of received bytes.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes.spend(bytes as u64);
    }

    /// Returns how many messages may be decoded now, at least one.
    pub(super) fn messages_left(&self) -> usize {
        usize::try_from(self.messages.0 / TICKS).unwrap_or(0).max(1)
    }

    /// Takes note that nothing more has come than could be taken.
    pub(super) fn caught_up(&mut self) {
        self.over_since = Tick::NEVER;
    }

    /// Fills the buckets up to now; returns when there will be something in both, at the earliest now.
    fn fill(&mut self, settings: &SessionSettings, now: Tick) -> Tick {
        let ticks = now.0.saturating_sub(self.filled.0);
        self.filled = now;
        let (messages, bytes) = (rate(settings.message_rate_max), rate(settings.byte_rate_max));
        self.messages.fill(messages, ticks);
        self.bytes.fill(bytes, ticks);
        let empty_for = self.messages.empty_for(messages).max(self.bytes.empty_for(bytes));
        Tick(now.0.saturating_add(empty_for))
    }

    /// Says which rate was exceeded for how long.
    fn reason(&self, settings: &SessionSettings) -> String {
        let (messages, bytes) = (rate(settings.message_rate_max), rate(settings.byte_rate_max));
        let patience = settings.rate_patience;
        if self.bytes.empty_for(bytes) > self.messages.empty_for(messages) || messages == UNLIMITED {
            format!("more than {bytes} bytes a second for {patience:?}")
        } else {
            format!("more than {messages} messages a second for {patience:?}")
        }
    }
}

/// What a look at a paused session found.
pub(super) enum Paused {
    /// It waits until then.
    Until(Tick),
    /// It may go on.
    Over,
    /// It was closed.
    Closed,
}

impl<N: Network> Shard<N> {
    /// Takes note of what a session with a meter has sent; pauses it when that was too much.
    ///
    /// `is_all` says that nothing is left of what was received.
    pub(super) fn charge(&mut self, key: SessionKey, messages: u64, is_all: bool) {
        // It may have been closed, or cut, by what it sent.
        let Some(session) = self.sessions.get(key) else { return };
        let Some(meter) = &mut session.meter else { return };
        meter.messages.spend(messages);
        let ready = meter.fill(&self.settings, self.tick);
        if ready > self.tick {
            meter.over_since = meter.over_since.min(self.tick);
            let closed_at = meter.over_since.after(self.settings.rate_patience);
            session.flags.is_paused = true;
            self.stats.rate_pauses += 1;
            self.wake_at(key, ready.min(closed_at));
        } else if is_all && !session.flags.is_readable {
            meter.caught_up();
        }
    }

    /// Looks after a session that is paused for its rate.
    pub(super) fn check_pause(&mut self, key: SessionKey) -> Paused {
        let Some(session) = self.sessions.present(key) else { return Paused::Closed };
        let Some(meter) = &mut session.meter else { return Paused::Over };
        let ready = meter.fill(&self.settings, self.tick);
        let closed_at = meter.over_since.after(self.settings.rate_patience);
        if closed_at <= self.tick {
            self.stats.rate_limited += 1;
            let reason = meter.reason(&self.settings);
            self.close(key, Farewell::with_reason(close::POLICY, &reason), Unsent::Keep);
            return Paused::Closed;
        }
        if ready > self.tick {
            return Paused::Until(ready.min(closed_at));
        }
        session.flags.is_paused = false;
        if session.can_go_on() {
            self.enqueue(key);
        } else if let Some(meter) = &mut session.meter {
            meter.caught_up();
        }
        Paused::Over
    }

    /// Gives every open session a meter, or takes it away, as the settings now say.
    pub(super) fn reset_meters(&mut self) {
        let mut place = 0;
        while let Some(key) = self.sessions.next(place) {
            place = key.place() + 1;
            let Some(session) = self.sessions.present(key) else { continue };
            if session.phase != Phase::Open {
                continue;
            }
            session.meter = Meter::new(&self.settings, self.tick);
            if std::mem::take(&mut session.flags.is_paused) && session.can_go_on() {
                self.enqueue(key);
            }
        }
    }
}

impl<S> Session<S> {
    /// Whether there may be something to receive or to decode.
    pub(super) fn can_go_on(&self) -> bool {
        self.unread.is_some() || self.flags.is_readable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(messages: Option<usize>, bytes: Option<usize>) -> SessionSettings {
        SessionSettings { message_rate_max: messages, byte_rate_max: bytes, ..Config::default().session() }
    }

    #[track_caller]
    fn check(limit: usize, spent: u64, ticks: u32) {
        let settings = settings(Some(limit), None);
        let mut meter = Meter::new(&settings, Tick(7)).expect("a rate is limited");
        meter.messages.spend(spent);
        assert_eq!(meter.fill(&settings, Tick(7)), Tick(7 + ticks), "{spent} at {limit} a second");
        assert_eq!(meter.fill(&settings, Tick(7 + ticks)), Tick(7 + ticks), "then there is one");
    }

    #[test]
    fn a_second_s_worth_may_come_at_once_and_the_rest_is_waited_for() {
        check(100, 99, 0);
        check(100, 100, 1);
        check(100, 105, 2);
        check(100, 1100, 201);
        check(1, 1, 20);
        check(1, 10, 200);
        check(7, 7, 3);
    }

    #[test]
    fn a_bucket_overflows_at_a_second_s_worth() {
        let settings = settings(Some(10), Some(1000));
        let mut meter = Meter::new(&settings, Tick(0)).expect("rates are limited");
        meter.fill(&settings, Tick(u32::MAX));
        assert_eq!((meter.messages.0, meter.bytes.0), (10 * TICKS, 1000 * TICKS));
        assert_eq!(meter.messages_left(), 10);
        meter.received(usize::MAX);
        assert_eq!(meter.fill(&settings, Tick(u32::MAX)), Tick(u32::MAX), "as late as there is");
        assert!(Meter::new(&self::settings(None, None), Tick(0)).is_none());
    }
}
