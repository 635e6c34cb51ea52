//! Gives the memory of a storm of connections back to the system, once the storm is over.
//!
//! The binary's allocator, mimalloc, purges what was freed only as a side effect of later use, and a
//! node that has just taken 10,000 connections may have none for a long time: half of what it holds
//! then is what the handshakes freed. A thread's end is such a use, so one is started and ended. (The
//! allocator's own calls for this are unsafe; this crate has no unsafe code.)

use std::thread;
use std::time::Duration;

use crate::server::Handle;

/// How often to look whether connections have come or gone: longer than mimalloc's delay of one second.
const LOOK: Duration = Duration::from_millis(1500);

/// Looks again and again, for ever; trims when connections had come or gone and then did no more.
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
            // Failing to start it costs memory, nothing else.
            thread::Builder::new().name("pombo-trim".to_owned()).spawn(|| {}).ok();
        }
    }
}
