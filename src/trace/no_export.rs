//! In place of `export.rs` without the feature `opentelemetry`: spans are not exported.

use hyper::HeaderMap;
use tracing::Span;

use super::{RemoteParent, TraceContext};

/// Returns `None`: no exporter has given the span ids.
pub(super) fn context(_span: &Span, _parent: Option<(RemoteParent, &HeaderMap)>) -> Option<TraceContext> {
    None
}
