//! A protocol of the tests: every message is framed in JSON, so that what is delivered differs from what was sent.
//!
//! A client sends a line that names the recipient, and behind it the payload: `{"to":"bob"}` or `{}`, a line feed, `hi`. A
//! receiver gets `{"data":"hi"}`, or `{"base64":"…"}` of a payload that is no text. Everything but messages has its own form, too,
//! so that a test sees whether a session was answered by its own protocol.

use std::borrow::Cow;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Command, Encoding, Login, Malformed, Recipient, Rules, Span};
use crate::frame::close;
use crate::message::{Kind, Payload};

/// The rules of [`super::Protocol::Json`].
pub(crate) struct Json;

#[derive(Deserialize)]
struct Head<'a> {
    to: Option<&'a str>,
}

impl Rules for Json {
    const SUBPROTOCOL: Option<&'static str> = Some("pombo.test.json");
    const LOGIN: Login = Login::UpgradeOrFirstMessage;
    const ENCODING: Encoding = Encoding::Json;

    fn is_at(path: &str) -> bool {
        path == "/json"
    }

    fn parse(message: &[u8]) -> Result<Command, Malformed> {
        let malformed = Malformed(r#"expected {"to":"uid"}, a line feed and the payload"#);
        let end = message.iter().position(|&byte| byte == b'\n').ok_or(malformed)?;
        let Head { to } = serde_json::from_slice(&message[..end]).map_err(|_| malformed)?;
        let recipient = to.map_or(Recipient::Everybody, |uid| {
            let start = uid.as_ptr() as usize - message.as_ptr() as usize;
            Recipient::Uid(Span::new(start, start + uid.len()))
        });
        Ok(Command::Send { recipient, payload: Span::new(end + 1, message.len()) })
    }

    fn login_reply(_template: &str, uid: &str) -> Option<String> {
        Some(json!({ "welcome": uid }).to_string())
    }

    fn error(text: &str) -> Option<Cow<'static, str>> {
        Some(json!({ "error": text }).to_string().into())
    }

    fn close_code(cause: u16) -> u16 {
        match cause {
            close::SLOW_CONSUMER => SLOW_CONSUMER,
            cause => cause,
        }
    }
}

/// Its own close code for a slow consumer.
pub(crate) const SLOW_CONSUMER: u16 = 4301;

/// Writes what a client sends, to a uid or to everybody.
pub(crate) fn command(to: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let head = to.map_or(json!({}), |to| json!({ "to": to }));
    [head.to_string().as_bytes(), b"\n", payload].concat()
}

/// Encodes a message for its receivers.
pub(super) fn encode(kind: Kind, payload: &[u8]) -> (Kind, Payload<'static>) {
    let text = if kind == Kind::Text { std::str::from_utf8(payload).ok() } else { None };
    let framed = match text {
        Some(text) => json!({ "data": text }),
        None => json!({ "base64": BASE64.encode(payload) }),
    };
    (Kind::Text, Payload::Shared(Bytes::from(framed.to_string())))
}

/// Returns the payload of what a receiver got; `None` if it is no message.
pub(crate) fn decode(received: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(received).ok()?;
    match (value.get("data"), value.get("base64")) {
        (Some(Value::String(text)), _) => Some(text.clone().into_bytes()),
        (_, Some(Value::String(bytes))) => BASE64.decode(bytes.as_bytes()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for (kind, payload) in [(Kind::Text, &b"a \"quoted\" one"[..]), (Kind::Binary, &[0, 255]), (Kind::Text, b"")] {
            let (_, encoded) = encode(kind, payload);
            assert_eq!(decode(encoded.as_slice()).as_deref(), Some(payload));
        }
    }

    #[test]
    fn command_names_its_parts() {
        let message = command(Some("bob"), b"hi");
        let Ok(Command::Send { recipient: Recipient::Uid(uid), payload }) = Json::parse(&message) else {
            panic!("no command")
        };
        assert_eq!((&message[uid.range()], &message[payload.range()]), (&b"bob"[..], &b"hi"[..]));
        assert!(Json::parse(b"bob:hi").is_err());
    }
}
