//! What a service manager is told of a node, by the protocol of sd_notify(3); without one, nothing is.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};
use tracing::error;

use crate::server::Handle;

/// Says that the node runs.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Says that the settings are read again; [`ready`] says that they were.
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    notify(&[NotifyState::Reloading, now.unwrap_or(NotifyState::Custom(""))]);
}

/// Says that the node drains.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, if there is one, as long as every shard answers; for ever.
pub(super) async fn feed_watchdog(handle: Handle) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    // Twice in its time, as sd_watchdog_enabled(3) recommends, and at least a little apart.
    let interval = (patience / 2).max(Duration::from_millis(10));
    loop {
        match timeout(interval, handle.stats()).await {
            Ok(_) => notify(&[NotifyState::Watchdog]),
            Err(_) => error!(patience = ?interval, "a shard does not answer, the watchdog is not fed"),
        }
        sleep(interval).await;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        error!(error = %error, "cannot tell the service manager");
    }
}
