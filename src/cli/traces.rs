//! Traces for a collector: the spans of requests, by OTLP over HTTP, with the feature `opentelemetry`.
//!
//! ```text
//!   spans ─▶ bounded queue ─▶ a thread of the SDK ─▶ Watched ─▶ Collector ─▶ POST …/v1/traces
//! ```
//! All settings are the standard variables of OpenTelemetry. No thread that makes a span waits: spans that find the queue
//! full, and batches that the collector refuses, are lost, and the log says so.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry::{KeyValue, Value};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tracing::{Level, Subscriber, info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::service::{self, ServiceClient, causes, printable};

/// How long the last spans may take to reach the collector, once the node has drained.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// How long a request may take, unless the environment sets it; the default of the specification.
const EXPORT_TIME: Duration = Duration::from_secs(10);

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Targets of the spans, and of the events, that are exported.
const SOURCES: &str = "pombo::";
const EVENTS: &str = "pombo::control::http::spans";

/// A running export.
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts the export, if the environment names a collector.
    ///
    /// # Errors
    /// When a variable has an unusable value; traces are not exported then.
    pub(super) fn start(variables: &[(OsString, OsString)]) -> Result<Option<Self>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| other == name).and_then(|(_, value)| value.to_str());
            found.filter(|value| !value.is_empty())
        };
        // The variable for traces overrides the one for all signals.
        let setting = |name: &str| {
            let own = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
            own.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER") == Some("none");
        if is_off || setting("ENDPOINT").is_none() {
            return Ok(None);
        }
        if let Some(protocol) = setting("PROTOCOL").filter(|protocol| *protocol != "http/protobuf") {
            return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}, expected http/protobuf"));
        }
        let time = setting("TIMEOUT").and_then(|time| time.parse().ok()).map_or(EXPORT_TIME, Duration::from_millis);
        let trouble = Arc::<Mutex<Trouble>>::default();
        let collector = Collector::new(setting("CERTIFICATE").map(Path::new), time, Arc::clone(&trouble))?;
        let exporter = SpanExporter::builder().with_http().with_http_client(collector).build();
        let exporter = exporter.map_err(|error| causes(&error))?;
        let mut resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let names = variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
        if variable("OTEL_SERVICE_NAME").is_none() && !names {
            resource = resource.with_service_name("pombo");
        }
        let watched = Watched { exporter, trouble };
        let provider =
            SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(watched).build();
        Ok(Some(Self { provider }))
    }

    /// Does nothing: [`Traces::start`] has logged what it does.
    pub(super) fn explain(_variables: &[(OsString, OsString)]) {}

    /// Returns the layer that exports spans.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let taken = filter_fn(|metadata| {
            let is_ours = metadata.target().starts_with(SOURCES);
            is_ours && if metadata.is_span() { *metadata.level() <= Level::DEBUG } else { metadata.target() == EVENTS }
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("pombo"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_filter(taken)
    }

    /// Sends the last spans, for a short time.
    pub(super) fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIME) {
            warn!(error = %error, "the last traces were not delivered");
        }
    }
}

/// The state of a failing collector.
#[derive(Debug, Default)]
struct Trouble {
    /// Why the last request failed.
    cause: String,
    /// Whether the last batch was lost.
    is_failing: bool,
    /// Spans lost since the first failure.
    lost: usize,
}

fn open(trouble: &Mutex<Trouble>) -> MutexGuard<'_, Trouble> {
    // A poisoned lock is taken: the state is only logged.
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends batches by [`ServiceClient`].
struct Collector {
    client: ServiceClient,
    /// The SDK calls from a thread of its own, which has no runtime. `None` only while this is dropped.
    runtime: Option<Runtime>,
    time: Duration,
    trouble: Arc<Mutex<Trouble>>,
}

impl Collector {
    fn new(ca: Option<&Path>, time: Duration, trouble: Arc<Mutex<Trouble>>) -> Result<Self, String> {
        let client =
            service::client(None, "OTEL_EXPORTER_OTLP_CERTIFICATE", ca, 1).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no event loop: {error}"))?;
        Ok(Self { client, runtime: Some(runtime), time, trouble })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.client.request(request.map(Full::from)).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.as_ref().expect("it is there until this goes");
        let sent = runtime.block_on(async { timeout(self.time, self.send(request)).await });
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.time).into()));
        open(&self.trouble).cause = match &sent {
            Ok(response) if response.status().is_success() => String::new(),
            Ok(response) => format!("status {}", response.status().as_u16()),
            Err(error) => causes(error.as_ref() as &dyn Error),
        };
        sent
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // This may be dropped on any thread, so it must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("time", &self.time).finish_non_exhaustive()
    }
}

/// The exporter. It counts lost spans, and renames fields of spans to the semantic conventions.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    trouble: Arc<Mutex<Trouble>>,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(conventional);
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let mut trouble = open(&self.trouble);
        match exported {
            Ok(()) if trouble.is_failing => {
                let Trouble { lost, .. } = std::mem::take(&mut *trouble);
                info!(lost, "traces are delivered again");
            }
            Ok(()) => {}
            Err(error) => {
                trouble.lost += spans;
                if !std::mem::replace(&mut trouble.is_failing, true) {
                    let reason = if trouble.cause.is_empty() { error.to_string() } else { trouble.cause.clone() };
                    warn!(reason = printable(&reason), "the collector of traces fails, they are lost meanwhile");
                }
            }
        }
        // Ok, because the failure is logged here: the SDK must not log it again.
        Ok(())
    }

    fn shutdown_with_timeout(&self, time: Duration) -> OTelSdkResult {
        let trouble = open(&self.trouble);
        if trouble.is_failing {
            warn!(lost = trouble.lost, "traces were lost");
        }
        drop(trouble);
        self.exporter.shutdown_with_timeout(time)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Fields that are text even if they look like a number.
const NAMES: [&str; 2] = ["token", "uid"];

/// Names the fields of a span by the semantic conventions for HTTP, and all others with the prefix `pombo.`.
fn conventional(span: &mut SpanData) {
    // The span has these by itself.
    span.attributes.retain(|attribute| !["trace_id", "span_id", "parent"].contains(&attribute.key.as_str()));
    let mut status = None;
    for KeyValue { key, value, .. } in &mut span.attributes {
        // Numbers without a sign come as text.
        if let Some(number) = value.as_str().parse().ok().filter(|_| !NAMES.contains(&key.as_str())) {
            *value = Value::I64(number);
        }
        *key = match key.as_str() {
            "method" => "http.request.method".into(),
            "route" => "http.route".into(),
            "status" => {
                status = if let Value::I64(status) = value { Some(*status) } else { None };
                "http.response.status_code".into()
            }
            name if name.contains('.') => continue,
            name => format!("pombo.{name}").into(),
        };
    }
    let text = |span: &SpanData, key: &str| {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.as_str().into_owned())
    };
    let (kind, failed_from) = match span.name.as_ref() {
        "request" => (SpanKind::Server, 500),
        "hook" | "ask" => (SpanKind::Client, 400),
        _ => return,
    };
    span.span_kind = kind;
    if status.is_some_and(|status| status >= failed_from) {
        span.status = Status::error("");
    }
    if let Some(method) = text(span, "http.request.method") {
        let route = text(span, "http.route").map(|route| format!(" {route}")).unwrap_or_default();
        span.name = format!("{method}{route}").into();
    }
}
