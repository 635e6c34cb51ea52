//! A pool of empty outboxes, lent to sessions while frames wait for their sockets.
//!
//! To reuse an outbox that has grown saves a sixth of the cost of a message of 1 KiB. Outboxes that were not needed for
//! a while are freed, so that no memory is kept for a load that is over.

use std::time::{Duration, Instant};

use super::outbox::Outbox;

/// Memory that a pool keeps, in bytes.
const BYTES_MAX: usize = 4 << 20;

/// Most memory of an outbox that is kept, in bytes: that of one chunk. An outbox with more is freed.
const OUTBOX_BYTES_MAX: usize = 128 << 10;

/// Time after which outboxes that were not needed are freed, all at once.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct OutboxPool {
    #[expect(clippy::vec_box, reason = "sessions hold them boxed, so that an idle one has a pointer only")]
    empty: Vec<Box<Outbox>>,
    /// Memory they hold, in bytes.
    bytes: usize,
    /// How many, from the bottom of the stack, were not needed since the last trim.
    unused: usize,
    trimmed: Instant,
}

impl OutboxPool {
    pub(super) fn new(now: Instant) -> Self {
        Self { empty: Vec::new(), bytes: 0, unused: 0, trimmed: now }
    }

    pub(super) fn take(&mut self) -> Box<Outbox> {
        let Some(outbox) = self.empty.pop() else { return Box::default() };
        self.bytes -= outbox.retained();
        self.unused = self.unused.min(self.empty.len());
        outbox
    }

    pub(super) fn put_back(&mut self, mut outbox: Box<Outbox>) {
        outbox.clear();
        let retained = outbox.retained();
        if retained <= OUTBOX_BYTES_MAX && self.bytes + retained <= BYTES_MAX {
            self.bytes += retained;
            self.empty.push(outbox);
        }
    }

    /// Once in every [`TRIM_INTERVAL`], frees the outboxes that were not needed since the last time; returns whether it
    /// was time for that.
    pub(super) fn trim(&mut self, now: Instant) -> bool {
        if now < self.trimmed + TRIM_INTERVAL {
            return false;
        }
        self.bytes -= self.empty.drain(..self.unused).map(|outbox| outbox.retained()).sum::<usize>();
        self.empty.shrink_to(self.empty.len().max(1024));
        self.unused = self.empty.len();
        self.trimmed = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Opcode;
    use crate::message::Payload;

    /// Takes so many outboxes at once, fills each with `bytes`, and puts them back.
    fn use_at_once(pool: &mut OutboxPool, outboxes: usize, bytes: usize) {
        let mut taken: Vec<_> = (0..outboxes).map(|_| pool.take()).collect();
        for mut outbox in taken.drain(..) {
            outbox.push(Opcode::Binary, &Payload::Borrowed(&vec![0; bytes]));
            pool.put_back(outbox);
        }
    }

    #[test]
    fn keeps_outboxes_in_use_and_frees_the_rest() {
        let mut now = Instant::now();
        let mut pool = OutboxPool::new(now);
        use_at_once(&mut pool, 10, 1000);
        let full = pool.bytes;
        assert!((10_000..20_000).contains(&full), "{full}");
        // At first none has been unused for the whole time.
        for (needed, kept) in [(3, 10), (3, 3), (3, 3), (0, 0)] {
            use_at_once(&mut pool, needed, 1000);
            pool.trim(now);
            now += TRIM_INTERVAL;
            pool.trim(now);
            assert_eq!((pool.empty.len(), pool.bytes), (kept, full / 10 * kept));
        }
    }

    #[test]
    fn is_bounded() {
        let mut pool = OutboxPool::new(Instant::now());
        use_at_once(&mut pool, 1, OUTBOX_BYTES_MAX);
        assert_eq!(pool.empty.len(), 0, "grown too large");
        use_at_once(&mut pool, 100, OUTBOX_BYTES_MAX / 2);
        assert!((BYTES_MAX / 2..=BYTES_MAX).contains(&pool.bytes), "{}", pool.bytes);
    }
}
