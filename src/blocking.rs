//! Runs work that may never end, such as reading a file on a dead mount, outside of the threads that serve.
//!
//! The work runs on one of tokio's threads for blocking work. The caller waits at most a fixed time, and then goes on without
//! the result. A thread can't be interrupted, so it stays until its work ends; the number of such threads is bounded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Longest time to wait for the files of a reload.
pub(crate) const READ_TIME: Duration = Duration::from_secs(5);

/// Most reads of one [`BlockingWork`] that may hang at a time. More than one, because a file that hangs may have been
/// replaced by one that can be read.
const HANGING_MAX: usize = 8;

/// Runs one kind of work, such as reading the settings.
#[derive(Debug)]
pub(crate) struct BlockingWork {
    time: Duration,
    /// How much work may hang at a time.
    hanging_max: usize,
    places: Arc<Semaphore>,
}

/// Why work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfinished {
    /// The time is over. The work goes on, and its result will be dropped.
    #[error("not done within {0:?}")]
    Late(Duration),
    /// The work was not started, because too many earlier attempts hang.
    #[error("{0} earlier attempts still hang")]
    Hanging(usize),
    /// The runtime is shutting down, or the work panicked.
    #[error("given up")]
    GivenUp,
}

impl BlockingWork {
    /// Makes one that waits at most `time` for a result, and lets at most `hanging_max` attempts hang at a time.
    pub(crate) fn new(time: Duration, hanging_max: usize) -> Self {
        Self { time, hanging_max, places: Arc::new(Semaphore::new(hanging_max)) }
    }

    /// Makes one for reading files that are read again while the node runs.
    pub(crate) fn reading() -> Self {
        Self::new(READ_TIME, HANGING_MAX)
    }

    /// Runs `work` and returns its result.
    ///
    /// # Errors
    /// See [`Unfinished`].
    ///
    /// # Cancel safety
    /// When the future is dropped the work goes on, and its result is lost.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(Unfinished::Hanging(self.hanging_max));
        };
        let running = spawn_blocking(move || {
            let _place = place;
            work()
        });
        match timeout(self.time, running).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Unfinished::GivenUp),
            Err(_) => Err(Unfinished::Late(self.time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_not_waited_for_and_does_not_pile_up() {
        let work = BlockingWork::new(Duration::from_millis(10), 2);
        let hang = |until: Receiver<()>| move || until.recv().is_ok();
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (end, until) = sync_channel(0);
            assert_eq!(work.run(hang(until)).await, Err(Unfinished::Late(Duration::from_millis(10))));
            ends.push(end);
        }
        assert_eq!(work.run(|| ()).await, Err(Unfinished::Hanging(2)));
        // Work that ended makes room for other work.
        ends.pop();
        while work.places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        let work = BlockingWork { time: Duration::from_secs(60), ..work };
        assert_eq!(work.run(|| 7).await, Ok(7));
        assert_eq!(work.run(|| -> u8 { panic!("a test asked for it") }).await, Err(Unfinished::GivenUp));
    }
}
