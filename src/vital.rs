//! Tasks without which the node would be half a node: a panic in one ends the process, as a panic in a thread of the node
//! does. tokio would end the task alone, and say nothing.
//!
//! What concerns one connection is no such task: a bad peer ends its own connection only.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process;

use futures_util::FutureExt as _;
use tracing::error;

/// Makes `task`, which `name` says in the log, one that the node can't do without; to be spawned.
pub(crate) async fn vital<T>(name: &'static str, task: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(output) => output,
        Err(_) => {
            error!(task = name, "a task that the node needs panicked, the process ends");
            process::abort()
        }
    }
}
