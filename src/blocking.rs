//! Work that may never end, such as reading a file on a mount that is dead, kept off the threads that serve.
//!
//! The work runs on a thread of tokio's for blocking work. Whoever asked waits at most a fixed time, and goes on with what
//! it has. A thread can't be interrupted, so it stays as long as its work does; how many may stay is bounded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Longest time that the files of a reload are waited for.
pub(crate) const READ_TIME: Duration = Duration::from_secs(5);

/// Most reads that may hang at a time, for each of those who read: the file may have been replaced by one that answers.
pub(crate) const HANGING_MAX: usize = 8;

/// Time to the next look at a file that hangs.
pub(crate) const HANGING_INTERVAL: Duration = Duration::from_secs(10);

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
    /// It goes on, and its result will be dropped.
    #[error("not done within {0:?}")]
    Late(Duration),
    /// It was not begun, because too much of earlier work hangs.
    #[error("{0} earlier attempts still hang")]
    Hanging(usize),
    /// The runtime ends, or the work panicked.
    #[error("given up")]
    GivenUp,
}

impl BlockingWork {
    /// Makes one whose work is waited for no longer than `time`, and of which no more than `hanging_max` may hang at a time.
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

/// Decides when a file is read again: when somebody asks, and when its stamp has changed and changes no more.
///
/// A change counts when two looks in a row find the same stamp: the file may be half written. A read that was not finished is asked
/// for again at the next look, whatever the stamp is then.
#[derive(Debug)]
pub(crate) struct Rereads<S> {
    seen: S,
    /// The stamp of what was read last.
    read: S,
    is_asked: bool,
}

impl<S: Copy + PartialEq> Rereads<S> {
    /// Begins with what was read at the start.
    pub(crate) fn new(read: S) -> Self {
        Self { seen: read, read, is_asked: false }
    }

    /// Has the file read at the next look.
    pub(crate) fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Takes note of the stamp that a look has found; says whether the file is to be read now.
    pub(crate) fn is_due(&mut self, stamp: S) -> bool {
        let has_settled = std::mem::replace(&mut self.seen, stamp) == stamp;
        self.is_asked || (has_settled && self.read != stamp)
    }

    /// Takes note that the file was read, well or not, or that the read was not finished; returns the time to the next look,
    /// or `look_interval`.
    pub(crate) fn note<T>(&mut self, read: &Result<T, Unfinished>, look_interval: Duration) -> Duration {
        self.is_asked = read.is_err();
        if self.is_asked {
            return HANGING_INTERVAL;
        }
        self.read = self.seen;
        look_interval
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    /// A read that was given up counted as done: the file was not read again before it changed once more.
    #[test]
    fn a_file_whose_read_was_given_up_is_read_again() {
        let look = Duration::from_secs(1);
        let mut rereads = Rereads::new(1);
        assert!(!rereads.is_due(1));
        assert!(!rereads.is_due(2), "it may be half written");
        assert!(rereads.is_due(2));
        assert_eq!(rereads.note::<()>(&Err(Unfinished::GivenUp), look), HANGING_INTERVAL);
        assert!(rereads.is_due(2), "nobody has read it");
        assert_eq!(rereads.note(&Ok(()), look), look);
        assert!(!rereads.is_due(2));
        rereads.ask();
        assert!(rereads.is_due(2));
        rereads.note::<()>(&Err(Unfinished::Late(look)), look);
        assert!(rereads.is_due(3), "it was asked for, and not read");
        rereads.note(&Ok(()), look);
        assert!(!rereads.is_due(3));
    }

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
