//! W3C trace context: the trace that a request belongs to, and the place in it of what is done here.
//!
//! ```text
//!   traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//!                │  the trace                        who asks         sampled
//!                version
//! ```
//! Spans are made for requests, hooks and log-ins that ask a service, at the level `debug`, and never for what goes
//! through a shard. Where the feature `opentelemetry` exports them their ids are those of the export, else they are drawn
//! here; the log tells the same ones either way.

use std::hash::{BuildHasher as _, RandomState};

use hyper::HeaderMap;
use hyper::header::HeaderName;
use tracing::Span;
use tracing::field::display;

#[cfg_attr(not(feature = "opentelemetry"), path = "no_export.rs")]
mod export;

/// The header that tells a request's trace, <https://www.w3.org/TR/trace-context/>.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// How long `traceparent` is, in the version that is written here.
const TRACEPARENT_BYTES: usize = 55;

/// Who asks, as `traceparent` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caller {
    /// Never zero.
    trace_id: u128,
    /// Never zero.
    span_id: u64,
    is_sampled: bool,
}

/// Where something that is done here stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    trace_id: u128,
    span_id: u64,
    /// Whether it is recorded, and goes to a collector.
    is_sampled: bool,
}

/// Puts a span into the trace of the request that has these headers, or begins one, and tells so in its fields
/// `trace_id`, `span_id` and `parent`.
///
/// A `traceparent` that can't be understood is passed over, as the specification wants it: the trace is a new one then.
pub(crate) fn join(span: &Span, headers: Option<&HeaderMap>) -> Place {
    let caller = headers.and_then(Caller::find);
    let place = export::place(span, caller.zip(headers)).unwrap_or_else(|| Place::draw(caller));
    span.record("trace_id", display(place.trace_id()));
    span.record("span_id", display(format_args!("{:016x}", place.span_id)));
    if let Some(caller) = caller {
        span.record("parent", display(format_args!("{:016x}", caller.span_id)));
    }
    place
}

impl Caller {
    /// Finds it among the headers of a request; it has to stand there once.
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
        // What later versions add stands behind another dash.
        let has_good_tail = tail.is_empty() || (version > 0 && tail[0] == b'-');
        let (trace_id, span_id, flags) = (number(&head[3..35])?, number(&head[36..52])?, number(&head[53..])?);
        if version == 0xff || !has_good_tail || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self { trace_id, span_id: u64::try_from(span_id).ok()?, is_sampled: flags & 1 == 1 })
    }
}

/// Reads digits of base 16, which are in lower case only.
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

impl Place {
    /// Draws ids where nothing is exported.
    fn draw(caller: Option<Caller>) -> Self {
        let trace_id =
            caller.map_or_else(|| u128::from(random()) << 64 | u128::from(random()), |caller| caller.trace_id);
        Self { trace_id, span_id: random(), is_sampled: false }
    }

    /// Shows the trace as every other program does.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Returns what another program is told that is asked from here.
    pub(crate) fn traceparent(&self) -> String {
        let Self { trace_id, span_id, is_sampled } = self;
        format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*is_sampled))
    }
}

/// Draws a number that isn't zero. That nobody can guess it is not needed.
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
        let expected = expected.map(|is_sampled| Caller { trace_id: TRACE, span_id: SPAN, is_sampled });
        assert_eq!(Caller::read(text.as_bytes()), expected, "{text:?}");
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
        assert_eq!(Caller::find(&headers), None);
        headers.append(TRACEPARENT, value());
        assert!(Caller::find(&headers).is_some());
        headers.append(TRACEPARENT, value());
        assert_eq!(Caller::find(&headers), None);
    }

    #[test]
    fn places_are_new_and_are_told_as_they_are_read() {
        let caller = Caller { trace_id: TRACE, span_id: SPAN, is_sampled: true };
        let (child, root, other) = (Place::draw(Some(caller)), Place::draw(None), Place::draw(None));
        assert_eq!(child.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(child.span_id, SPAN);
        assert_ne!((root.trace_id, root.span_id), (other.trace_id, other.span_id));
        for place in [child, root] {
            let Place { trace_id, span_id, is_sampled } = place;
            let told = Caller::read(place.traceparent().as_bytes());
            assert_eq!(told, Some(Caller { trace_id, span_id, is_sampled }));
        }
    }
}
