//! The ids of spans that are exported: the exporter has given them.

use hyper::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{RemoteParent, TraceContext};

/// Sets a span's remote parent, and returns the span's ids; `None` if spans are not exported.
pub(super) fn context(span: &Span, parent: Option<(RemoteParent, &HeaderMap)>) -> Option<TraceContext> {
    if let Some((parent, headers)) = parent {
        let trace_id = TraceId::from_bytes(parent.trace_id.to_be_bytes());
        let span_id = SpanId::from_bytes(parent.span_id.to_be_bytes());
        let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let remote = SpanContext::new(trace_id, span_id, flags, true, state(headers));
        // Fails if spans are not exported; then the span below has no valid context, either.
        span.set_parent(Context::new().with_remote_span_context(remote)).ok();
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(own.span_id().to_bytes()),
        is_sampled: own.is_sampled(),
    })
}

/// Reads `tracestate`, which goes on to the exporter and the next systems; an invalid one is dropped.
fn state(headers: &HeaderMap) -> TraceState {
    let lines: Option<Vec<_>> = headers.get_all("tracestate").iter().map(|line| line.to_str().ok()).collect();
    lines.and_then(|lines| lines.join(",").parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("tracestate", line.parse().expect("a header"));
        }
        assert_eq!(state(&headers).header(), expected, "{lines:?}");
    }

    #[test]
    fn state_is_taken_or_left_as_a_whole() {
        check(&[], "");
        check(&["a=1,b=2"], "a=1,b=2");
        check(&["a=1", "b=2"], "a=1,b=2");
        check(&["a=1", "b"], "");
    }
}
