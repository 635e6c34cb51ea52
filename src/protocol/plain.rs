//! The plain protocol, the one of the Workerman demo: `uid:message`, or `all:message`.
//!
//! The first message of a connection is its uid (see [`crate::uid::Uid`]); each further one is a
//! command. Matching is exact: nothing is trimmed, no case is folded.

use crate::rights::Rights;
use crate::uid::BROADCAST;

/// Its name as a subprotocol; a browser that offers any wants one to be chosen.
pub const SUBPROTOCOL: &str = "pombo.plain";

/// To whom a data message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The sessions of one uid: the bytes in front of the first colon.
    Uid,
    /// Every logged-in session, the sender's too.
    Everybody,
}

impl Recipient {
    /// Returns what a client must have the right to.
    #[inline]
    pub fn right(self) -> Rights {
        match self {
            Self::Uid => Rights::UNICAST,
            Self::Everybody => Rights::BROADCAST,
        }
    }
}

/// Where a data message is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whom the part in front of the colon names.
    pub recipient: Recipient,
    /// Index of the first colon; the payload is everything behind it.
    pub colon: usize,
}

/// Answer to a message without a colon.
pub const NO_COLON: &str = "error: expected uid:message or all:message, got no colon";

/// Answer to a message to one uid from a client without the right to unicast.
pub const NO_UNICAST: &str = "error: not allowed to send to a uid, this login lacks the right unicast";

/// Answer to a message to everybody from a client without the right to broadcast.
pub const NO_BROADCAST: &str = "error: not allowed to send to all, this login lacks the right broadcast";

/// Splits a data message; `None` when it has no colon.
///
/// # Examples
/// ```
/// use pombo::protocol::plain::{Recipient, parse};
///
/// let command = parse(b"bob:see http://example.org").expect("it has a colon");
/// assert_eq!(command.recipient, Recipient::Uid);
/// assert_eq!(parse(b"all:hi").map(|command| command.recipient), Some(Recipient::Everybody));
/// assert!(parse(b"hi").is_none());
/// ```
#[inline]
pub fn parse(message: &[u8]) -> Option<Command> {
    let colon = find_colon(message)?;
    let recipient = match &message[..colon] {
        uid if uid == BROADCAST.as_bytes() => Recipient::Everybody,
        _ => Recipient::Uid,
    };
    Some(Command { recipient, colon })
}

/// Returns the index of the first colon.
///
/// Most uids are so short that a look at each byte is over before a vector search has begun.
#[inline]
fn find_colon(message: &[u8]) -> Option<usize> {
    const SHORT: usize = 16;
    let short = message.len().min(SHORT);
    match message[..short].iter().position(|&byte| byte == b':') {
        None if message.len() > SHORT => memchr::memchr(b':', &message[SHORT..]).map(|at| SHORT + at),
        found => found,
    }
}

/// Writes the answer to a login: the template with every `{uid}` replaced.
pub fn login_reply(template: &str, uid: &str) -> String {
    template.replace("{uid}", uid)
}

/// Writes an answer that says what was wrong.
pub fn error(what: impl std::fmt::Display) -> String {
    format!("error: {what}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(message: &str, expected: Option<(Recipient, &str, &str)>) {
        let split = parse(message.as_bytes())
            .map(|command| (command.recipient, &message[..command.colon], &message[command.colon + 1..]));
        assert_eq!(split, expected);
    }

    #[test]
    fn splits_at_the_first_colon_and_trims_nothing() {
        check("bob:hi", Some((Recipient::Uid, "bob", "hi")));
        check("bob:http://x:80/", Some((Recipient::Uid, "bob", "http://x:80/")));
        check(r#"bob:{"k":"v"}"#, Some((Recipient::Uid, "bob", r#"{"k":"v"}"#)));
        check("bob:", Some((Recipient::Uid, "bob", "")));
        check("all:", Some((Recipient::Everybody, "all", "")));
        check("all:x:y", Some((Recipient::Everybody, "all", "x:y")));
        check("ALL:x", Some((Recipient::Uid, "ALL", "x")));
        check(" all:x", Some((Recipient::Uid, " all", "x")));
        check("all :x", Some((Recipient::Uid, "all ", "x")));
        check("allx:x", Some((Recipient::Uid, "allx", "x")));
        check(":x", Some((Recipient::Uid, "", "x")));
        check("bob", None);
        check("", None);
    }

    #[test]
    fn answers_a_login_byte_for_byte() {
        assert_eq!(
            login_reply("Login realizado com sucesso, seu uid é {uid}", "alice"),
            "Login realizado com sucesso, seu uid é alice"
        );
        assert_eq!(login_reply("{uid}{uid}", "{uid}"), "{uid}{uid}");
        assert_eq!(login_reply("", "x"), "");
    }

    proptest! {
        #[test]
        fn loses_and_invents_no_byte(message in proptest::collection::vec(prop_oneof![Just(b':'), any::<u8>()], 0..40)) {
            match parse(&message) {
                None => prop_assert!(!message.contains(&b':')),
                Some(Command { recipient, colon }) => {
                    prop_assert_eq!(message[colon], b':');
                    prop_assert!(!message[..colon].contains(&b':'));
                    prop_assert_eq!(recipient == Recipient::Everybody, &message[..colon] == b"all");
                }
            }
        }
    }
}
