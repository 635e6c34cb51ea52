//! Writes log lines to a stream that may block: a bounded queue, and one thread that writes.
//!
//! ```text
//!   any thread ──write──▶ queue, bounded in lines and bytes ──▶ the sink's thread ──▶ standard error
//! ```
//! A pipe that nobody reads, or a terminal that is stopped, makes a write wait for ever. Only the sink's own thread waits
//! for that. A line is dropped and counted if the queue is full or the stream refuses it; once the stream takes lines
//! again, one line reports how many were dropped.
//!
//! Why not tracing-appender: its guard prints to standard error when the last lines are not written in time, and so
//! waits for the very stream that is stuck. Its queue is not bounded in bytes, and it can't be flushed before an abort.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::warn;

/// Most lines that wait to be written.
const LINES_MAX: usize = 8192;

/// Most bytes of lines that wait to be written.
const BYTES_MAX: usize = 4 << 20;

/// Least time between two reports of dropped lines, while the stream takes lines more slowly than they come.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Pause before the next attempt on a stream that returns `WouldBlock`: another process that shares it has made it
/// non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// Writes lines to a stream without ever waiting for it; clones write to the same stream.
///
/// # Examples
/// ```
/// use std::io::Write as _;
/// use std::time::Duration;
///
/// let mut log = pombo::LogSink::start("log", std::io::stderr())?;
/// log.write_all(b"a whole line\n")?;
/// log.settle(Duration::from_secs(1));
/// assert_eq!(log.dropped(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogSink {
    queue: Sender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// Dropped by the sink's thread when all lines before it are written or dropped.
    Settle(#[expect(dead_code, reason = "its end is the message")] Sender<Infallible>),
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines that were not written, since the start.
    dropped: AtomicU64,
    /// Bytes of the lines in the queue, and of the line that is being written.
    bytes: AtomicUsize,
    /// The thread that writes.
    thread: OnceLock<ThreadId>,
    /// Lines that the sink's own thread logs. They bypass the queue, which may be full.
    own: Mutex<Vec<u8>>,
}

impl LogSink {
    /// Starts the thread that writes to `stream`, under this name. It ends with the last clone of the sink.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(name: &str, stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = bounded(LINES_MAX);
        let counts = Arc::<Counts>::default();
        let mut writer = Writer { stream, counts: Arc::clone(&counts), reported: 0, reported_at: None };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&entries))?;
        Ok(Self { queue, counts })
    }

    /// Returns how many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped()
    }

    /// Waits until all lines that were written before are out, and at most `time`.
    pub fn settle(&self, time: Duration) {
        let by = Instant::now() + time;
        let (settle, settled) = bounded(0);
        if self.queue.send_deadline(Entry::Settle(settle), by).is_ok() {
            // Nothing is ever sent.
            settled.recv_deadline(by).ok();
        }
    }

    fn queue(&self, line: &[u8]) {
        if self.counts.thread.get() == Some(&thread::current().id()) {
            self.counts.own.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
            return;
        }
        // Relaxed: a sum to compare with a bound; the queue orders the lines.
        let waiting = self.counts.bytes.fetch_add(line.len(), Ordering::Relaxed) + line.len();
        if waiting > BYTES_MAX || self.queue.try_send(Entry::Line(line.into())).is_err() {
            self.counts.release(line.len());
            self.counts.drop_line();
        }
    }
}

/// Takes one or more whole lines with each call of `write`; never waits and never fails.
impl Write for LogSink {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.queue(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Counts {
    fn dropped(&self) -> u64 {
        // Relaxed: a statistic.
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_line(&self) {
        // Relaxed: a statistic.
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, bytes: usize) {
        // Relaxed: see `queue`.
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The state of the sink's thread.
struct Writer<W> {
    stream: W,
    counts: Arc<Counts>,
    /// How many dropped lines were reported so far.
    reported: u64,
    /// When that was; `None` before the first report.
    reported_at: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, entries: &Receiver<Entry>) {
        self.counts.thread.get_or_init(|| thread::current().id());
        for entry in entries {
            // Dropping a `Settle` entry signals its sender that the lines before it are written.
            let Entry::Line(line) = entry else { continue };
            let written = write_whole(&mut self.stream, &line);
            self.counts.release(line.len());
            match written {
                Ok(()) => self.report(entries.is_empty()),
                Err(_) => self.counts.drop_line(),
            }
        }
    }

    /// Logs how many lines were dropped since the last report, if the stream keeps up again, or from time to time.
    fn report(&mut self, keeps_up: bool) {
        let dropped = self.counts.dropped();
        let is_due = keeps_up || self.reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
        if dropped == self.reported || !is_due {
            return;
        }
        warn!(
            lines = dropped - self.reported,
            "lines of the log were dropped, it was not read as fast as it was written"
        );
        let line = mem::take(&mut *self.counts.own.lock().unwrap_or_else(PoisonError::into_inner));
        if write_whole(&mut self.stream, &line).is_ok() {
            self.reported = dropped;
            self.reported_at = Some(Instant::now());
        }
    }
}

/// Writes all of `line`, in as many calls as the stream needs.
fn write_whole(stream: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match stream.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => line = &line[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that takes what `allowed` has room for, and keeps it.
    #[derive(Clone)]
    struct Gate {
        allowed: Receiver<io::Result<usize>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once nobody is left to allow more, all is taken.
            let length = self.allowed.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.taken.lock().expect("no holder panics").extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Sender<io::Result<usize>>, Gate) {
        let (allow, allowed) = bounded(100);
        (allow, Gate { allowed, taken: Arc::default() })
    }

    /// Writes lines until one is dropped; returns how many were taken.
    fn fill(sink: &mut LogSink, line: &[u8]) -> usize {
        let mut taken = 0;
        while sink.dropped() == 0 {
            sink.write_all(line).expect("it never fails");
            taken += 1;
        }
        taken - 1
    }

    #[test]
    fn lines_go_out_whole_and_in_order() {
        let (allow, gate) = gate();
        let taken = Arc::clone(&gate.taken);
        let mut sink = LogSink::start("sink", gate).expect("it starts");
        sink.write_all(b"one\n").expect("it never fails");
        sink.write_all(b"two\n").expect("it never fails");
        for outcome in [Ok(1), Err(ErrorKind::WouldBlock), Err(ErrorKind::Interrupted), Ok(100)] {
            allow.send(outcome.map_err(io::Error::from)).expect("it is read");
        }
        drop(allow);
        sink.settle(Duration::from_secs(60));
        assert_eq!((&**taken.lock().expect("no holder panics"), sink.dropped()), (&b"one\ntwo\n"[..], 0));
    }

    #[test]
    fn the_queue_is_bounded_in_lines_and_in_bytes() {
        // One line may be in the hands of the thread that writes.
        let (_allow, stuck) = gate();
        let taken = fill(&mut LogSink::start("sink", stuck).expect("it starts"), b"\n");
        assert!((LINES_MAX..=LINES_MAX + 1).contains(&taken), "{taken}");
        let (_allow, stuck) = gate();
        let taken = fill(&mut LogSink::start("sink", stuck).expect("it starts"), &[b'x'; 1 << 20]);
        assert_eq!(taken, BYTES_MAX >> 20);
    }

    #[test]
    fn settling_has_an_end_while_the_stream_is_stuck() {
        let (_allow, stuck) = gate();
        let mut sink = LogSink::start("sink", stuck).expect("it starts");
        sink.write_all(b"\n").expect("it never fails");
        sink.settle(Duration::from_millis(10));
        fill(&mut sink, b"\n");
        sink.settle(Duration::from_millis(10));
    }

    #[test]
    fn lines_that_the_stream_refuses_are_dropped_and_room_is_made() {
        let (allow, gate) = gate();
        let taken = Arc::clone(&gate.taken);
        let mut sink = LogSink::start("sink", gate).expect("it starts");
        for outcome in [Err(ErrorKind::BrokenPipe), Ok(0), Ok(100)] {
            allow.send(outcome.map_err(io::Error::from)).expect("it is read");
            sink.write_all(b"line\n").expect("it never fails");
        }
        sink.settle(Duration::from_secs(60));
        assert_eq!((&**taken.lock().expect("no holder panics"), sink.dropped()), (&b"line\n"[..], 2));
        assert_eq!(sink.counts.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn dropped_lines_are_reported_once_the_stream_takes_lines_again() {
        let (allow, gate) = gate();
        let taken = Arc::clone(&gate.taken);
        let sink = LogSink::start("sink", gate).expect("it starts");
        let lines = sink.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
        // The report is made by the sink's thread, so the subscriber has to be everybody's. This is the only test of the
        // library that sets one.
        tracing::subscriber::set_global_default(subscriber).expect("there was none");
        fill(&mut sink.clone(), b"\n");
        drop(allow);
        let by = Instant::now() + Duration::from_secs(60);
        let text = || String::from_utf8(taken.lock().expect("no holder panics").clone()).expect("it is text");
        while !text().contains(&format!("lines={}\n", sink.dropped())) {
            assert!(Instant::now() < by, "{:?}", text().trim());
            thread::yield_now();
        }
    }
}
