//! Sends a batch to the service: signs it, posts it, and waits for the answer within a time-out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, header};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, debug_span, info, warn};

use super::HookError;
use super::signature::Keys;
use crate::clock;
use crate::config::HookSettings;
use crate::service::{self, Complaints, ServiceClient, causes, printable};
use crate::trace::{self, TRACEPARENT, TraceContext};

/// Longest answer that is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const SIGNATURE: &str = "pombo-signature";
const USER_AGENT: &str = concat!("pombo/", env!("CARGO_PKG_VERSION"));

/// The client of the service.
#[derive(Debug)]
pub(super) struct Poster {
    client: ServiceClient,
    uri: Uri,
    /// The keys that sign batches.
    keys: watch::Receiver<Keys>,
    complaints: Complaints,
    has_failed: bool,
}

impl Poster {
    /// Makes the client and reads the keys; also returns the sender that replaces the keys.
    pub(super) fn new(settings: &HookSettings) -> Result<(Self, watch::Sender<Keys>), HookError> {
        let client = service::client(Some(&settings.url), "hook_url_ca", settings.url_ca.as_deref(), 1)?;
        let keys = watch::Sender::new(Keys::load(settings)?);
        let uri = settings.url.uri().clone();
        let poster = Self { client, uri, keys: keys.subscribe(), complaints: Complaints::default(), has_failed: false };
        Ok((poster, keys))
    }

    /// Posts a batch; returns whether the service has taken it, within `time`.
    pub(super) async fn post(&mut self, body: Bytes, time: Duration) -> bool {
        let span = debug_span!("hook", bytes = body.len(), trace_id = Empty, span_id = Empty, status = Empty);
        let context = trace::join(&span, None);
        let outcome = timeout(time, self.attempt(body, context)).instrument(span).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {time:?}")));
        match &outcome {
            Ok(()) if self.has_failed => {
                info!("the service of hook_url takes events again");
                self.has_failed = false;
            }
            Ok(()) => {}
            Err(reason) => self.log_failure(reason, context),
        }
        outcome.is_ok()
    }

    async fn attempt(&mut self, body: Bytes, context: TraceContext) -> Result<(), String> {
        let second = clock::since_1970().as_secs();
        let request = Request::post(&self.uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT)
            .header(TRACEPARENT, context.traceparent())
            .header(SIGNATURE, self.keys.borrow().sign(second, &body))
            .body(Full::from(body))
            .expect("the parts of the request are sound");
        let response = self.client.request(request).await.map_err(|error| causes(&error))?;
        let status = response.status();
        Span::current().record("status", status.as_u16());
        // The body is read only so that the connection can be used again. If it is too long, the next batch needs a new one.
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.ok();
        if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_str())) }
    }

    /// Logs a failure, at a bounded rate.
    fn log_failure(&mut self, reason: &str, context: TraceContext) {
        self.has_failed = true;
        if self.complaints.is_due(Instant::now()) {
            let trace_id = context.trace_id();
            warn!(reason = printable(reason), trace_id, "the service of hook_url fails, events wait");
        }
    }
}
