//! The end of a connection whose peer may still be sending, so that what was sent to it last arrives.
//!
//! Closing a socket with input unread would send an RST, and the peer might never see the last answer (RFC 9112, section
//! 9.6). Sessions, which belong to a shard, end the same way, in steps of its loop.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Room for one read of what is thrown away.
const READ_BYTES: usize = 4 << 10;

/// Ends sending, then reads and throws away up to `bytes_max` bytes, until the peer ends. The caller bounds the time.
///
/// # Errors
/// When the connection is lost.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes_max: usize) -> io::Result<()> {
    stream.shutdown().await?;
    // Not in the future, which every connection's task has room for.
    let mut scratch = vec![0; READ_BYTES];
    let mut left = bytes_max;
    while left > 0 {
        match stream.read(&mut scratch).await? {
            0 => break,
            length => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn ends_sending_first_and_then_reads_until_the_peer_ends() {
        let (mut ours, mut peer) = duplex(64);
        ours.write_all(b"last words").await.expect("there is room");
        let peer = async move {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).await.expect("sending ends");
            // More than the pipe has room for.
            peer.write_all(&[b'x'; 1000]).await.expect("all is read");
            received
        };
        let (ended, received) =
            timeout(LONG, async { tokio::join!(linger(&mut ours, usize::MAX), peer) }).await.expect("in time");
        ended.expect("the peer ended");
        assert_eq!(received, b"last words");
    }

    #[tokio::test]
    async fn reads_no_more_than_its_bound() {
        let (mut ours, mut peer) = duplex(10_000);
        peer.write_all(&[b'x'; 10_000]).await.expect("there is room");
        // The peer stays, and does not end.
        timeout(LONG, linger(&mut ours, 5000)).await.expect("the bound ends it").expect("the pipe is whole");
        drop(ours);
        peer.write_all(b"x").await.expect_err("nobody reads");
    }
}
