//! The text port: a push for each line of JSON, as the inner worker of the Workerman manual takes them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Control;
use super::accept::accept;
use crate::listener::Listener;

/// Most connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1024;

/// Answers on `listener` until the future is dropped.
pub(super) async fn serve(_control: Control, listener: Listener) {
    accept(listener, None, CONNECTIONS_MAX, |mut stream, _peer| async move {
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer).await {
            if stream.write_all(b"fail\n").await.is_err() {
                return;
            }
        }
    })
    .await;
}
