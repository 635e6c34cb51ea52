//! The clocks that tests and simulations drive, for all shards of a node.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// Both clocks; time passes on both, and only the wall clock can be set.
#[derive(Debug)]
pub(super) struct Clock {
    now: Cell<Instant>,
    wall: Cell<SystemTime>,
    /// How much time passes with each look at it.
    look: Cell<Duration>,
}

impl Clock {
    /// The wall clock begins at the same second each time, so that a seed decides what it shows.
    pub(super) fn new(look: Duration) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self { now: Cell::new(Instant::now()), wall: Cell::new(wall), look: Cell::new(look) }
    }

    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn wall_time(&self) -> SystemTime {
        self.wall.get()
    }

    pub(super) fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
        self.wall.set(self.wall.get() + time);
    }

    /// Returns the time, as a shard asks for it.
    pub(super) fn look(&self) -> Instant {
        self.pass(self.look.get());
        self.now()
    }

    /// Lets `time` pass with each look.
    pub(super) fn slow_down(&self, time: Duration) {
        self.look.set(time);
    }

    /// Sets the wall clock ahead, as it also looks when the machine was suspended.
    pub(super) fn set_ahead(&self, time: Duration) {
        self.wall.set(self.wall.get() + time);
    }

    /// Sets the wall clock back.
    pub(super) fn set_back(&self, time: Duration) {
        self.wall.set(self.wall.get() - time);
    }
}
