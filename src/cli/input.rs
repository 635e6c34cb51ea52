//! The lines of standard input, read by a separate thread.
//!
//! A read of standard input can't be interrupted, so no other thread may wait for it; the thread
//! ends with the process. The queue is short. While it is full the thread does not read, which blocks the writer of the pipe.

use std::io::{self, BufRead, Read as _};
use std::thread;

use tokio::sync::mpsc;

/// Lines read ahead of their sending.
const QUEUE_LINES_MAX: usize = 64;
/// Longest line; a server's limit on messages is its own setting, and far lower by default.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Why no further line can be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// Reading failed.
    #[error("can't read standard input: {0}")]
    Read(io::Error),
    /// The line is too long.
    #[error("a line of standard input has over {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// Starts the thread; the queue closes at the end of input, or after an error.
pub(super) fn lines() -> mpsc::Receiver<Result<Vec<u8>, InputError>> {
    let (sender, receiver) = mpsc::channel(QUEUE_LINES_MAX);
    let read = move || {
        let mut input = io::stdin().lock();
        while let Some(line) = next_line(&mut input).transpose() {
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                break;
            }
        }
    };
    // If the thread can't be started, the sender is dropped: the receiver sees the end of input.
    if let Err(error) = thread::Builder::new().name("stdin".to_owned()).spawn(read) {
        eprintln!("pombo: standard input is not read: {error}");
    }
    receiver
}

/// Reads a line, and removes its line feed; the last line may have none.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, InputError> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(InputError::Read)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.is_empty() {
        return Ok(None);
    } else if line.len() as u64 > LINE_BYTES_MAX {
        return Err(InputError::TooLong);
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mut input: &[u8], expected: &[&[u8]]) {
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).expect("a slice can be read") {
            lines.push(line);
        }
        assert_eq!(lines, expected);
    }

    #[test]
    fn lines_are_taken_as_they_are() {
        check(b"", &[]);
        check(b"\n", &[b""]);
        check(b"bob:hi\n", &[b"bob:hi"]);
        check(b"bob:hi", &[b"bob:hi"]);
        check(b"a\n\n b \r\nc\xff", &[b"a", b"", b" b \r", b"c\xff"]);
    }

    #[test]
    fn line_without_an_end_is_not_held() {
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        assert!(matches!(next_line(&mut endless), Err(InputError::TooLong)));
    }
}
