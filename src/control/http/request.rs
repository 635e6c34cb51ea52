//! The checks of each request before a route sees it: one `Host`, known codings, and UTF-8 in path, query and headers.
//!
//! Runs on the control thread as the outermost layer, before tokens are checked and probes are answered. It repairs nothing: it
//! never replaces a byte that is not UTF-8, and never decompresses a body.

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderName, ORIGIN, TRANSFER_ENCODING,
};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use tracing::debug;

use super::Api;
use super::idempotency::KEY;
use crate::control::problem::{Failure, Problem};
use crate::host;

/// Headers that the API reads, and which must be UTF-8. `Host` has its own check; a malformed `traceparent` is ignored, as
/// W3C Trace Context demands.
const TEXTS: [HeaderName; 7] = [ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, KEY, ORIGIN];

/// Passes a good request on, and answers any other with its problem.
pub(super) async fn check(State(api): State<Api>, request: Request, next: Next) -> Response {
    let checked = check_host(&request)
        .and_then(|()| check_texts(request.uri(), request.headers()))
        .and_then(|()| check_codings(request.headers()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            debug!(reason = failure.problem.name(), "control request refused");
            api.control.counts.note_problem(failure.problem);
            failure.into_response()
        }
    }
}

fn check_host(request: &Request) -> Result<(), Failure> {
    if host::is_named(request.version(), request.headers()) {
        return Ok(());
    }
    Err(Problem::Malformed.with_detail("expected one header Host, with a host and perhaps a port"))
}

/// Refuses a body that is compressed or coded otherwise. The HTTP library itself undoes `chunked`.
fn check_codings(headers: &HeaderMap) -> Result<(), Failure> {
    let mut transfer = members(headers, TRANSFER_ENCODING);
    let (first, second) = (transfer.next(), transfer.next());
    if first.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) || second.is_some() {
        return Err(Problem::TransferCoding.with_detail("expected Transfer-Encoding: chunked, or none"));
    }
    if members(headers, CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::ContentCoding.with_detail("expected a body as it is, without a Content-Encoding"));
    }
    Ok(())
}

/// Returns the members of a list, which may stand in several lines; empty ones don't count (RFC 9110, section 5.6.1).
pub(super) fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

fn check_texts(uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
    // Decoded without splitting first: `/`, `&` and `=` are never part of a longer character.
    let is_text = |encoded: &str| percent_decode_str(encoded).decode_utf8().is_ok();
    let refused = |what: &str| Err(Problem::Malformed.with_detail(format!("the {what} is not UTF-8")));
    if !is_text(uri.path()) {
        return refused("path");
    }
    if !uri.query().is_none_or(is_text) {
        return refused("query");
    }
    let is_text =
        |name: &&HeaderName| headers.get_all(*name).iter().all(|value| std::str::from_utf8(value.as_bytes()).is_ok());
    match TEXTS.iter().find(|name| !is_text(name)) {
        Some(name) => refused(&format!("header {name}")),
        None => Ok(()),
    }
}
