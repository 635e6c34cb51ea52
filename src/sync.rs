//! Atomics for the one lock-free protocol of the crate, switched to loom's when it is modelled.
//!
//! Only [`crate::mailbox::Doorbell`] takes its atomics from here. The model is built with
//! `RUSTFLAGS="--cfg pombo_loom"`: a cfg of our own, because tokio reacts to `--cfg loom`.

/// The two fences of the wake protocol, by place.
///
/// Named so that the model can leave one out and show that the wake is then lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// Between publishing work and looking at the sleeper's flag.
    Publish,
    /// Between raising the sleeper's flag and looking for work once more.
    Sleep,
}

#[cfg(not(pombo_loom))]
mod switch {
    pub(crate) use std::sync::atomic::{AtomicU8, Ordering};

    /// Orders everything before it against everything behind it, across threads.
    #[inline]
    pub(crate) fn fence(_place: super::Fence) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(pombo_loom)]
mod switch {
    use std::cell::Cell;

    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};

    use super::Fence;

    thread_local! {
        static LEFT_OUT: Cell<Option<Fence>> = const { Cell::new(None) };
    }

    /// Leaves the fence at `place` out of every model run by this thread from now on.
    #[cfg(test)]
    pub(crate) fn leave_out(place: Fence) {
        LEFT_OUT.set(Some(place));
    }

    /// Orders everything before it against everything behind it, unless left out.
    pub(crate) fn fence(place: Fence) {
        if LEFT_OUT.get() != Some(place) {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }
}

pub(crate) use switch::*;
