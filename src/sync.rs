//! Atomics for the one lock-free protocol of the crate: std's, or loom's in the model.
//!
//! Only [`crate::mailbox::Doorbell`] takes its atomics from here. The model is built with
//! `RUSTFLAGS="--cfg pombo_loom"`: a cfg of our own, because tokio reacts to `--cfg loom`.

/// The fences of the wake protocol.
///
/// They have names so that the model can leave one out and show that the wake is then lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Between publishing work and looking at the sleeper's flag.
    Publish,
    /// Between raising the sleeper's flag and looking for work once more.
    Sleep,
    /// Between marking a shard as ended and looking for mail for the last time.
    End,
}

#[cfg(not(pombo_loom))]
mod switch {
    pub(crate) use std::sync::atomic::{AtomicU8, Ordering};

    /// Orders everything before it against everything after it, across threads.
    #[inline]
    pub(crate) fn fence(_place: super::Fence) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(pombo_loom)]
mod switch {
    use std::cell::Cell;

    pub(crate) use loom::sync::atomic::Ordering;

    use super::Fence;

    /// Loom's atomic, with all its stores in one order.
    ///
    /// Loom orders two stores only if their threads have synchronized. So it lets a reader find an older value
    /// than the reader must see: no store may come between a read-modify-write and the store that it read
    /// (C++20, [atomics.order]). A swap instead of a store puts every store into that one order. The swap's read does not
    /// strengthen the model: it is relaxed, and the order that a later fence could derive from it, loom's sequentially
    /// consistent fences give anyway.
    #[derive(Debug)]
    pub(crate) struct AtomicU8(loom::sync::atomic::AtomicU8);

    impl AtomicU8 {
        pub(crate) fn new(value: u8) -> Self {
            Self(loom::sync::atomic::AtomicU8::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u8 {
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: u8, order: Ordering) {
            self.0.swap(value, order);
        }

        pub(crate) fn swap(&self, value: u8, order: Ordering) -> u8 {
            self.0.swap(value, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u8,
            new: u8,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u8, u8> {
            self.0.compare_exchange(current, new, success, failure)
        }
    }

    thread_local! {
        static LEFT_OUT: Cell<Option<Fence>> = const { Cell::new(None) };
    }

    /// Leaves the fence at `place`, or none, out of every model that this thread runs from now on.
    #[cfg(test)]
    pub(crate) fn leave_out(place: Option<Fence>) {
        LEFT_OUT.set(place);
    }

    /// Orders everything before it against everything after it, unless left out.
    pub(crate) fn fence(place: Fence) {
        if LEFT_OUT.get() != Some(place) {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }
}

pub(crate) use switch::*;
