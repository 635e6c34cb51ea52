//! When to look at which session again: a timing wheel (Varghese and Lauck, 1987), one per shard.
//!
//! A session waits in one place for the earliest of its deadlines; what the deadlines are is the
//! session's business. Entries are never taken out early: one that comes up and is no longer its
//! session's next is ignored by the caller. Hearing from a peer therefore touches no timer.

use std::time::{Duration, Instant};

use super::io::SessionKey;

/// Length of a tick: deadlines are kept to within this, and never come early.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Places on the wheel; later deadlines wait at the far end and are put back from there.
const PLACES: usize = 1024;

/// Ticks since the wheel was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tick(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// The first tick not yet taken.
    next: Tick,
    /// Sessions by the tick at which to look at them, modulo `PLACES`.
    places: Vec<Vec<(Tick, SessionKey)>>,
    /// Entries on the whole wheel.
    waiting: usize,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now, next: Tick(0), places: (0..PLACES).map(|_| Vec::new()).collect(), waiting: 0 }
    }

    /// Returns the tick that `instant` falls into.
    pub(crate) fn tick(&self, instant: Instant) -> Tick {
        let ticks = instant.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        Tick(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Puts `session` down for the tick `at`; returns the tick at which it will come up, maybe earlier.
    pub(crate) fn put(&mut self, at: Tick, session: SessionKey) -> Tick {
        let horizon = Tick(self.next.0 + PLACES as u32 - 1);
        let at = at.clamp(self.next, horizon);
        self.places[at.0 as usize % PLACES].push((at, session));
        self.waiting += 1;
        at
    }

    /// Takes the sessions that have come up by `now` into `due`.
    pub(crate) fn take_due(&mut self, now: Tick, due: &mut Vec<(Tick, SessionKey)>) {
        while self.next <= now {
            if self.waiting == 0 {
                self.next = Tick(now.0 + 1);
                return;
            }
            let place = &mut self.places[self.next.0 as usize % PLACES];
            self.waiting -= place.len();
            due.append(place);
            // A storm's memory is let go.
            if place.capacity() > 64 {
                *place = Vec::new();
            }
            self.next.0 += 1;
        }
    }

    /// Returns what is on the wheel.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Tick, SessionKey)> {
        self.places.iter().flatten().copied()
    }

    /// Returns how long nothing comes up; `None` when nothing waits.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.waiting == 0 {
            return None;
        }
        let ahead =
            (0..PLACES as u32).find(|ahead| !self.places[(self.next.0 + ahead) as usize % PLACES].is_empty())?;
        let up = self.start + TICK * (self.next.0 + ahead + 1);
        Some(up.saturating_duration_since(now))
    }
}

impl Tick {
    /// Later than every deadline: what waits for nothing.
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// Returns the tick `duration` later, rounded up: a deadline never comes early.
    pub(crate) fn after(self, duration: Duration) -> Self {
        let ticks = duration.as_millis().div_ceil(TICK.as_millis());
        Self(self.0.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)).saturating_add(1))
    }

    /// Returns the time since an earlier tick.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        TICK * self.0.saturating_sub(earlier.0)
    }

    /// Returns the latest tick from which `duration` is over now: the inverse of [`Tick::after`].
    pub(crate) fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(Self(0).after(duration).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.take_due(Tick(now), &mut due);
        due.into_iter().map(|(_, session)| session.place()).collect()
    }

    fn put(wheel: &mut Wheel, at: u32, place: u32) -> Tick {
        wheel.put(Tick(at), SessionKey::new(place, 7))
    }

    #[test]
    fn sessions_come_up_in_order_and_once() {
        let mut wheel = Wheel::new(Instant::now());
        assert_eq!(put(&mut wheel, 5, 1), Tick(5));
        assert_eq!(put(&mut wheel, 2, 2), Tick(2));
        assert_eq!(due(&mut wheel, 1), [0; 0]);
        assert_eq!(due(&mut wheel, 6), [2, 1]);
        assert_eq!(due(&mut wheel, 5000), [0; 0]);
        assert_eq!(put(&mut wheel, 3, 3), Tick(5001), "the past comes up at once");
        assert_eq!(due(&mut wheel, 5001), [3]);
    }

    #[test]
    fn what_lies_past_the_horizon_comes_up_early_to_be_put_back() {
        let mut wheel = Wheel::new(Instant::now());
        assert_eq!(put(&mut wheel, 10_000, 1), Tick(PLACES as u32 - 1));
        assert_eq!(due(&mut wheel, 2000), [1]);
    }

    #[test]
    fn idle_time_ends_when_the_next_comes_up() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        assert_eq!(wheel.idle_for(start), None);
        put(&mut wheel, 3, 1);
        assert_eq!(wheel.idle_for(start), Some(TICK * 4));
        assert_eq!(wheel.idle_for(start + TICK * 9), Some(Duration::ZERO));
    }

    #[test]
    fn deadlines_are_never_early() {
        assert_eq!(Tick(7).after(Duration::from_millis(1)), Tick(9));
        assert_eq!(Tick(7).after(TICK * 2), Tick(10));
        assert!(Tick(u32::MAX).after(Duration::MAX) == Tick(u32::MAX));
        assert_eq!(Tick(9).before(Duration::from_millis(1)), Tick(7));
        assert_eq!(Tick(10).before(TICK * 2), Tick(7));
    }
}
