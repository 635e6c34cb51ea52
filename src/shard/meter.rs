//! How much a session may send: a token bucket for its messages and one for its bytes (`message_rate_max`,
//! `byte_rate_max`).
//!
//! Arithmetic only: [`super::rate`] pauses and closes sessions by it. A read may overdraw a bucket; the session is then
//! not read again until both buckets hold a whole token.

use super::wheel::{TICK, Tick};
use crate::config::SessionSettings;

/// Ticks in a second. A bucket counts in parts of a token, this many to one: each tick then adds a whole number of
/// parts.
const TICKS: i64 = (1000 / TICK.as_millis()) as i64;

/// The rate of a bucket that is not limited: so high that no session reaches it, and `UNLIMITED * TICKS` is far from
/// overflow.
const UNLIMITED: i64 = 1 << 40;

/// The two buckets of a session. A session has a meter only while a rate is limited.
#[derive(Debug)]
pub(crate) struct Meter {
    messages: Bucket,
    bytes: Bucket,
    /// The tick of the last refill.
    filled: Tick,
    /// When the session went over its limit; [`Tick::NEVER`] if it isn't.
    over_since: Tick,
}

/// Tokens left, in parts of [`TICKS`]; below zero when overdrawn.
#[derive(Debug)]
struct Bucket(i64);

impl Bucket {
    fn spend(&mut self, tokens: u64) {
        self.0 = self.0.saturating_sub_unsigned(tokens.saturating_mul(TICKS as u64));
    }

    /// Adds the tokens of `ticks`; a bucket holds those of one second at most.
    fn fill(&mut self, rate: i64, ticks: u32) {
        self.0 = self.0.saturating_add(rate.saturating_mul(ticks.into())).min(rate * TICKS);
    }

    /// Returns the ticks until the bucket holds a whole token.
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
    /// Makes a meter with full buckets, if `settings` limit a rate.
    pub(super) fn new(settings: &SessionSettings, now: Tick) -> Option<Box<Self>> {
        let (messages, bytes) = (settings.message_rate_max, settings.byte_rate_max);
        let is_limited = messages.is_some() || bytes.is_some();
        let full = |limit| Bucket(rate(limit) * TICKS);
        is_limited.then(|| {
            Box::new(Self { messages: full(messages), bytes: full(bytes), filled: now, over_since: Tick::NEVER })
        })
    }

    /// Takes the tokens of bytes that were received at `now`.
    pub(super) fn received(&mut self, bytes: usize, settings: &SessionSettings, now: Tick) {
        // First the tokens up to now: added later, they would go on top of a full bucket.
        self.refill(settings, now);
        self.bytes.spend(bytes as u64);
    }

    /// Takes the tokens of messages that were decoded at `now`.
    pub(super) fn decoded(&mut self, messages: u64, settings: &SessionSettings, now: Tick) {
        // As in `received`.
        self.refill(settings, now);
        self.messages.spend(messages);
    }

    /// Returns how many messages may be decoded now, at least one.
    pub(super) fn messages_left(&self) -> usize {
        usize::try_from(self.messages.0 / TICKS).unwrap_or(0).max(1)
    }

    /// Refills both buckets; returns the first tick at which both hold a whole token, which is `now` if they do.
    pub(super) fn refill(&mut self, settings: &SessionSettings, now: Tick) -> Tick {
        let ticks = now.0.saturating_sub(self.filled.0);
        self.filled = now;
        let (messages, bytes) = (rate(settings.message_rate_max), rate(settings.byte_rate_max));
        self.messages.fill(messages, ticks);
        self.bytes.fill(bytes, ticks);
        let empty_for = self.messages.empty_for(messages).max(self.bytes.empty_for(bytes));
        Tick(now.0.saturating_add(empty_for))
    }

    /// Notes that the session is over its limit; its patience runs from the first of such notes.
    pub(super) fn over(&mut self, now: Tick) {
        self.over_since = self.over_since.min(now);
    }

    /// Notes that the session is no longer over its limit: everything received was decoded, or could not be for a reason that
    /// is not the client's.
    pub(super) fn caught_up(&mut self) {
        self.over_since = Tick::NEVER;
    }

    /// Returns when to close the session if it stays over its limit; [`Tick::NEVER`] if it isn't over it.
    pub(super) fn closed_at(&self, settings: &SessionSettings) -> Tick {
        self.over_since.after(settings.rate_patience)
    }

    /// Returns the reason to close the session with: the rate that it exceeds, and for how long.
    pub(super) fn reason(&self, settings: &SessionSettings) -> String {
        let (messages, bytes) = (rate(settings.message_rate_max), rate(settings.byte_rate_max));
        let patience = settings.rate_patience;
        if self.bytes.empty_for(bytes) > self.messages.empty_for(messages) || messages == UNLIMITED {
            format!("more than {bytes} bytes a second for {patience:?}")
        } else {
            format!("more than {messages} messages a second for {patience:?}")
        }
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
        meter.decoded(spent, &settings, Tick(7));
        assert_eq!(meter.refill(&settings, Tick(7)), Tick(7 + ticks), "{spent} at {limit} a second");
        assert_eq!(meter.refill(&settings, Tick(7 + ticks)), Tick(7 + ticks), "then there is a token");
    }

    /// Regression: a session that was idle for a second had two seconds' worth of tokens. They were taken from the full
    /// bucket first, and those of the idle second added then.
    #[test]
    fn idle_time_adds_nothing_to_full_buckets() {
        let settings = settings(Some(100), Some(1000));
        for (messages, bytes) in [(100, 0), (0, 1000)] {
            let mut meter = Meter::new(&settings, Tick(7)).expect("a rate is limited");
            let later = Tick(7 + TICKS as u32);
            meter.received(bytes, &settings, later);
            meter.decoded(messages, &settings, later);
            assert_eq!(meter.refill(&settings, later), Tick(later.0 + 1), "{messages} messages, {bytes} bytes");
        }
    }

    #[test]
    fn tokens_of_a_second_may_be_spent_at_once_and_the_rest_are_waited_for() {
        check(100, 99, 0);
        check(100, 100, 1);
        check(100, 105, 2);
        check(100, 1100, 201);
        check(1, 1, 20);
        check(1, 10, 200);
        check(7, 7, 3);
    }

    #[test]
    fn a_bucket_holds_the_tokens_of_one_second_at_most() {
        let settings = settings(Some(10), Some(1000));
        let mut meter = Meter::new(&settings, Tick(0)).expect("rates are limited");
        meter.refill(&settings, Tick(u32::MAX));
        assert_eq!((meter.messages.0, meter.bytes.0), (10 * TICKS, 1000 * TICKS));
        assert_eq!(meter.messages_left(), 10);
        meter.received(usize::MAX, &settings, Tick(u32::MAX));
        assert_eq!(meter.refill(&settings, Tick(u32::MAX)), Tick(u32::MAX), "no later tick exists");
        assert!(Meter::new(&self::settings(None, None), Tick(0)).is_none());
    }

    #[test]
    fn patience_counts_from_when_the_session_went_over_its_limit() {
        let settings = SessionSettings { rate_patience: 10 * TICK, ..settings(Some(10), None) };
        let mut meter = Meter::new(&settings, Tick(0)).expect("a rate is limited");
        assert_eq!(meter.closed_at(&settings), Tick::NEVER);
        meter.over(Tick(5));
        meter.over(Tick(9));
        assert_eq!(meter.closed_at(&settings), Tick(5).after(10 * TICK));
        meter.caught_up();
        assert_eq!(meter.closed_at(&settings), Tick::NEVER);
        meter.over(Tick(20));
        assert_eq!(meter.closed_at(&settings), Tick(20).after(10 * TICK));
    }
}
