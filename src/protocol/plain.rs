//! The plain protocol, the one of the Workerman demo: `uid:message`, or `all:message`.
//!
//! The first message of a connection is its uid (see [`crate::uid::Uid`]); each further one is a
//! command. Matching is exact: nothing is trimmed, no case is folded.

use std::borrow::Cow;

use super::{Command, Encoding, Login, Malformed, Recipient, Rules, Span};
use crate::uid::BROADCAST;

/// The rules of [`super::Protocol::Plain`].
pub struct Plain;

/// The error for a message without a colon.
pub const NO_COLON: Malformed = Malformed("expected uid:message or all:message, got no colon");

impl Rules for Plain {
    const SUBPROTOCOL: Option<&'static str> = Some("pombo.plain");
    const LOGIN: Login = Login::UpgradeOrFirstMessage;
    const ENCODING: Encoding = Encoding::Payload;

    #[inline]
    fn parse(message: &[u8]) -> Result<Command, Malformed> {
        parse(message).ok_or(NO_COLON)
    }

    /// The template with every `{uid}` replaced.
    fn login_reply(template: &str, uid: &str) -> Option<String> {
        Some(template.replace("{uid}", uid))
    }

    fn error(text: &str) -> Option<Cow<'static, str>> {
        Some(format!("error: {text}").into())
    }
}

/// Splits a data message at its first colon; `None` when it has none.
///
/// # Examples
/// ```
/// use pombo::protocol::plain::parse;
/// use pombo::protocol::{Command, Recipient, Span};
///
/// let payload = Span::new(4, 6);
/// assert_eq!(parse(b"all:hi"), Some(Command::Send { recipient: Recipient::Everybody, payload }));
/// let recipient = Recipient::Uid(Span::new(0, 3));
/// assert_eq!(parse(b"bob:hi"), Some(Command::Send { recipient, payload }));
/// assert_eq!(parse(b"hi"), None);
/// ```
#[inline]
pub fn parse(message: &[u8]) -> Option<Command> {
    let colon = find_colon(message)?;
    let recipient = match &message[..colon] {
        uid if uid == BROADCAST.as_bytes() => Recipient::Everybody,
        _ => Recipient::Uid(Span::new(0, colon)),
    };
    Some(Command::Send { recipient, payload: Span::new(colon + 1, message.len()) })
}

/// Returns the index of the first colon.
///
/// Most uids are so short that a loop over their bytes ends before a vector search would have started.
#[inline]
fn find_colon(message: &[u8]) -> Option<usize> {
    const SHORT: usize = 16;
    let short = message.len().min(SHORT);
    match message[..short].iter().position(|&byte| byte == b':') {
        None if message.len() > SHORT => memchr::memchr(b':', &message[SHORT..]).map(|at| SHORT + at),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(message: &str, expected: Option<(Option<&str>, &str)>) {
        let split = parse(message.as_bytes()).map(|command| match command {
            Command::Send { recipient: Recipient::Uid(uid), payload } => {
                (Some(&message[uid.range()]), &message[payload.range()])
            }
            Command::Send { recipient: Recipient::Everybody, payload } => (None, &message[payload.range()]),
            Command::Echo => panic!("the plain protocol has no echo"),
        });
        assert_eq!(split, expected);
    }

    #[test]
    fn splits_at_the_first_colon_and_trims_nothing() {
        check("bob:hi", Some((Some("bob"), "hi")));
        check("bob:http://x:80/", Some((Some("bob"), "http://x:80/")));
        check(r#"bob:{"k":"v"}"#, Some((Some("bob"), r#"{"k":"v"}"#)));
        check("bob:", Some((Some("bob"), "")));
        check("all:", Some((None, "")));
        check("all:x:y", Some((None, "x:y")));
        check("ALL:x", Some((Some("ALL"), "x")));
        check(" all:x", Some((Some(" all"), "x")));
        check("all :x", Some((Some("all "), "x")));
        check("allx:x", Some((Some("allx"), "x")));
        check(":x", Some((Some(""), "x")));
        check("bob", None);
        check("", None);
    }

    #[test]
    fn answers_a_login_byte_for_byte() {
        assert_eq!(
            Plain::login_reply("Login realizado com sucesso, seu uid é {uid}", "alice").as_deref(),
            Some("Login realizado com sucesso, seu uid é alice")
        );
        assert_eq!(Plain::login_reply("{uid}{uid}", "{uid}").as_deref(), Some("{uid}{uid}"));
        assert_eq!(Plain::login_reply("", "x").as_deref(), Some(""));
    }

    proptest! {
        #[test]
        fn loses_and_invents_no_byte(message in proptest::collection::vec(prop_oneof![Just(b':'), any::<u8>()], 0..40)) {
            match parse(&message) {
                None => prop_assert!(!message.contains(&b':')),
                Some(Command::Send { recipient: Recipient::Uid(uid), payload }) => {
                    prop_assert_eq!((uid.range().start, payload.range().end), (0, message.len()));
                    prop_assert_eq!(payload.range().start, uid.range().end + 1);
                    prop_assert_eq!(message[uid.range().end], b':');
                    prop_assert!(!message[uid.range()].contains(&b':'));
                    prop_assert_ne!(&message[uid.range()], b"all");
                }
                Some(command) => {
                    let payload = Span::new(4, message.len());
                    prop_assert_eq!(command, Command::Send { recipient: Recipient::Everybody, payload });
                    prop_assert!(message.starts_with(b"all:"));
                }
            }
        }
    }
}
