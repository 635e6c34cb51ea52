//! In place of `traces.rs` without the feature `opentelemetry`: traces are not exported.

use std::convert::Infallible;
use std::ffi::OsString;

use tracing::Subscriber;
use tracing::info;
use tracing_subscriber::layer::{Identity, Layer};

/// There is never an export.
pub(super) struct Traces(Infallible);

impl Traces {
    /// Starts nothing.
    pub(super) fn start(_variables: &[(OsString, OsString)]) -> Result<Option<Self>, String> {
        Ok(None)
    }

    /// Logs why traces are not exported, if the environment names a collector.
    pub(super) fn explain(variables: &[(OsString, OsString)]) {
        let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        if let Some((name, _)) = variables.iter().find(|(name, _)| names.iter().any(|other| name == other)) {
            info!(variable = ?name, "no traces are exported, this program was built without the feature opentelemetry");
        }
    }

    pub(super) fn layer<S: Subscriber>(&self) -> impl Layer<S> + use<S> {
        Identity::new()
    }

    pub(super) fn end(&self) {
        match self.0 {}
    }
}
