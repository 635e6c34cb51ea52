//! The text port: a push for each line of JSON, as the inner worker of the Workerman manual takes them.
//!
//! ```text
//!   {"uid":"alice","percent":"88%"}   ─▶   ok      a session took the line, as it is
//!   {"uid":"nobody"}                  ─▶   fail
//! ```
//! A task for each connection, which stays as long as its client likes, and nobody else needs its place. The lines of one read go to the shards together,
//! and their answers leave in one write; meanwhile nothing more is read, so who is behind with its answers, or sends
//! faster than the shards take, is held up through TCP.

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

/// Most connections at a time; for another, the one that waits longest for its client is closed.
const CONNECTIONS_MAX: usize = 1024;

/// Room for one read: of a connection that is idle, and of one whose reads fill it.
const READ_BYTES: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;

/// Most lines at a time that are longer than [`READ_BYTES_MAX`]; others wait, and are not read.
const LONG_LINES_MAX: usize = 32;

/// Time that such a line may take to arrive, from when it has its place.
const LONG_LINE_TIME: Duration = Duration::from_secs(60);

/// Time that a client may take to make room for its answers.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Time and bytes of input that a connection is given to end by itself, so that its client sees the last answer.
const END_TIME: Duration = Duration::from_secs(5);
const END_BYTES_MAX: usize = 16 << 20;

/// Answers on `listener` until the sender of `ending` is dropped, and then nobody new; who is there to the end of what was
/// received.
pub(super) async fn serve(control: Control, listener: Listener, ending: watch::Receiver<()>) {
    let long_lines = Arc::new(Semaphore::new(LONG_LINES_MAX));
    let (open, ended) = (control.open.clone(), ending.clone());
    let reserve = control.reserve.clone();
    // Nobody probes this port.
    accept(
        listener,
        None,
        Slots::new(CONNECTIONS_MAX, 0, control.counts.clone()),
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

/// One client, and what it has sent that is not answered.
struct Connection {
    control: Control,
    stream: Duplex,
    slot: Slot,
    /// Tells by its sender's drop that the node ends.
    ending: watch::Receiver<()>,
    /// Received and not taken yet: the begin of a line, except between a read and [`gather`].
    lines: Lines,
    /// Bytes that the next read may take; grows while reads fill it.
    room: usize,
    /// Slots for long lines, of all connections.
    long_lines: Arc<Semaphore>,
    /// The place that the line being received has, if it is long, and until when it has it.
    long_line: Option<(OwnedSemaphorePermit, Instant)>,
}

/// What follows the lines that were gathered.
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
    /// Answers every line until the client ends.
    ///
    /// What follows the last line's end is answered `fail` then, and goes nowhere: it may be half of a line.
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
            let has_lines = !gathered.asked.is_empty();
            self.push(gathered, next).await?;
            if next != Next::Lines {
                return self.end().await;
            }
            let gives_slot_back = has_lines && self.long_line.take().is_some();
            if gives_slot_back || (self.lines.held() == 0 && self.room == READ_BYTES) {
                // Without the memory that the long line needed; or the next line may be long in coming.
                self.lines.shrink();
            }
        }
    }

    /// Receives what is there, or waits; returns 0 at the client's end. Nothing is lost by dropping the future.
    async fn read(&mut self) -> io::Result<usize> {
        if self.lines.held() > READ_BYTES_MAX && self.long_line.is_none() {
            let slots = Arc::clone(&self.long_lines);
            let slot = slots.acquire_owned().await.expect("the semaphore is never closed");
            self.long_line = Some((slot, Instant::now() + LONG_LINE_TIME));
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

    /// Has the lines delivered, and answers each.
    ///
    /// # Errors
    /// When the answers are not read in time; or when it can't be told what became of a line, which no answer would say.
    async fn push(&mut self, lines: Gathered, next: Next) -> io::Result<()> {
        if lines.asked.is_empty() && next == Next::Lines {
            return Ok(());
        }
        self.slot.serves_request();
        let mut deliveries = match lines.pushes.is_empty() {
            true => Vec::new(),
            false => self.control.counts.push_all(&self.control.dispatcher_in_time(), lines.pushes).await,
        }
        .into_iter();
        let refused = lines.asked.iter().filter(|is_asked| !**is_asked).count() + usize::from(next != Next::Lines);
        if refused > 0 {
            self.control.counts.note_text_refused(refused);
        }
        let mut answers = Vec::with_capacity(lines.asked.len() * 4);
        for is_asked in lines.asked {
            let delivery = if is_asked { deliveries.next() } else { None };
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

    /// Ends a connection whose client has more to say.
    async fn end(mut self) -> io::Result<()> {
        timeout(END_TIME, linger(&mut self.stream, END_BYTES_MAX)).await?
    }
}

/// Lines that were received together.
#[derive(Debug, Default)]
struct Gathered {
    /// For each whether a push stands for it; else it failed by itself.
    asked: Vec<bool>,
    /// What goes to the shards, in order.
    pushes: Vec<Push>,
}

/// Takes the lines that were received; up to the first that is too long or of another protocol.
fn gather(lines: &mut Lines, line_bytes_max: usize) -> (Gathered, Next) {
    let mut gathered = Gathered::default();
    while let Some(line) = lines.next(line_bytes_max) {
        let Line::Whole(line) = line else { return (gathered, Next::Cut) };
        let uid = receiver(&line);
        if uid.is_none() && is_of_another_protocol(&line) {
            return (gathered, Next::Foreign);
        }
        gathered.asked.push(uid.is_some());
        if let Some(uid) = uid {
            // A copy, since the line shares the memory of all that was received with it.
            gathered.pushes.push(Push { uid, kind: Kind::Text, payload: Bytes::copy_from_slice(&line) });
        }
    }
    (gathered, Next::Lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(received: &str, asked: &[bool], payloads: &[&str], next: Next) {
        let mut lines = Lines::default();
        lines.received().extend_from_slice(received.as_bytes());
        let (lines, found) = gather(&mut lines, 20);
        let gathered: Vec<_> = lines.pushes.iter().map(|push| push.payload.to_vec()).collect();
        assert_eq!((lines.asked.as_slice(), found), (asked, next), "{received:?}");
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
