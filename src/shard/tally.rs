//! Counts what is set out on its way, so that tests can prove that something became of all of it.
//!
//! Outside tests nothing is counted.

pub(super) use switch::*;

#[cfg(not(test))]
mod switch {
    pub(in crate::shard) fn unicast() {}
    pub(in crate::shard) fn broadcast() {}
    pub(in crate::shard) fn reached(_sessions: usize) {}
    pub(in crate::shard) fn held(_bytes: usize) {}
}

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    /// Counted on this thread since the last [`take`].
    #[derive(Clone, Copy, Debug, Default)]
    pub(in crate::shard) struct Count {
        /// Messages of clients to one uid.
        pub(in crate::shard) unicasts: u64,
        /// Messages of clients to everybody.
        pub(in crate::shard) broadcasts: u64,
        /// Messages to a uid that had a session or several.
        pub(in crate::shard) reached: u64,
        /// Those, once for each of the sessions.
        pub(in crate::shard) tried: u64,
        /// Most bytes that the sessions of a shard held at any moment.
        pub(in crate::shard) held_max: usize,
    }

    thread_local! {
        static COUNT: Cell<Count> = const { Cell::new(Count { unicasts: 0, broadcasts: 0, reached: 0, tried: 0, held_max: 0 }) };
    }

    fn add(change: impl FnOnce(&mut Count)) {
        let mut count = COUNT.get();
        change(&mut count);
        COUNT.set(count);
    }

    pub(in crate::shard) fn take() -> Count {
        COUNT.take()
    }

    pub(in crate::shard) fn unicast() {
        add(|count| count.unicasts += 1);
    }

    pub(in crate::shard) fn broadcast() {
        add(|count| count.broadcasts += 1);
    }

    pub(in crate::shard) fn held(bytes: usize) {
        add(|count| count.held_max = count.held_max.max(bytes));
    }

    pub(in crate::shard) fn reached(sessions: usize) {
        add(|count| {
            count.reached += 1;
            count.tried += sessions as u64;
        });
    }
}
