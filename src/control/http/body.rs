//! Reads request bodies within bounds, and determines a message's kind from their type.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::control::problem::{Failure, Problem};
use crate::message::Kind;

/// Reads a body of up to `bytes_max` bytes within `time`.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    time: Duration,
) -> Result<Bytes, Failure> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // Refused before the body is read, so that a client that expects 100-continue doesn't send it.
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let deadline = Instant::now() + time;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Problem::Malformed.with_detail(format!("the body is cut: {error}"))),
            Err(_) => {
                return Err(Problem::BodyTimeout.with_detail(format!("the body was not there after {time:?}")));
            }
        };
        let Ok(bytes) = frame.into_data() else { continue };
        if first.len() + rest.len() + bytes.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        // Most bodies come in one piece, and need no copy.
        if first.is_empty() && rest.is_empty() {
            first = bytes;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&bytes);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(bytes_max: usize) -> Failure {
    Problem::TooLarge.with_detail(format!("expected a body of at most {bytes_max} bytes"))
}

/// Returns whether the client waits for `100 Continue` before it sends the body; hyper sends that at the first read of the body.
pub(super) fn is_awaited(headers: &HeaderMap) -> bool {
    headers.get_all(EXPECT).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The media types of messages, for the detail of a refusal.
const MESSAGES: &str =
    "text/*, application/json or another type of JSON for a text, application/octet-stream for bytes";

/// Returns the kind of message that a body of the request's type becomes.
pub(super) fn kind(headers: &HeaderMap) -> Result<Kind, Failure> {
    let media = media_type(headers)
        .ok_or_else(|| Problem::MediaType.with_detail(format!("expected one header Content-Type: {MESSAGES}")))?;
    let refused = || {
        Problem::MediaType.with_detail(format!(
            "got a body of type {}, expected one of type {MESSAGES}; with curl: -H 'Content-Type: text/plain'",
            media.split(';').next().unwrap_or_default().trim()
        ))
    };
    let (essence, parameters) = media.split_once(';').unwrap_or((media, ""));
    let essence = essence.trim().to_ascii_lowercase();
    let is_json = essence.starts_with("application/") && (essence.ends_with("/json") || essence.ends_with("+json"));
    let is_text = essence.strip_prefix("text/").is_some_and(|subtype| !subtype.is_empty());
    if is_json || is_text {
        if is_utf8(parameters) {
            Ok(Kind::Text)
        } else {
            Err(Problem::MediaType.with_detail("expected a text in UTF-8"))
        }
    } else if essence == "application/octet-stream" {
        Ok(Kind::Binary)
    } else {
        Err(refused())
    }
}

/// Refuses a body of another type than `types`.
pub(super) fn require(headers: &HeaderMap, types: &[&str]) -> Result<(), Failure> {
    let essence = media_type(headers).map(|media| media.split(';').next().unwrap_or_default().trim());
    let is_taken = essence.is_some_and(|essence| types.iter().any(|taken| taken.eq_ignore_ascii_case(essence)));
    if is_taken {
        Ok(())
    } else {
        Err(Problem::MediaType.with_detail(format!("expected a body of type {}", types.join(" or "))))
    }
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

fn is_utf8(parameters: &str) -> bool {
    let charset = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut charsets = charset.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.all(|(_, value)| {
        let value = value.trim().trim_matches('"');
        ["utf-8", "utf8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(value))
    })
}

/// Refuses a text message that is not UTF-8.
pub(super) fn check(kind: Kind, message: &[u8]) -> Result<(), Failure> {
    if kind == Kind::Text && simdutf8::basic::from_utf8(message).is_err() {
        let expected = "the message is not UTF-8, expected a text, or application/octet-stream";
        return Err(Problem::Malformed.with_detail(expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(media: Option<&str>, expected: Option<Kind>) {
        let mut headers = HeaderMap::new();
        media.map(|media| headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).expect("a header")));
        assert_eq!(kind(&headers).ok(), expected, "{media:?}");
    }

    #[test]
    fn types_of_messages() {
        for media in [
            "text/plain",
            "Text/HTML ; Charset=\"UTF-8\"",
            "text/plain;charset=utf-8;x=y",
            "application/json",
            "application/ld+json",
            "text/plain; charset=us-ascii",
        ] {
            check(Some(media), Some(Kind::Text));
        }
        check(Some("application/octet-stream"), Some(Kind::Binary));
        for media in [
            "",
            "text/",
            "text/plain; charset=latin1",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "image/png",
            "json",
            "image/svg+json",
        ] {
            check(Some(media), None);
        }
        check(None, None);
    }
}
