//! A batch: a message a line, each answered by a line, in order, while more may still come.
//!
//! ```text
//!   request body ──▶ Lines ──▶ up to a group of messages ──▶ shards
//!                                                              │
//!   response body ◀── a line for each ◀────────────────────────┘
//! ```
//! Nothing is read while a group is being pushed, or while its answers are not taken: so a batch holds a line and a
//! group at most, and TCP holds its sender back.

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::stream;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::access::Right;
use super::outcome::{Answered, Outcome, outcome, push_of};
use super::parameters::{Pairs, Parameters};
use super::problem::{self, Problem, Told};
use super::spans::{self, Tally};
use super::{Api, body, idempotency};
use crate::control::tokens::Caller;
use crate::dispatcher::Push;

/// Most messages, and most bytes of their lines, that are pushed together.
const GROUP_LINES_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 1 << 20;

/// What a batch is made of, and its answer.
const MEDIA_TYPES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];

/// Sends a message for each line, and answers each by a line, in order.
///
/// Answers come as soon as they are known, while the batch may still go on; read them while you send, or send no more
/// than some ten thousand lines. Lines without anything are passed over.
#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "push",
    request_body(description = "An object a line, as JSON without line ends inside", content(
        (super::outcome::Line = "application/x-ndjson"))),
    responses((status = 200, description = "What became of each, a line each", body = Outcome,
               content_type = "application/x-ndjson")),
)]
pub(super) async fn batch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Told> {
    caller.require(Right::Push)?;
    Parameters::read(pairs, &[])?;
    let (parts, body) = request.into_parts();
    idempotency::refuse(&parts.headers)?;
    body::require(&parts.headers, &MEDIA_TYPES)?;
    let (lines, tally) = (Lines::new(api.line_bytes_max()), Tally::new(spans::batch()));
    let mut batch = Batch { lines, api, body, is_over: false, tally };
    if body::is_awaited(&parts.headers) {
        // The client sends no body before `100 Continue`, and hyper can't send that once the answer has begun.
        batch.receive().await?;
    }
    let answers = stream::unfold(batch, |mut batch| async move {
        let chunk = batch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), batch))
    });
    let mut response = Body::from_stream(answers).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPES[0]));
    Ok(response)
}

/// A batch that is being sent.
struct Batch {
    api: Api,
    body: Body,
    lines: Lines,
    /// Nothing more is read.
    is_over: bool,
    /// What was done, to be told however the batch ends.
    tally: Tally,
}

impl Batch {
    /// Returns answers to the next lines; waits until there are some, or the batch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let group = self.lines.group();
            if !group.is_empty() {
                return Some(push(&self.api, group, &mut self.tally).await);
            }
            if self.is_over {
                return None;
            }
            if let Err(told) = self.receive().await {
                self.is_over = true;
                return Some(answers([(None, &Err(told))]));
            }
        }
    }

    /// Takes in what comes next.
    async fn receive(&mut self) -> Result<(), Told> {
        let time = self.api.settings().body_timeout;
        let mut draining = self.api.control.draining.clone();
        let frame = tokio::select! {
            frame = timeout(time, self.body.frame()) => frame,
            Ok(_) = draining.wait_for(Option::is_some) => return Err(problem::draining()),
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    self.lines.add(&bytes);
                }
                Ok(())
            }
            Ok(None) => {
                self.is_over = true;
                self.lines.end();
                Ok(())
            }
            // Who sent it has gone.
            Ok(Some(Err(error))) => Err(Problem::Malformed.because(format!("the body is cut: {error}"))),
            Err(_) => Err(Problem::BodyTimeout.because(format!("no line came for {time:?}, and the batch is over"))),
        }
    }
}

/// Pushes what is sound of the lines; returns the answer to each.
async fn push(api: &Api, group: Vec<Line>, tally: &mut Tally) -> Bytes {
    let settings = api.settings();
    let read: Vec<Result<Push, (Option<String>, Told)>> = group
        .into_iter()
        .map(|line| match line {
            Line::Whole(line) => push_of(&line, &settings),
            Line::TooLong => {
                let bytes_max = api.line_bytes_max();
                Err((None, Problem::TooLarge.because(format!("expected a line of at most {bytes_max} bytes"))))
            }
        })
        .collect();
    let sound: Vec<Push> = read.iter().filter_map(|push| push.as_ref().ok()).cloned().collect();
    api.control.counts.note_refused(read.len() - sound.len());
    let dispatcher = api.dispatcher();
    let pushed = api.control.counts.push_all(&dispatcher, sound).instrument(tally.span().clone());
    let mut deliveries = pushed.await.into_iter();
    let answered: Vec<(Option<Box<str>>, Answered)> = read
        .into_iter()
        .map(|push| match push {
            Ok(push) => (Some(push.uid), deliveries.next().expect("one for each push").map_err(Told::from)),
            Err((uid, told)) => (uid.map(String::into_boxed_str), Err(told)),
        })
        .collect();
    let told = || answered.iter().map(|(uid, answered)| (uid.as_deref(), answered));
    tally.count(told());
    answers(told())
}

/// Writes a line for each.
fn answers<'a>(answered: impl IntoIterator<Item = (Option<&'a str>, &'a Answered)>) -> Bytes {
    let mut text = Vec::new();
    for (uid, answered) in answered {
        serde_json::to_writer(&mut text, &outcome(uid, answered)).expect("texts and numbers are JSON");
        text.push(b'\n');
    }
    Bytes::from(text)
}

/// Lines out of pieces that were cut anywhere.
struct Lines {
    /// Received and not taken yet.
    received: BytesMut,
    /// How much of it has no line's end.
    looked_at: usize,
    /// Most bytes of a line.
    bytes_max: usize,
    /// A line is being thrown away, up to its end.
    skips: bool,
    /// A line that was too long, and is not told of yet, before what is in `received`.
    too_long: bool,
    /// No more comes: what is left is a line.
    is_whole: bool,
}

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole(BytesMut),
    TooLong,
}

impl Lines {
    fn new(bytes_max: usize) -> Self {
        let received = BytesMut::new();
        Self { received, looked_at: 0, bytes_max, skips: false, too_long: false, is_whole: false }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    fn end(&mut self) {
        self.is_whole = true;
    }

    /// Returns the next lines that are whole, up to a group of them.
    fn group(&mut self) -> Vec<Line> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        while group.len() < GROUP_LINES_MAX && bytes < GROUP_BYTES_MAX {
            let Some(line) = self.line() else { break };
            if let Line::Whole(line) = &line {
                bytes += line.len();
            }
            group.push(line);
        }
        group
    }

    fn line(&mut self) -> Option<Line> {
        loop {
            let end = memchr::memchr(b'\n', &self.received[self.looked_at..]).map(|place| self.looked_at + place);
            let length = end.unwrap_or(self.received.len());
            if !self.skips && length > self.bytes_max {
                self.skips = true;
                self.too_long = true;
            }
            let mut line = match end {
                Some(end) => {
                    let line = self.received.split_to(end);
                    let _end = self.received.split_to(1);
                    line
                }
                None if self.is_whole && !self.received.is_empty() => self.received.split(),
                None => {
                    if self.skips {
                        self.received.clear();
                    }
                    self.looked_at = self.received.len();
                    return std::mem::take(&mut self.too_long).then_some(Line::TooLong);
                }
            };
            self.looked_at = 0;
            if std::mem::take(&mut self.skips) {
                if std::mem::take(&mut self.too_long) {
                    return Some(Line::TooLong);
                }
                continue;
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if !line.is_empty() {
                return Some(Line::Whole(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `text` into pieces of `size`, and returns the lines; `!` for one that is too long.
    fn lines(text: &str, size: usize, bytes_max: usize) -> Vec<String> {
        let mut lines = Lines::new(bytes_max);
        let mut found = Vec::new();
        let mut take = |lines: &mut Lines| loop {
            let group = lines.group();
            if group.is_empty() {
                return;
            }
            found.extend(group.into_iter().map(|line| match line {
                Line::Whole(line) => String::from_utf8(line.to_vec()).expect("text"),
                Line::TooLong => "!".to_owned(),
            }));
        };
        for piece in text.as_bytes().chunks(size) {
            lines.add(piece);
            take(&mut lines);
            assert!(lines.received.len() <= bytes_max + size, "it holds {} bytes", lines.received.len());
        }
        lines.end();
        take(&mut lines);
        found
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        for (text, expected) in [
            ("", &[][..]),
            ("a\nb\n", &["a", "b"]),
            ("a\r\n\n\r\nb", &["a", "b"]),
            ("12345678\n123456789\nx\n", &["12345678", "!", "x"]),
            ("123456789012345678901234567890\nx", &["!", "x"]),
            ("x\n1234567890123", &["x", "!"]),
            ("\n\n\n", &[]),
        ] {
            for size in 1..=text.len().max(1) {
                assert_eq!(lines(text, size, 8), expected, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn groups_are_bounded() {
        let mut lines = Lines::new(1 << 20);
        lines.add("x\n".repeat(1000).as_bytes());
        assert_eq!(lines.group().len(), GROUP_LINES_MAX);
        let mut lines = Lines::new(1 << 20);
        lines.add(format!("{}\n", "x".repeat(600_000)).repeat(4).as_bytes());
        assert_eq!(lines.group().len(), 2);
    }
}
