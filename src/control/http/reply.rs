//! A complete answer, as it is sent, and as it is stored for an `Idempotency-Key`.

use std::io;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use crate::control::problem::{self, Failure, Problem};

/// An answer with its whole body in memory; clones share the body.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
    /// Why the request was not done; `None` if it was.
    pub(super) problem: Option<Problem>,
    pub(super) retry_after: Option<u64>,
}

impl Reply {
    /// Makes the answer to a request that was done.
    pub(super) fn json(value: &impl Serialize) -> Self {
        let mut body = serde_json::to_vec(value).expect("texts and numbers are JSON");
        // For readers at a terminal.
        body.push(b'\n');
        let content_type = HeaderValue::from_static("application/json");
        Self { status: StatusCode::OK, content_type, body: Bytes::from(body), problem: None, retry_after: None }
    }

    /// Returns the length of the body that [`Reply::json`] makes of `value`, without making it.
    pub(super) fn json_bytes(value: &impl Serialize) -> usize {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, value).expect("texts and numbers are JSON, and all of it is taken");
        // The line's end.
        length.0 + 1
    }

    /// Returns a copy whose body has no spare capacity.
    pub(super) fn to_keep(&self) -> Self {
        Self { body: Bytes::copy_from_slice(&self.body), ..self.clone() }
    }

    /// Returns whether the request was executed, or may have been: then it must not be executed again.
    pub(super) fn may_be_done(&self) -> bool {
        self.problem.is_none_or(Problem::may_be_done)
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let body = serde_json::to_vec(&failure.details()).expect("texts and numbers are JSON");
        Self {
            status: failure.problem.status_code(),
            content_type: HeaderValue::from_static("application/problem+json"),
            body: Bytes::from(body),
            problem: Some(failure.problem),
            retry_after: failure.retry_after,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        Reply::from(self).into_response()
    }
}

/// A writer that only counts bytes.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, self.content_type);
        if let Some(problem) = self.problem {
            problem::add_headers(&mut response, problem, self.retry_after);
        }
        response
    }
}
