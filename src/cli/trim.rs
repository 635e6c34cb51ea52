//! Gives the memory of a storm of connections back to the system, once the storm is over.
//!
//! The binary's allocator, mimalloc, purges freed memory only as a side effect of later calls. A
//! node that has just taken 10,000 connections may make none for a long time; half of the memory that it holds
//! then was freed by the handshakes. The end of a thread is such a call, so a thread is started and ended. (The
//! allocator's own functions for this are unsafe; this crate has no unsafe code.)

use std::thread;
use std::time::Duration;

use crate::server::Handle;

/// How often to look whether connections have come or gone: longer than mimalloc's delay of one second.
const LOOK: Duration = Duration::from_millis(1500);

/// Looks for ever; trims when the number of connections has changed and then stayed the same.
pub(super) async fn after_storms(handle: Handle) {
    let mut seen = (handle.logins(), handle.connections());
    let mut is_settling = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = (handle.logins(), handle.connections());
        if now != seen {
            (seen, is_settling) = (now, true);
        } else if is_settling {
            is_settling = false;
            // If the thread can't be started, the memory is kept; nothing else is lost.
            thread::Builder::new().name("pombo-trim".to_owned()).spawn(|| {}).ok();
        }
    }
}
