//! W3C trace context: the trace that a request belongs to, and the ids of the spans that this node adds to it.
//!
//! ```text
//!   traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!                │  trace id                         parent's span id sampled
//!                version
//! ```
//! Spans are made for requests, hooks and logins that ask a service, at the level `debug`, and never for work of a
//! shard. If the feature `opentelemetry` exports spans, the exporter gives them their ids; else they are drawn
//! here. The log shows the same ids either way.

use std::hash::{BuildHasher as _, RandomState};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use tracing::Span;
use tracing::field::display;

#[cfg_attr(not(feature = "opentelemetry"), path = "no_export.rs")]
mod export;

/// The header with a request's trace context, <https://www.w3.org/TR/trace-context/>.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Length of `traceparent` in version 00, which is written here.
const TRACEPARENT_BYTES: usize = 55;

/// The span of another program that made a request, from the request's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RemoteParent {
    /// Never zero.
    trace_id: u128,
    /// Never zero.
    span_id: u64,
    is_sampled: bool,
}

/// The ids of a span of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace_id: u128,
    span_id: u64,
    /// Whether the span is recorded, and goes to a collector.
    is_sampled: bool,
}

/// Puts a span into the trace of the request that has these headers, or begins a trace, and records the ids in the span's
/// fields `trace_id`, `span_id` and `parent`.
///
/// An invalid `traceparent` is ignored, as the specification demands: a new trace begins then.
pub(crate) fn join(span: &Span, headers: Option<&HeaderMap>) -> TraceContext {
    let parent = headers.and_then(RemoteParent::find);
    let context = export::context(span, parent.zip(headers)).unwrap_or_else(|| TraceContext::draw(parent));
    span.record("trace_id", display(context.trace_id()));
    span.record("span_id", display(format_args!("{:016x}", context.span_id)));
    if let Some(parent) = parent {
        span.record("parent", display(format_args!("{:016x}", parent.span_id)));
    }
    context
}

impl RemoteParent {
    /// Finds it in the headers of a request; `None` unless there is exactly one `traceparent`, and it is valid.
    fn find(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(only), None) = (values.next(), values.next()) else { return None };
        Self::read(only.as_bytes())
    }

    fn read(text: &[u8]) -> Option<Self> {
        let (head, tail) = text.split_at_checked(TRACEPARENT_BYTES)?;
        if [2, 35, 52].iter().any(|place| head[*place] != b'-') {
            return None;
        }
        let version = number(&head[..2])?;
        // Later versions may add fields after another dash.
        let has_good_tail = tail.is_empty() || (version > 0 && tail[0] == b'-');
        let (trace_id, span_id, flags) = (number(&head[3..35])?, number(&head[36..52])?, number(&head[53..])?);
        if version == 0xff || !has_good_tail || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self { trace_id, span_id: u64::try_from(span_id).ok()?, is_sampled: flags & 1 == 1 })
    }
}

/// Reads hexadecimal digits, in lower case only.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

impl TraceContext {
    /// Draws ids for a span that is not exported.
    fn draw(parent: Option<RemoteParent>) -> Self {
        let trace_id =
            parent.map_or_else(|| u128::from(random()) << 64 | u128::from(random()), |parent| parent.trace_id);
        Self { trace_id, span_id: random(), is_sampled: false }
    }

    /// Returns the trace id as 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Returns the `traceparent` for requests that this span makes.
    pub(crate) fn traceparent(&self) -> String {
        let Self { trace_id, span_id, is_sampled } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*is_sampled))
    }
}

/// Draws a number that isn't zero. It need not be hard to guess.
fn random() -> u64 {
    RandomState::new().hash_one(()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    #[track_caller]
    fn check(text: &str, expected: Option<bool>) {
        let expected = expected.map(|is_sampled| RemoteParent { trace_id: TRACE, span_id: SPAN, is_sampled });
        assert_eq!(RemoteParent::read(text.as_bytes()), expected, "{text:?}");
    }

    #[test]
    fn understands_callers() {
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", Some(false));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", Some(true));
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what comes", Some(true));
    }

    #[test]
    fn passes_over_what_is_no_traceparent() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what comes",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what comes",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b701-",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn caller_has_to_stand_there_once() {
        let value = || "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("a header");
        let mut headers = HeaderMap::new();
        assert_eq!(RemoteParent::find(&headers), None);
        headers.append(TRACEPARENT, value());
        assert!(RemoteParent::find(&headers).is_some());
        headers.append(TRACEPARENT, value());
        assert_eq!(RemoteParent::find(&headers), None);
    }

    #[test]
    fn places_are_new_and_are_told_as_they_are_read() {
        let parent = RemoteParent { trace_id: TRACE, span_id: SPAN, is_sampled: true };
        let (child, root, other) =
            (TraceContext::draw(Some(parent)), TraceContext::draw(None), TraceContext::draw(None));
        assert_eq!(child.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(child.span_id, SPAN);
        assert_ne!((root.trace_id, root.span_id), (other.trace_id, other.span_id));
        for context in [child, root] {
            let TraceContext { trace_id, span_id, is_sampled } = context;
            let parent = RemoteParent::read(context.traceparent().as_bytes());
            assert_eq!(parent, Some(RemoteParent { trace_id, span_id, is_sampled }));
        }
    }
}
