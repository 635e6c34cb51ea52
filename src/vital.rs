//! Tasks and threads without which the node would be half a node: a panic in one ends the process, loudly. tokio would end
//! the task alone, and say nothing.
//!
//! What concerns one connection is no such task: a bad peer ends its own connection only.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::{process, thread};

use futures_util::FutureExt as _;
use tracing::error;

use crate::log_sink::LogSink;

/// How long the log's last lines may take to get out, before a panic ends the process.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);

/// Watches over what the node can't do without; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Vital {
    /// Whose last lines are waited for, if the program says where its log goes.
    log: Option<LogSink>,
}

impl Vital {
    pub(crate) fn new(log: Option<LogSink>) -> Self {
        Self { log }
    }

    /// Makes `task`, which `name` says in the log, one that the node can't do without; to be spawned.
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

    /// Runs `body` on this thread, which the node can't do without.
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
