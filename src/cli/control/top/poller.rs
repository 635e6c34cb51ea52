//! Asks a node for its stats over one connection, which is made again when it has gone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::time::timeout;

use super::sample::Sample;
use crate::cli::control::Failure;
use crate::cli::control::client::{CallError, Callee, Client};

/// What came of a look.
pub(super) type Polled = Result<Sample, Failure>;

/// The way to a node.
pub(super) struct Poller {
    callee: Callee,
    /// Longest time that an answer may take.
    timeout: Duration,
    client: Option<Client<Full<Bytes>>>,
}

impl Poller {
    pub(super) fn new(callee: Callee, timeout: Duration) -> Self {
        Self { callee, timeout, client: None }
    }

    /// Asks once.
    ///
    /// # Errors
    /// No answer in time, or one that isn't understood; the next look may have more luck.
    pub(super) async fn poll(&mut self) -> Polled {
        let answered = timeout(self.timeout, self.ask()).await.unwrap_or(Err(Failure::Timeout(self.timeout)));
        if answered.is_err() {
            self.client = None;
        }
        answered
    }

    async fn ask(&mut self) -> Polled {
        if let Some(mut client) = self.client.take().filter(|client| !client.is_closed()) {
            match call(&mut client).await {
                // The node may have ended the connection as the request was on its way.
                Err(CallError::Lost(_)) => {}
                answered => {
                    self.client = Some(client);
                    return Ok(answered?);
                }
            }
        }
        let mut client = Client::connect(&self.callee).await?;
        let sample = call(&mut client).await?;
        self.client = Some(client);
        Ok(sample)
    }
}

async fn call(client: &mut Client<Full<Bytes>>) -> Result<Sample, CallError> {
    let request = Request::get("/v1/stats").body(Full::default()).expect("the parts of the request are sound");
    let answer = client.call(request).await?;
    serde_json::from_value(answer).map_err(|error| CallError::Strange(error.to_string()))
}
