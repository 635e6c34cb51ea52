//! The table of problems: why a request of another program was not done, and the answer to each (RFC 9457).
//!
//! Knows nothing of the HTTP API's replies, which are made from problems.

use axum::http::StatusCode;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::dispatcher::Unanswered;

/// Why a request of another program was not done, or is not known to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A parameter, header or body that can't be understood.
    Malformed,
    /// The node has tokens, and the request has no valid one.
    Unauthorized,
    /// The token lacks the right.
    Forbidden,
    /// A web page sent the request from its visitor's browser.
    ForeignPage,
    /// No such path.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The body did not come in time.
    BodyTimeout,
    /// The key's first request is not answered yet.
    KeyInUse,
    /// The body, or a list in it, is too long.
    TooLarge,
    /// The body is of a type that is not taken.
    MediaType,
    /// The body is compressed, or coded otherwise.
    ContentCoding,
    /// The uid is not valid.
    Uid,
    /// The message is no base64, or not there, or there twice.
    Message,
    /// The close code or reason can't be sent.
    Close,
    /// The key was used for another request.
    KeyReused,
    /// The node drains.
    Draining,
    /// All connection slots are taken by connections whose requests are being served.
    Busy,
    /// A shard had no room for the request.
    ShardBusy,
    /// There is no room for answers to be kept.
    KeysFull,
    /// A shard has the request, and did not answer in time.
    ShardSilent,
    /// Some shards took a broadcast and others did not, or may not have.
    Incomplete,
    /// The node failed at this request.
    Internal,
    /// The body comes in a transfer coding that the node does not know.
    TransferCoding,
}

impl Problem {
    /// Each problem, in the order of the table in `docs/push.md`.
    pub const ALL: &'static [Self] = &[
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::ForeignPage,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::KeyInUse,
        Self::TooLarge,
        Self::MediaType,
        Self::ContentCoding,
        Self::Uid,
        Self::Message,
        Self::Close,
        Self::KeyReused,
        Self::Internal,
        Self::TransferCoding,
        Self::Draining,
        Self::Busy,
        Self::ShardBusy,
        Self::KeysFull,
        Self::ShardSilent,
        Self::Incomplete,
    ];

    /// What every `type` begins with; the name comes behind it.
    pub const TYPE_PREFIX: &str = "urn:problem-type:pombo:";

    /// Returns its name, status, and title.
    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => ("malformed", StatusCode::BAD_REQUEST, "the request can't be understood"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "a token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "the token lacks the right"),
            Self::ForeignPage => ("foreign-page", StatusCode::FORBIDDEN, "web pages may not use this address"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "there is nothing at this path"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "the path has no such method")
            }
            Self::BodyTimeout => ("body-timeout", StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
            Self::KeyInUse => ("key-in-use", StatusCode::CONFLICT, "the key's first request is not answered yet"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Self::MediaType => ("media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body's type is not taken"),
            Self::ContentCoding => {
                ("content-coding", StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body's coding is not taken")
            }
            Self::Uid => ("uid", StatusCode::UNPROCESSABLE_ENTITY, "nobody can have this uid"),
            Self::Message => ("message", StatusCode::UNPROCESSABLE_ENTITY, "the message can't be sent"),
            Self::Close => ("close", StatusCode::UNPROCESSABLE_ENTITY, "sessions can't be closed like this"),
            Self::KeyReused => ("key-reused", StatusCode::UNPROCESSABLE_ENTITY, "the key was used for another request"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "the node failed at this request"),
            Self::TransferCoding => {
                ("transfer-coding", StatusCode::NOT_IMPLEMENTED, "the transfer coding is not known")
            }
            Self::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE, "the node ends"),
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "too many requests are being served"),
            Self::ShardBusy => ("shard-busy", StatusCode::SERVICE_UNAVAILABLE, "a shard has no time"),
            Self::KeysFull => ("keys-full", StatusCode::SERVICE_UNAVAILABLE, "there is no room for another key"),
            Self::ShardSilent => ("shard-silent", StatusCode::GATEWAY_TIMEOUT, "a shard did not answer in time"),
            Self::Incomplete => ("incomplete", StatusCode::GATEWAY_TIMEOUT, "not every shard has answered"),
        }
    }

    /// Returns its name, the end of its `type`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Returns the status that it is answered with.
    pub const fn status(self) -> u16 {
        self.row().1.as_u16()
    }

    pub(super) const fn status_code(self) -> StatusCode {
        self.row().1
    }

    /// Returns the title, which is the same for all requests with this problem.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// Makes a failure with this problem; `detail` says what was wrong with the request, and what was expected.
    pub(super) fn with_detail(self, detail: impl Into<String>) -> Failure {
        Failure { problem: self, detail: detail.into(), sessions: None, retry_after: None }
    }

    /// Returns whether the request may have been done although it has this problem.
    pub(super) const fn may_be_done(self) -> bool {
        matches!(self, Self::ShardSilent | Self::Incomplete)
    }
}

/// The failure of one request: a problem, with its details.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) problem: Problem,
    pub(super) detail: String,
    /// Number of sessions that get a broadcast which not all shards took.
    pub(super) sessions: Option<usize>,
    /// Seconds after which the caller may try again.
    pub(super) retry_after: Option<u64>,
}

/// Most bytes of a problem made of a shard's answer, whose detail is one of a few sentences.
pub(super) const BYTES_MAX: usize = 1024;

/// Problem details, as RFC 9457 has them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Details<'a> {
    /// Which problem: `urn:problem-type:pombo:` and its name.
    #[schema(format = "uri")]
    r#type: String,
    /// What is the same for all problems of this type.
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong this time, and what was expected.
    detail: &'a str,
    /// How many sessions have an incomplete broadcast.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sessions: Option<usize>,
}

impl Failure {
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(super) fn details(&self) -> Details<'_> {
        Details {
            r#type: format!("{}{}", Problem::TYPE_PREFIX, self.problem.name()),
            title: self.problem.title(),
            status: self.problem.status(),
            detail: &self.detail,
            sessions: self.sessions,
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Drained => draining(),
            Unanswered::Busy => Problem::ShardBusy
                .with_detail("the shard had no room for the request in time, nothing was done; try again later")
                .retry_after(1),
            Unanswered::Silent => Problem::ShardSilent
                .with_detail("the shard has the request and did not answer in time, it may have done it or do it yet"),
        }
    }
}

/// The failure of a request that came during the drain.
pub(super) fn draining() -> Failure {
    Problem::Draining
        .with_detail("the node drains, nothing was done; try again later, here or elsewhere")
        .retry_after(1)
}

/// Adds the headers that go with a problem.
pub(super) fn add_headers(response: &mut Response, problem: Problem, retry_after: Option<u64>) {
    // The middleware that counts problems reads this extension.
    response.extensions_mut().insert(problem);
    let headers = response.headers_mut();
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    match problem {
        // Close: an unauthenticated peer must not hold a slot.
        Problem::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Problem::ForeignPage | Problem::Draining | Problem::Busy => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // Close: a proxy in front may disagree on where the next request begins.
        Problem::TransferCoding => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Problem::ContentCoding => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_problem_is_in_the_table_once_and_by_status() {
        let names: HashSet<_> = Problem::ALL.iter().map(|problem| problem.name()).collect();
        assert_eq!(names.len(), Problem::ALL.len());
        assert!(Problem::ALL.is_sorted_by_key(|problem| problem.status()));
        assert!(Problem::ALL.iter().all(|problem| (400..600).contains(&problem.status())));
    }
}
