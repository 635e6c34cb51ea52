//! Splits bytes that arrive in pieces into lines, for batches and for the text port.
//!
//! The lines are the same wherever the pieces are cut. A [`Lines`] holds at most one line of the longest length and one piece, if the
//! caller takes all lines after each piece.

use bytes::BytesMut;
use memchr::memchr;

/// The input that was received and not taken as lines yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    received: BytesMut,
    /// Number of its first bytes that hold no line end.
    searched: usize,
    /// The line being received is too long, and is discarded up to its end.
    skips: bool,
}

/// A line, without its end: a line feed, and every carriage return in front of that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(BytesMut),
    /// The line was too long, and is discarded.
    TooLong,
}

impl Lines {
    /// Returns the buffer to append input to.
    pub(super) fn received(&mut self) -> &mut BytesMut {
        &mut self.received
    }

    /// Returns the number of bytes in the buffer.
    pub(super) fn held(&self) -> usize {
        self.received.len()
    }

    /// Takes the next line of up to `bytes_max` bytes; `None` until more is received.
    ///
    /// A line that is too long is returned once, as soon as it exceeds `bytes_max`. One carriage return at its end doesn't count.
    pub(super) fn next(&mut self, bytes_max: usize) -> Option<Line> {
        loop {
            let end = memchr(b'\n', &self.received[self.searched..]).map(|place| self.searched + place);
            let content = &self.received[..end.unwrap_or(self.received.len())];
            let was_skipped = self.skips;
            self.skips = was_skipped || content.strip_suffix(b"\r").unwrap_or(content).len() > bytes_max;
            let Some(end) = end else {
                if self.skips {
                    self.received.clear();
                }
                self.searched = self.received.len();
                return (self.skips && !was_skipped).then_some(Line::TooLong);
            };
            let mut line = self.received.split_to(end + 1);
            self.searched = 0;
            match (std::mem::take(&mut self.skips), was_skipped) {
                (false, _) => {
                    line.truncate(end);
                    return Some(Line::Whole(trimmed(line)));
                }
                (true, false) => return Some(Line::TooLong),
                // It was returned as too long before its end came.
                (true, true) => {}
            }
        }
    }

    /// Takes the input behind the last line end as a line, at the end of all input; `None` if there is none.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.searched = 0;
        let rest = self.received.split();
        (!rest.is_empty()).then(|| Line::Whole(trimmed(rest)))
    }

    /// Frees memory that the buffered input doesn't need.
    pub(super) fn shrink(&mut self) {
        self.received = BytesMut::from(&self.received[..]);
    }
}

/// Removes the carriage returns at the end of a line.
fn trimmed(mut line: BytesMut) -> BytesMut {
    let length = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    line.truncate(length);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `text` into pieces of `size`, and returns the lines; `!` for one that is too long, and the rest in brackets.
    fn lines(text: &str, size: usize, bytes_max: usize) -> Vec<String> {
        let shown = |line| match line {
            Line::Whole(line) => String::from_utf8(line.to_vec()).expect("text"),
            Line::TooLong => "!".to_owned(),
        };
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            lines.received().extend_from_slice(piece);
            while let Some(line) = lines.next(bytes_max) {
                found.push(shown(line));
            }
            assert!(lines.held() <= bytes_max + 1, "{text:?} by {size}: it holds {} bytes", lines.held());
        }
        found.extend(lines.rest().map(|rest| format!("[{}]", shown(rest))));
        assert_eq!(lines.held(), 0);
        found
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        for (text, expected) in [
            ("", &[][..]),
            ("a\nb\n", &["a", "b"]),
            ("a\r\n\n\r\nb", &["a", "", "", "[b]"]),
            (" a \r\r\nb\rc\n", &[" a ", "b\rc"]),
            ("\r\r\r\n\r", &["", "[]"]),
            ("12345678\n123456789\nx\n", &["12345678", "!", "x"]),
            ("12345678\r\n123456789\r\n12345678\r", &["12345678", "!", "[12345678]"]),
            ("12345678\r\r\nx\n", &["!", "x"]),
            ("\r\r\r\r\r\r\r\r\r\r\r\r\n\n", &["!", ""]),
            ("123456789012345678901234567890\nx\n", &["!", "x"]),
            ("x\n1234567890123", &["x", "!"]),
            ("1234567890123\n1234567890123\n", &["!", "!"]),
            ("\n\n\n", &["", "", ""]),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(lines(text, size, 8), expected, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn memory_of_lines_that_were_taken_is_given_up() {
        let mut lines = Lines::default();
        lines.received().extend_from_slice(&[&[b'x'; 100_000][..], b"\nyz"].concat());
        assert!(matches!(lines.next(1 << 20), Some(Line::Whole(line)) if line.len() == 100_000));
        assert_eq!(lines.next(1 << 20), None);
        lines.shrink();
        assert!(lines.received().capacity() < 1000);
        lines.received().extend_from_slice(b"\n");
        assert_eq!(lines.next(1 << 20), Some(Line::Whole(BytesMut::from(&b"yz"[..]))));
    }
}
