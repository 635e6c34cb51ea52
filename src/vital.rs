//! Vital tasks and threads: a panic in one of them is logged, and ends the process, because half a node is worse than none.
//! tokio alone would end only the task, without a word.
//!
//! A task for one connection is not vital: a bad peer ends its own connection only.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::{process, thread};

use futures_util::FutureExt as _;
use tracing::error;

use crate::log_sink::LogSink;

/// Longest wait for the log's last lines to be written, before a panic ends the process.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);

/// Runs vital tasks and threads; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Vital {
    /// The log whose last lines must be written before the process ends, if the program has named one.
    log: Option<LogSink>,
}

impl Vital {
    pub(crate) fn new(log: Option<LogSink>) -> Self {
        Self { log }
    }

    /// Wraps `task` so that a panic in it ends the process; the caller spawns it. `name` is for the log.
    pub(crate) fn task<T, F: Future<Output = T> + Send>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = T> + Send + use<T, F> {
        let vital = self.clone();
        AssertUnwindSafe(task).catch_unwind().map(move |ended| {
            ended.unwrap_or_else(|_| {
                error!(task = name, "a task that the node needs panicked, the process ends");
                vital.end_process()
            })
        })
    }

    /// Runs `body` on this thread; a panic in it ends the process.
    pub(crate) fn run(&self, body: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            let thread = thread::current();
            error!(thread = thread.name(), "a thread of the node panicked, the process ends");
            self.end_process();
        }
    }

    fn end_process(&self) -> ! {
        if let Some(log) = &self.log {
            log.settle(LAST_LINES_TIME);
        }
        process::abort()
    }
}
