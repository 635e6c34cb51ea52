//! `pombo push --lines`: each line of standard input as a message, as it comes.
//!
//! ```text
//!   stdin ─▶ input (a thread) ─▶ feed ─▶ POST /v1/batch ─▶ answers, a line each ─▶ tally
//! ```
//! Lines go out while answers come in. Neither waits for the other, unless a bounded queue between them is full. A batch ends
//! when no line comes for a moment, and the next line begins another: a node doesn't wait for lines for ever.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::Request;
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{CallError, Callee, Client};
use super::outcome::Outcome;
use super::{ControlArgs, End, Failure, one_line, print};
use crate::cli::input::{self, InputError};

/// How long a batch waits for another line.
const PAUSE: Duration = Duration::from_secs(1);

/// Most lines that wait to be sent, besides those in the queue of `input`.
const WAITING_MAX: usize = 64;

/// Longest answer to one line.
const ANSWER_BYTES_MAX: usize = 64 << 10;

type Lines = mpsc::Receiver<Result<Vec<u8>, InputError>>;

/// Sends each line to `uid`.
pub(super) async fn push(callee: &Callee, uid: &str, control: &ControlArgs) -> Result<End, Failure> {
    let mut lines = input::lines();
    let mut tally = Tally::default();
    while let Some(first) = lines.recv().await {
        let batch = Batch { uid, limit: control.node.timeout, sent: Cell::default(), answered: Cell::default() };
        let mut take = |answer: &Value| tally.count(answer, control.json);
        if let Err(failure) = batch.run(callee, first, &mut lines, &mut take).await {
            tally.end(control.json)?;
            return Err(failure);
        }
    }
    tally.end(control.json)
}

/// Sends each line to everybody, one request for each.
pub(super) async fn broadcast(callee: &Callee, path: &str, control: &ControlArgs) -> Result<End, Failure> {
    let mut lines = input::lines();
    let mut tally = Tally::default();
    let mut client = None;
    while let Some(line) = lines.recv().await {
        let sent = match line {
            Ok(line) => broadcast_one(callee, path, line, &mut client, control).await,
            Err(error) => Err(error.into()),
        };
        if let Err(failure) = sent.and_then(|answer| tally.count(&answer, control.json)) {
            tally.end(control.json)?;
            return Err(failure);
        }
    }
    tally.end(control.json)
}

/// Sends a line to everybody, over the connection of the line before if that is still open.
async fn broadcast_one(
    callee: &Callee,
    path: &str,
    line: Vec<u8>,
    kept: &mut Option<Client<Full<Bytes>>>,
    control: &ControlArgs,
) -> Result<Value, Failure> {
    let request = Request::post(path).header(CONTENT_TYPE, "text/plain; charset=utf-8");
    let request = request.body(Full::from(text(line)?)).map_err(|error| Failure::Settings(error.to_string()))?;
    // A node closes a connection that is idle for long.
    let open = kept.take().filter(|client| !client.is_closed());
    let call = async {
        let mut client = match open {
            Some(client) => client,
            None => Client::connect(callee).await?,
        };
        let answer = client.call(request).await?;
        Ok((client, answer))
    };
    let (client, answer) = control.node.in_time(call).await?;
    *kept = Some(client);
    Ok(answer)
}

/// Lines that are sent by one request.
struct Batch<'a> {
    uid: &'a str,
    /// How long an answer may take.
    limit: Duration,
    /// Lines sent, and lines answered.
    sent: Cell<u64>,
    answered: Cell<u64>,
}

impl Batch<'_> {
    /// Sends `first` and what follows it without a pause; returns when each is answered.
    async fn run(
        &self,
        callee: &Callee,
        first: Result<Vec<u8>, InputError>,
        lines: &mut Lines,
        take: &mut impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (chunks, waiting) = mpsc::channel::<Bytes>(WAITING_MAX);
        let frames = stream::unfold(waiting, |mut waiting| async move {
            let chunk = waiting.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(chunk)), waiting))
        });
        let request = Request::post("/v1/batch").header(CONTENT_TYPE, "application/x-ndjson");
        let request = request.body(StreamBody::new(frames)).map_err(|error| Failure::Settings(error.to_string()))?;
        chunks.send(self.chunk(first?)?).await.expect("the body is alive");
        let call = async {
            let mut client = Client::connect(callee).await?;
            let response = client.send(request).await?;
            Ok((client, response))
        };
        // The client is kept until every line is answered: its drop closes the connection.
        let (_client, response) =
            timeout(self.limit, call).await.map_err(|_| Failure::Timeout(self.limit))?.map_err(Failure::Call)?;
        let mut feeding = pin!(self.feed(chunks, lines));
        let mut answering = pin!(self.answers(response.into_body(), take));
        let fed = tokio::select! {
            fed = &mut feeding => fed,
            // The node ended the batch: further lines go into the next one.
            answered = &mut answering => return answered,
        };
        answering.await?;
        fed
    }

    /// Sends lines until none comes for a while.
    async fn feed(&self, chunks: mpsc::Sender<Bytes>, lines: &mut Lines) -> Result<(), Failure> {
        // Reserves room in the queue first: a line that was read must not be lost.
        while let Ok(place) = chunks.reserve().await {
            match timeout(PAUSE, lines.recv()).await {
                Ok(Some(line)) => place.send(self.chunk(line?)?),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// Makes one line of the request's body.
    fn chunk(&self, line: Vec<u8>) -> Result<Bytes, Failure> {
        let mut chunk = json!({ "uid": self.uid, "text": text(line)? }).to_string();
        chunk.push('\n');
        self.sent.set(self.sent.get() + 1);
        Ok(chunk.into())
    }

    /// Reads answers until the end of the batch, and expects one for each line.
    async fn answers(
        &self,
        mut body: Incoming,
        take: &mut impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut received = BytesMut::new();
        loop {
            let frame = match timeout(self.limit, body.frame()).await {
                Ok(frame) => frame,
                Err(_) if self.sent == self.answered => continue,
                Err(_) => return Err(Failure::Timeout(self.limit)),
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| CallError::Lost(error.to_string()))?;
            received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = memchr::memchr(b'\n', &received) {
                let line = received.split_to(end + 1);
                let answer = serde_json::from_slice(&line).map_err(|error| CallError::Strange(error.to_string()))?;
                self.answered.set(self.answered.get() + 1);
                take(&answer)?;
            }
            if received.len() > ANSWER_BYTES_MAX {
                return Err(CallError::Strange(format!("a line of it has over {ANSWER_BYTES_MAX} bytes")).into());
            }
        }
        match self.sent.get().saturating_sub(self.answered.get()) {
            0 => Ok(()),
            left => Err(CallError::Lost(format!("the batch ended with {left} lines unanswered")).into()),
        }
    }
}

/// The outcomes of the lines, counted.
#[derive(Debug, Default)]
struct Tally {
    taken: u64,
    offline: u64,
    shed: u64,
    failed: u64,
}

impl Tally {
    /// Counts an answer, prints it if `json`, and reports a failure to stderr.
    fn count(&mut self, answer: &Value, json: bool) -> Result<(), Failure> {
        let outcome = Outcome::of(answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
        match &outcome {
            Outcome::Taken(_) => self.taken += 1,
            Outcome::Offline => self.offline += 1,
            Outcome::Shed(_) => self.shed += 1,
            Outcome::Failed(why) => {
                self.failed += 1;
                writeln!(io::stderr(), "pombo push: a line was not sent: {}", one_line(why)).ok();
            }
        }
        if json { print(&answer.to_string()) } else { Ok(()) }
    }

    fn end(&self, json: bool) -> Result<End, Failure> {
        let Self { taken, offline, shed, failed } = self;
        if !json {
            print(&format!("{taken} taken, {offline} offline, {shed} shed, {failed} failed"))?;
        }
        Ok(match self {
            Self { failed: 1.., .. } => End::Failed,
            Self { shed: 1.., .. } => End::Shed,
            Self { offline: 1.., .. } => End::Offline,
            _ => End::Done,
        })
    }
}

/// Returns a line as text, without the CR of a line that ended with CR LF.
fn text(mut line: Vec<u8>) -> Result<String, Failure> {
    line.pop_if(|last| *last == b'\r');
    String::from_utf8(line).map_err(|_| Failure::Settings("a line is not UTF-8, expected text".to_owned()))
}
