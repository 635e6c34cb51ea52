//! A cache of the authentication service's answers, so that a client that reconnects at once needs no second request.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The hash of a request to the service. The cache never holds a credential.
pub(super) type Key = [u8; 32];

/// A bounded map whose entries expire; the oldest entry is evicted first.
#[derive(Debug)]
pub(super) struct Cache<T> {
    entries: HashMap<Key, (Instant, T)>,
    /// The keys in the order of insertion. A key that was inserted again is here twice; only its last time counts.
    order: VecDeque<(Instant, Key)>,
    entries_max: usize,
}

impl<T: Clone> Cache<T> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), entries_max }
    }

    /// Returns the value of `key` if it is younger than `ttl`.
    pub(super) fn get(&self, key: &Key, now: Instant, ttl: Duration) -> Option<T> {
        let (since, value) = self.entries.get(key)?;
        (now.saturating_duration_since(*since) < ttl).then(|| value.clone())
    }

    /// Inserts a value; evicts entries that are older than `ttl`, and the oldest ones past `entries_max`.
    pub(super) fn insert(&mut self, key: Key, value: T, now: Instant, ttl: Duration) {
        if ttl.is_zero() || self.entries_max == 0 {
            return;
        }
        self.entries.insert(key, (now, value));
        self.order.push_back((now, key));
        while let Some(&(since, oldest)) = self.order.front() {
            let is_old = now.saturating_duration_since(since) >= ttl;
            if !is_old && self.order.len() <= self.entries_max {
                return;
            }
            self.order.pop_front();
            if self.entries.get(&oldest).is_some_and(|(last, _)| *last == since) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    #[test]
    fn an_answer_holds_for_its_time() {
        let (mut cache, start) = (Cache::new(2), Instant::now());
        cache.insert(key(1), 'a', start, TTL);
        assert_eq!(cache.get(&key(1), start + TTL / 2, TTL), Some('a'));
        assert_eq!(cache.get(&key(1), start + TTL, TTL), None);
        assert_eq!(cache.get(&key(2), start, TTL), None);
        assert_eq!(cache.get(&key(1), start, Duration::ZERO), None, "switched off while it runs");
    }

    #[test]
    fn the_oldest_goes_first() {
        let (mut cache, start) = (Cache::new(2), Instant::now());
        for number in 1..=3 {
            cache.insert(key(number), number, start + Duration::from_millis(number.into()), TTL);
        }
        let found = [1, 2, 3].map(|number| cache.get(&key(number), start + TTL / 2, TTL));
        assert_eq!(found, [None, Some(2), Some(3)]);
        cache.insert(key(4), 4, start + TTL * 2, TTL);
        assert_eq!(
            (cache.entries.len(), cache.order.len()),
            (1, 1),
            "what is too old is not kept until it is too much"
        );
    }

    #[test]
    fn an_answer_put_in_anew_stays() {
        let (mut cache, start) = (Cache::new(2), Instant::now());
        cache.insert(key(1), 'a', start, TTL);
        cache.insert(key(1), 'b', start + TTL / 2, TTL);
        cache.insert(key(2), 'c', start + TTL, TTL);
        assert_eq!(cache.get(&key(1), start + TTL, TTL), Some('b'));
    }

    #[test]
    fn nothing_is_kept_where_it_is_switched_off() {
        let now = Instant::now();
        for (entries_max, ttl) in [(0, TTL), (2, Duration::ZERO)] {
            let mut cache = Cache::new(entries_max);
            cache.insert(key(1), 'a', now, ttl);
            assert_eq!((cache.entries.len(), cache.order.len()), (0, 0));
        }
    }
}
