//! The text port: a push for each line of JSON, as the inner worker of the Workerman manual takes them.
//!
//! ```text
//!   {"uid":"alice","percent":"88%"}   ─▶   ok      a session took the line, as it is
//!   {"uid":"nobody"}                  ─▶   fail
//! ```
//! Each connection is a task. It stays open until its client leaves or another connection needs its slot. The lines of one
//! read go to the shards together, and their answers go out in one write. Nothing is read meanwhile, so TCP slows a client
//! that doesn't read its answers, or sends faster than the shards work.

mod line;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use self::line::{is_of_another_protocol, receiver};
use super::Control;
use super::accept::{Duplex, accept};
use super::lines::{Line, Lines};
use super::slots::{Slot, Slots};
use crate::dispatcher::{Push, Unanswered};
use crate::linger::linger;
use crate::listener::Listener;
use crate::message::{Delivery, Kind};

/// Most connections at a time; for another, the connection that has waited longest for its client is closed.
const CONNECTIONS_MAX: usize = 1024;

/// Bytes of one read: for an idle connection, and at most, for one whose reads fill their buffer.
const READ_BYTES: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;

/// Most lines longer than [`READ_BYTES_MAX`] that are received at a time. A connection with another one waits, and doesn't read.
const LONG_LINES_MAX: usize = 32;

/// Time for such a line to arrive, from when it has its permit.
const LONG_LINE_TIME: Duration = Duration::from_secs(60);

/// Time for a client to take its answers.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Time, and bytes of input, until a client ends its sending after the last answer. Closing before could lose that answer.
const END_TIME: Duration = Duration::from_secs(5);
const END_BYTES_MAX: usize = 16 << 20;

/// Serves connections on `listener` until the sender of `ending` is dropped. Then accepts no more, and answers the lines that
/// were received.
pub(super) async fn serve(control: Control, listener: Listener, ending: watch::Receiver<()>) {
    let long_lines = Arc::new(Semaphore::new(LONG_LINES_MAX));
    let (open, ended) = (control.open.clone(), ending.clone());
    let reserve = control.reserve.clone();
    // No probe slots: this port answers no probes.
    accept(
        listener,
        None,
        Slots::new(CONNECTIONS_MAX, 0, control.occupants.clone()),
        reserve,
        &open,
        ending,
        move |stream, _peer, slot| {
            let connection = Connection {
                control: control.clone(),
                stream,
                slot,
                ending: ended.clone(),
                lines: Lines::default(),
                room: READ_BYTES,
                long_lines: Arc::clone(&long_lines),
                long_line: None,
            };
            async move {
                if let Err(error) = connection.run().await {
                    debug!(error = %error, "text connection lost");
                }
            }
        },
    )
    .await;
}

/// A connection, with the input that is not answered.
struct Connection {
    control: Control,
    stream: Duplex,
    slot: Slot,
    /// Its sender is dropped when the node ends.
    ending: watch::Receiver<()>,
    /// Input that was received. Between [`gather`] and the next read it is the begin of one line.
    lines: Lines,
    /// Bytes that the next read may take; grows while reads fill their buffer.
    room: usize,
    /// Permits for long lines, shared by all connections.
    long_lines: Arc<Semaphore>,
    /// The permit of the line being received, if it is long, and the deadline for its end.
    long_line: Option<(OwnedSemaphorePermit, Instant)>,
}

/// What follows the gathered lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// More lines.
    Lines,
    /// Nothing: a line is too long, or never ends, and gets the last `fail`.
    Cut,
    /// Nothing: a line is of another protocol, and is not answered.
    Foreign,
}

impl Connection {
    /// Answers every line until the client ends its sending.
    ///
    /// Input behind the last line end is answered `fail` and not pushed, since it may be an incomplete line.
    async fn run(mut self) -> io::Result<()> {
        loop {
            let mut ending = self.ending.clone();
            let length = tokio::select! {
                biased;
                _ = ending.changed() => return self.stream.shutdown().await,
                length = self.read() => length?,
            };
            if length == 0 {
                if self.lines.held() > 0 {
                    self.control.counts.note_text_refused(1);
                    self.answer(b"fail\n").await?;
                }
                return self.stream.shutdown().await;
            }
            let line_bytes_max = self.control.settings.borrow().push_bytes_max;
            let (gathered, next) = gather(&mut self.lines, line_bytes_max);
            let has_lines = !gathered.has_push.is_empty();
            self.push(gathered, next).await?;
            if next != Next::Lines {
                return self.end().await;
            }
            let frees_permit = has_lines && self.long_line.take().is_some();
            if frees_permit || (self.lines.held() == 0 && self.room == READ_BYTES) {
                // A long line has been answered, or the connection may be idle for long: free the memory.
                self.lines.shrink();
            }
        }
    }

    /// Receives input, or waits for it; returns 0 when the client has ended its sending.
    ///
    /// # Cancel safety
    /// A dropped future loses no input.
    async fn read(&mut self) -> io::Result<usize> {
        if self.lines.held() > READ_BYTES_MAX && self.long_line.is_none() {
            let permits = Arc::clone(&self.long_lines);
            let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
            self.long_line = Some((permit, Instant::now() + LONG_LINE_TIME));
        }
        self.lines.received().reserve(self.room);
        let mut stream = (&mut self.stream).take(self.room as u64);
        let reading = stream.read_buf(self.lines.received());
        let length = match &self.long_line {
            Some((_, deadline)) => timeout_at(*deadline, reading).await??,
            None => reading.await?,
        };
        self.room = if length == self.room { (self.room * 2).min(READ_BYTES_MAX) } else { READ_BYTES };
        Ok(length)
    }

    /// Pushes the lines, and answers each.
    ///
    /// # Errors
    /// When the client doesn't take the answers in time; or when the outcome of a line is unknown, for which there is no answer.
    async fn push(&mut self, lines: Gathered, next: Next) -> io::Result<()> {
        if lines.has_push.is_empty() && next == Next::Lines {
            return Ok(());
        }
        self.slot.serves_request();
        let mut deliveries = match lines.pushes.is_empty() {
            true => Vec::new(),
            false => self.control.counts.push_all(&self.control.dispatcher_in_time(), lines.pushes).await,
        }
        .into_iter();
        let refused = lines.has_push.iter().filter(|has_push| !**has_push).count() + usize::from(next != Next::Lines);
        if refused > 0 {
            self.control.counts.note_text_refused(refused);
        }
        let mut answers = Vec::with_capacity(lines.has_push.len() * 4);
        for has_push in lines.has_push {
            let delivery = if has_push { deliveries.next() } else { None };
            if delivery == Some(Err(Unanswered::Silent)) {
                self.answer(&answers).await?;
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a shard has not answered"));
            }
            let is_taken = matches!(delivery, Some(Ok(Delivery::Delivered { .. })));
            answers.extend_from_slice(if is_taken { b"ok\n" } else { b"fail\n" });
        }
        if next == Next::Cut {
            answers.extend_from_slice(b"fail\n");
        }
        if next == Next::Foreign {
            debug!("text connection closed, its client speaks HTTP or another protocol");
        }
        self.slot.awaits_request();
        self.answer(&answers).await
    }

    async fn answer(&mut self, answers: &[u8]) -> io::Result<()> {
        timeout(ANSWER_TIME, self.stream.write_all(answers)).await?
    }

    /// Ends a connection whose client may still be sending.
    async fn end(mut self) -> io::Result<()> {
        timeout(END_TIME, linger(&mut self.stream, END_BYTES_MAX)).await?
    }
}

/// The lines of one read.
#[derive(Debug, Default)]
struct Gathered {
    /// For each line, whether it has a push; if not, it is answered `fail`.
    has_push: Vec<bool>,
    /// The pushes of the lines that have one, in order.
    pushes: Vec<Push>,
}

/// Takes the lines that were received, up to the first that is too long or of another protocol.
fn gather(lines: &mut Lines, line_bytes_max: usize) -> (Gathered, Next) {
    let mut gathered = Gathered::default();
    while let Some(line) = lines.next(line_bytes_max) {
        let Line::Whole(line) = line else { return (gathered, Next::Cut) };
        let uid = receiver(&line);
        if uid.is_none() && is_of_another_protocol(&line) {
            return (gathered, Next::Foreign);
        }
        gathered.has_push.push(uid.is_some());
        if let Some(uid) = uid {
            // Copied: the line shares the memory of the whole receive buffer.
            gathered.pushes.push(Push { uid, kind: Kind::Text, payload: Bytes::copy_from_slice(&line) });
        }
    }
    (gathered, Next::Lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received: &str, has_push: &[bool], payloads: &[&str], next: Next) {
        let mut lines = Lines::default();
        lines.received().extend_from_slice(received.as_bytes());
        let (lines, found) = gather(&mut lines, 20);
        let gathered: Vec<_> = lines.pushes.iter().map(|push| push.payload.to_vec()).collect();
        assert_eq!((lines.has_push.as_slice(), found), (has_push, next), "{received:?}");
        let expected: Vec<_> = payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect();
        assert_eq!(gathered, expected, "{received:?}");
    }

    #[test]
    fn lines_are_taken_without_their_ends() {
        check("{\"uid\":1}\n", &[true], &["{\"uid\":1}"], Next::Lines);
        check("{\"uid\":1}\r\n {\"uid\":2}\r\r\n", &[true, true], &["{\"uid\":1}", " {\"uid\":2}"], Next::Lines);
        check("{\"uid\":1}\n{\"uid\":2}", &[true], &["{\"uid\":1}"], Next::Lines);
        check("\n\r\nx\n{\"uid\":1}\n", &[false, false, false, true], &["{\"uid\":1}"], Next::Lines);
    }

    #[test]
    fn nothing_is_taken_behind_a_line_of_another_protocol() {
        check("{\"uid\":1}\nGET / HTTP/1.1\r\n{\"uid\":2}\n", &[true], &["{\"uid\":1}"], Next::Foreign);
        check("x\nHost: x\nx\n", &[false], &[], Next::Foreign);
        check("{\"uid\":\" HTTP/\"}\n", &[true], &["{\"uid\":\" HTTP/\"}"], Next::Lines);
    }

    #[test]
    fn nothing_is_taken_behind_a_line_that_is_too_long() {
        let (longest, longer) = (format!("{{\"uid\":{}}}", "1".repeat(12)), format!("{{\"uid\":{}}}", "1".repeat(13)));
        let received = format!("{longest}\r\n{longer}\n{longest}\n");
        check(&received, &[true], &[&longest], Next::Cut);
        check(&format!("{longest}\n"), &[true], &[&longest], Next::Lines);
        check(&longer, &[], &[], Next::Cut);
        // The line feed may come with the next read.
        check(&format!("{longest}\r"), &[], &[], Next::Lines);
    }
}
