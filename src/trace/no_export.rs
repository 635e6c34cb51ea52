//! What there is of `export.rs` without the feature `opentelemetry`: nothing is exported.

use hyper::HeaderMap;
use tracing::Span;

use super::{Caller, Place};

/// Tells that nobody else numbers spans.
pub(super) fn place(_span: &Span, _caller: Option<(Caller, &HeaderMap)>) -> Option<Place> {
    None
}
