//! A batch: one message in each line of the request body, and one line of the response for each, in order, while lines still
//! arrive.
//!
//! ```text
//!   request body ──▶ Lines ──▶ up to a group of messages ──▶ shards
//!                                                              │
//!   response body ◀── a line for each ◀────────────────────────┘
//! ```
//! Nothing is read while a group is being pushed, or while the client doesn't take its answers. So a batch holds one line and
//! one group at most, and TCP slows its sender.

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::access::Right;
use super::outcome::{Outcome, PushResult, outcome, push_of};
use super::parameters::{Pairs, Parameters};
use super::spans::{self, Tally};
use super::{Api, body, idempotency};
use crate::control::lines::{Line, Lines};
use crate::control::problem::{self, Failure, Problem};
use crate::control::tokens::Caller;
use crate::dispatcher::Push;

/// Most messages, and most bytes of their lines, that are pushed together.
const GROUP_LINES_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 1 << 20;

/// Media types of a batch; the first is that of the answer.
const MEDIA_TYPES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];

/// Sends a message for each line, and answers each by a line, in order.
///
/// Answers come as soon as they are known, while the batch may still go on; read them while you send, or send no more
/// than some ten thousand lines. Lines without anything are passed over.
#[utoipa::path(
    post,
    path = "/v1/batch",
    tag = "push",
    request_body(description = "One JSON object per line, without line ends inside", content(
        (super::outcome::BatchMessage = "application/x-ndjson"))),
    responses((status = 200, description = "The outcome of each message, one line each", body = Outcome,
               content_type = "application/x-ndjson")),
)]
pub(super) async fn batch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
    request: Request,
) -> Result<Response, Failure> {
    caller.require(Right::Push)?;
    Parameters::read(pairs, &[])?;
    let (parts, body) = request.into_parts();
    idempotency::refuse(&parts.headers)?;
    body::require(&parts.headers, &MEDIA_TYPES)?;
    let (lines, tally) = (Lines::default(), Tally::new(spans::batch()));
    let line_bytes_max = api.line_bytes_max();
    let mut batch = Batch { lines, line_bytes_max, api, body, is_over: false, tally };
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
    /// Most bytes of a line; the same until the end of the batch.
    line_bytes_max: usize,
    /// Nothing more is read.
    is_over: bool,
    /// Counts outcomes, and records them when the batch ends, however it ends.
    tally: Tally,
}

impl Batch {
    /// Returns answers to the next lines; waits until there are some, or the batch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let group = group(&mut self.lines, self.line_bytes_max, self.is_over);
            if !group.is_empty() {
                return Some(push(&self.api, group, &mut self.tally).await);
            }
            if self.is_over {
                return None;
            }
            if let Err(failure) = self.receive().await {
                self.is_over = true;
                return Some(answers([(None, &Err(failure))]));
            }
        }
    }

    /// Receives the next piece of the body.
    async fn receive(&mut self) -> Result<(), Failure> {
        let time = self.api.settings().body_timeout;
        let mut draining = self.api.control.draining.clone();
        let frame = tokio::select! {
            frame = timeout(time, self.body.frame()) => frame,
            Ok(_) = draining.wait_for(Option::is_some) => return Err(problem::draining()),
        };
        match frame {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    self.lines.received().extend_from_slice(&bytes);
                }
                Ok(())
            }
            Ok(None) => {
                self.is_over = true;
                Ok(())
            }
            // The client has gone.
            Ok(Some(Err(error))) => Err(Problem::Malformed.with_detail(format!("the body is cut: {error}"))),
            Err(_) => {
                Err(Problem::BodyTimeout.with_detail(format!("no line came for {time:?}, and the batch is over")))
            }
        }
    }
}

/// Pushes the valid lines; returns the answers to all.
async fn push(api: &Api, group: Vec<Line>, tally: &mut Tally) -> Bytes {
    let settings = api.settings();
    let read: Vec<Result<Push, (Option<String>, Failure)>> = group
        .into_iter()
        .map(|line| match line {
            Line::Whole(line) => push_of(&line, &settings),
            Line::TooLong => {
                let bytes_max = api.line_bytes_max();
                Err((None, Problem::TooLarge.with_detail(format!("expected a line of at most {bytes_max} bytes"))))
            }
        })
        .collect();
    let sound: Vec<Push> = read.iter().filter_map(|push| push.as_ref().ok()).cloned().collect();
    api.control.counts.note_refused(read.len() - sound.len());
    let dispatcher = api.dispatcher();
    let pushed = api.control.counts.push_all(&dispatcher, sound).instrument(tally.span().clone());
    let mut deliveries = pushed.await.into_iter();
    let answered: Vec<(Option<Box<str>>, PushResult)> = read
        .into_iter()
        .map(|push| match push {
            Ok(push) => (Some(push.uid), deliveries.next().expect("one for each push").map_err(Failure::from)),
            Err((uid, failure)) => (uid.map(String::into_boxed_str), Err(failure)),
        })
        .collect();
    let results = || answered.iter().map(|(uid, answered)| (uid.as_deref(), answered));
    tally.count(results());
    answers(results())
}

/// Writes a line for each result.
fn answers<'a>(answered: impl IntoIterator<Item = (Option<&'a str>, &'a PushResult)>) -> Bytes {
    let mut text = Vec::new();
    for (uid, answered) in answered {
        serde_json::to_writer(&mut text, &outcome(uid, answered)).expect("texts and numbers are JSON");
        text.push(b'\n');
    }
    Bytes::from(text)
}

/// Takes the next lines of a batch, up to the bounds of a group; skips empty lines.
fn group(lines: &mut Lines, bytes_max: usize, is_over: bool) -> Vec<Line> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while group.len() < GROUP_LINES_MAX && bytes < GROUP_BYTES_MAX {
        // The last line may lack its end.
        let next = lines.next(bytes_max).or_else(|| if is_over { lines.rest() } else { None });
        match next {
            Some(Line::Whole(line)) if line.is_empty() => continue,
            Some(Line::Whole(line)) => {
                bytes += line.len();
                group.push(Line::Whole(line));
            }
            Some(Line::TooLong) => group.push(Line::TooLong),
            None => break,
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, is_over: bool, expected: &[Option<&str>]) {
        let mut lines = Lines::default();
        lines.received().extend_from_slice(text.as_bytes());
        let group: Vec<_> = group(&mut lines, 8, is_over)
            .into_iter()
            .map(|line| match line {
                Line::Whole(line) => Some(String::from_utf8(line.to_vec()).expect("text")),
                Line::TooLong => None,
            })
            .collect();
        assert_eq!(group.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{text:?}");
    }

    #[test]
    fn every_line_that_holds_something_is_taken() {
        check("", true, &[]);
        check("\n\r\n\n", true, &[]);
        check("a\n\n123456789\nb\r\n", false, &[Some("a"), None, Some("b")]);
        check("a\nb", false, &[Some("a")]);
        check("a\nb", true, &[Some("a"), Some("b")]);
        check("a\nb\r", true, &[Some("a"), Some("b")]);
        check("a\n\r", true, &[Some("a")]);
        check("a\n123456789", true, &[Some("a"), None]);
    }

    #[test]
    fn groups_are_bounded() {
        let size = |text: String| {
            let mut lines = Lines::default();
            lines.received().extend_from_slice(text.as_bytes());
            group(&mut lines, 1 << 20, false).len()
        };
        assert_eq!(size("x\n".repeat(1000)), GROUP_LINES_MAX);
        assert_eq!(size(format!("{}\n", "x".repeat(600_000)).repeat(4)), 2);
    }
}
