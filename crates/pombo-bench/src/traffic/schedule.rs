//! A fixed rate: when each message is due, whatever became of those before it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::latency::latency_histogram;

/// When each message is due.
pub(super) struct Schedule {
    /// Messages a second.
    rate: u32,
    /// When the first message is due, on the generator's clock; later by each pause that was the generator's own.
    pub(super) start: u64,
    /// Place of the next message.
    next: u64,
    /// How late each message was taken up.
    pub(super) lateness: Histogram<u64>,
}

impl Schedule {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, start: 0, next: 0, lateness: latency_histogram() }
    }

    /// Takes up the next message if it is due by `now`: its place, and when it was due.
    #[inline]
    pub(super) fn take(&mut self, now: u64) -> Option<(u64, u64)> {
        let since = self.time_of(self.next);
        if since > now {
            return None;
        }
        self.lateness.saturating_record(now - since);
        self.next += 1;
        Some((self.next - 1, since))
    }

    /// How long it is until the next message.
    #[inline]
    pub(super) fn wait(&self, now: u64) -> Duration {
        Duration::from_nanos(self.time_of(self.next).saturating_sub(now))
    }

    /// Puts the schedule off after a pause of the generator's own.
    pub(super) fn resume(&mut self, now: u64) {
        self.start += now.saturating_sub(self.time_of(self.next));
    }

    /// When the message at `place` is due.
    #[inline]
    pub(super) fn time_of(&self, place: u64) -> u64 {
        let rate = u64::from(self.rate);
        // Whole seconds apart: nothing overflows in the centuries of the clock.
        self.start + place / rate * 1_000_000_000 + place % rate * 1_000_000_000 / rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_time(rate: u32, place: u64, expected: u64) {
        let schedule = Schedule { start: 7, ..Schedule::new(rate) };
        assert_eq!(schedule.time_of(place), expected);
    }

    #[test]
    fn a_schedule_keeps_its_rate() {
        check_time(1, 0, 7);
        check_time(1, 3, 3_000_000_007);
        check_time(1000, 1, 1_000_007);
        check_time(3, 1, 333_333_340);
        check_time(3, 300_000_000, 100_000_000_000_000_007);
        check_time(u32::MAX, u64::from(u32::MAX) * 5 + 1, 5_000_000_007);
    }

    #[test]
    fn each_message_is_taken_up_once() {
        let mut schedule = Schedule::new(10);
        assert_eq!(schedule.take(0), Some((0, 0)));
        assert_eq!(schedule.take(99_999_999), None);
        assert_eq!(schedule.wait(99_999_999), Duration::from_nanos(1));
        assert_eq!(schedule.take(350_000_000), Some((1, 100_000_000)));
        assert_eq!(schedule.take(350_000_000), Some((2, 200_000_000)));
        schedule.resume(1_000_000_000);
        assert_eq!(schedule.take(1_000_000_000), Some((3, 1_000_000_000)));
        assert_eq!(schedule.take(1_000_000_000), None);
    }
}
