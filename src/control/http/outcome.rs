//! Messages in JSON, and the outcome of each.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::Reply;
use crate::config::ControlSettings;
use crate::control::problem::{Details, Failure, Problem};
use crate::dispatcher::{Push, Unanswered};
use crate::message::{Delivery, Kind, Shed};
use crate::uid::Uid;

/// The outcome of a message to one uid.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Outcome<'a> {
    /// The receiver's uid; `null` if the line could not be read that far.
    #[schema(value_type = Option<String>)]
    pub(super) uid: Option<&'a str>,
    #[serde(flatten)]
    pub(super) became: Became<'a>,
}

/// The outcome of a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(super) enum Became<'a> {
    /// Accepted into the outbox of some sessions.
    Delivered {
        /// How many, at least one.
        #[schema(minimum = 1)]
        sessions: usize,
    },
    /// Nobody with this uid is logged in.
    Offline,
    /// The uid has sessions, and none accepted it.
    Shed {
        /// The reason.
        #[schema(example = "outbox-full")]
        reason: &'static str,
    },
    /// It was not sent.
    Refused {
        /// The reason.
        problem: Details<'a>,
    },
    /// It may have been sent, or may still be sent.
    Unknown {
        /// The reason why the outcome is unknown.
        problem: Details<'a>,
    },
}

impl From<Delivery> for Became<'_> {
    fn from(delivery: Delivery) -> Self {
        match delivery {
            Delivery::Delivered { sessions } => Self::Delivered { sessions },
            Delivery::Offline => Self::Offline,
            Delivery::Shed(reason) => Self::Shed { reason: reason.name() },
        }
    }
}

impl<'a> From<&'a Failure> for Became<'a> {
    fn from(failure: &'a Failure) -> Self {
        let problem = failure.details();
        if failure.problem.may_be_done() { Self::Unknown { problem } } else { Self::Refused { problem } }
    }
}

/// The outcome of a push, or why there is none.
pub(super) type PushResult = Result<Delivery, Failure>;

/// Makes the JSON form of a push's result.
pub(super) fn outcome<'a>(uid: Option<&'a str>, answered: &'a PushResult) -> Outcome<'a> {
    let became = match answered {
        Ok(delivery) => (*delivery).into(),
        Err(failure) => failure.into(),
    };
    Outcome { uid, became }
}

/// Returns the result of a valid message that is longest in JSON, without the uid.
pub(super) fn longest() -> &'static PushResult {
    static LONGEST: LazyLock<PushResult> = LazyLock::new(|| {
        let delivered = [Ok(Delivery::Delivered { sessions: usize::MAX }), Ok(Delivery::Offline)];
        let shed = Shed::ALL.iter().map(|reason| Ok(Delivery::Shed(*reason)));
        let unanswered = [Unanswered::Drained, Unanswered::Busy, Unanswered::Silent].map(PushResult::from);
        let all = delivered.into_iter().chain(shed).chain(unanswered);
        all.max_by_key(|answered| Reply::json_bytes(&outcome(None, answered))).expect("there are some")
    });
    &LONGEST
}

/// A message and its receiver: a line of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Line)]
pub(super) struct BatchMessage<'a> {
    /// The receiver's uid.
    #[serde(borrow)]
    pub(super) uid: Cow<'a, str>,
    /// The message, to go out as text; this or `base64`.
    #[serde(borrow, default)]
    #[schema(nullable = false)]
    pub(super) text: Option<Cow<'a, str>>,
    /// The message in base64, to go out as binary; this or `text`.
    #[serde(borrow, default)]
    #[schema(nullable = false, format = "byte")]
    pub(super) base64: Option<Cow<'a, str>>,
}

/// A message and its receivers.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List<'a> {
    /// The receivers' uids; a uid that is listed twice receives the message twice.
    pub(super) uids: Vec<String>,
    /// The message, to go out as text; this or `base64`.
    #[serde(borrow, default)]
    #[schema(nullable = false)]
    pub(super) text: Option<Cow<'a, str>>,
    /// The message in base64, to go out as binary; this or `text`.
    #[serde(borrow, default)]
    #[schema(nullable = false, format = "byte")]
    pub(super) base64: Option<Cow<'a, str>>,
}

/// Reads a message from `text` or `base64`, of which exactly one must be present.
pub(super) fn message(
    text: Option<Cow<'_, str>>,
    base64: Option<Cow<'_, str>>,
    settings: &ControlSettings,
) -> Result<(Kind, Bytes), Failure> {
    let (kind, message) = match (text, base64) {
        (Some(text), None) => (Kind::Text, text.into_owned().into_bytes()),
        (None, Some(base64)) => {
            let decoded = BASE64.decode(base64.as_bytes());
            let refused =
                |error| Problem::Message.with_detail(format!("base64 is none (RFC 4648, section 4): {error}"));
            (Kind::Binary, decoded.map_err(refused)?)
        }
        (None, None) | (Some(_), Some(_)) => {
            return Err(Problem::Message.with_detail("expected a text or base64, one of them"));
        }
    };
    if message.len() > settings.push_bytes_max {
        let (length, max) = (message.len(), settings.push_bytes_max);
        return Err(Problem::TooLarge.with_detail(format!("the message has {length} bytes, expected at most {max}")));
    }
    Ok((kind, Bytes::from(message)))
}

/// Refuses a uid that is not valid.
pub(super) fn check_uid(uid: &str, settings: &ControlSettings) -> Result<(), Failure> {
    let checked = Uid::check(uid.as_bytes(), settings.uid_bytes_max);
    checked.map(|_| ()).map_err(|error| Problem::Uid.with_detail(error.to_string()))
}

/// Parses a line of a batch; an error comes with the uid, if the line has one.
pub(super) fn push_of(line: &[u8], settings: &ControlSettings) -> Result<Push, (Option<String>, Failure)> {
    let line: BatchMessage<'_> = serde_json::from_slice(line).map_err(|error| {
        let form = "expected {\"uid\": …, \"text\": …} or {\"uid\": …, \"base64\": …}";
        (None, Problem::Malformed.with_detail(format!("{form}: {error}")))
    })?;
    let BatchMessage { uid, text, base64 } = line;
    let checked = check_uid(&uid, settings).and_then(|()| message(text, base64, settings));
    match checked {
        Ok((kind, payload)) => Ok(Push { uid: uid.into(), kind, payload }),
        Err(failure) => Err((Some(uid.into_owned()), failure)),
    }
}

impl From<Unanswered> for PushResult {
    fn from(unanswered: Unanswered) -> Self {
        Err(unanswered.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A push's uid, kind and payload; or the uid of a refused line, and the name of its problem.
    type Read<'a> = Result<(&'a str, Kind, &'a [u8]), (Option<&'a str>, &'a str)>;

    #[track_caller]
    fn check(line: &str, expected: Read<'_>) {
        let settings = Config { push_bytes_max: Some(4), ..Config::default() }.control_settings();
        let read = push_of(line.as_bytes(), &settings);
        match (&read, expected) {
            (Ok(push), Ok((uid, kind, payload))) => {
                assert_eq!((&*push.uid, push.kind, &push.payload[..]), (uid, kind, payload), "{line}");
            }
            (Err((uid, failure)), Err((expected, problem))) => {
                assert_eq!((uid.as_deref(), failure.problem.name()), (expected, problem), "{line}");
            }
            _ => panic!("{line}: {read:?} is not {expected:?}"),
        }
    }

    #[test]
    fn lines_of_a_batch() {
        check(r#"{"uid":"a","text":"hi"}"#, Ok(("a", Kind::Text, b"hi")));
        check(r#" { "text" : "\u0041\n" , "uid" : "\u00e9" } "#, Ok(("é", Kind::Text, b"A\n")));
        check(r#"{"uid":"a","text":""}"#, Ok(("a", Kind::Text, b"")));
        check(r#"{"uid":"a","base64":"AP8="}"#, Ok(("a", Kind::Binary, b"\x00\xff")));
        check(r#"{"uid":"a","base64":null,"text":"x"}"#, Ok(("a", Kind::Text, b"x")));
        for line in ["x", "[]", "{}", r#"{"uid":1,"text":""}"#, r#"{"uid":"a","text":1}"#, r#"{"uid":"a","txt":""}"#] {
            check(line, Err((None, "malformed")));
        }
        check(r#"{"uid":"a"}"#, Err((Some("a"), "message")));
        check(r#"{"uid":"a","text":"","base64":""}"#, Err((Some("a"), "message")));
        check(r#"{"uid":"a","base64":"AP8"}"#, Err((Some("a"), "message")));
        check(r#"{"uid":"a","text":"hello"}"#, Err((Some("a"), "too-large")));
        check(r#"{"uid":"all","text":""}"#, Err((Some("all"), "uid")));
        check(r#"{"uid":"a:b","text":""}"#, Err((Some("a:b"), "uid")));
        check(r#"{"uid":"","text":""}"#, Err((Some(""), "uid")));
    }
}
