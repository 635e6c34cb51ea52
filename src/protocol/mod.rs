//! The protocols that sessions speak: how a client's message is parsed, and how a message to a client is encoded.
//!
//! Sans-I/O and without state: bytes to a [`Command`], a [`Message`] to bytes, an outcome to an answer. A session speaks one
//! [`Protocol`] from its upgrade on. Sessions of several protocols live on one node: each receives every message in its own
//! protocol's encoding.
//!
//! ```text
//!   frame of a client ─▶ Protocol::parse ─▶ Command ─▶ shard ─▶ Message ─▶ one encoding per Encoding ─▶ frame
//! ```
//! To add a protocol: implement [`Rules`] in a file of its own, add a row to the table below, and an [`Encoding`] if its messages
//! look different from all others. `docs/architecture.md` lists the files.

mod command;
mod echo;
mod encoding;
#[cfg(test)]
pub(crate) mod json;
pub mod plain;

use std::borrow::Cow;

pub use self::command::{Command, Malformed, Recipient, Span};
pub use self::encoding::{Encoding, Message};

/// How a client becomes a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// By the credential in its upgrade request, or else by its first message: a uid or a credential, as the settings say.
    UpgradeOrFirstMessage,
    /// Not at all: a session has a number in place of a uid, and no right to send.
    Anonymous,
}

/// The rules of one protocol; each implementor is a row of [`Protocol`]'s table.
///
/// None of its functions may panic, whatever it is given. A panic in [`Rules::parse`] closes the session with 1011; one in
/// another function ends the shard.
pub trait Rules {
    /// Subprotocol that chooses this protocol (RFC 6455, section 1.9); `None` if there is none.
    const SUBPROTOCOL: Option<&'static str>;
    /// How its clients log in.
    const LOGIN: Login;
    /// How messages to its sessions are encoded.
    const ENCODING: Encoding;

    /// Returns whether an upgrade of this path chooses the protocol, whatever the subprotocols.
    fn is_at(_path: &str) -> bool {
        false
    }

    /// Parses a client's data message into a command.
    ///
    /// # Errors
    /// When it is not a command: see [`Malformed`].
    fn parse(message: &[u8]) -> Result<Command, Malformed>;

    /// Returns the text that answers a login, by the setting `login_reply`; `None` if no answer is due.
    fn login_reply(template: &str, uid: &str) -> Option<String>;

    /// Returns the error message for a client; `None` if the protocol has no error messages.
    fn error(text: &str) -> Option<Cow<'static, str>>;

    /// Returns the protocol's close code for a cause; `cause` is one of the codes in [`crate::frame::close`].
    fn close_code(cause: u16) -> u16 {
        cause
    }
}

/// Makes [`Protocol`] and its dispatch from the table.
macro_rules! protocols {
    ($($(#[doc = $doc:literal])* $(#[cfg($cfg:meta)])? $protocol:ident => $rules:path;)*) => {
        /// The protocol of a session, from its upgrade on; one byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Protocol {
            $($(#[doc = $doc])* $(#[cfg($cfg)])? $protocol,)*
        }

        impl Protocol {
            /// Every protocol.
            pub const ALL: &[Self] = &[$($(#[cfg($cfg)])? Self::$protocol,)*];
        }

        /// See [`Rules`] for each.
        #[allow(missing_docs, reason = "the trait has them")]
        impl Protocol {
            #[inline]
            pub const fn subprotocol(self) -> Option<&'static str> {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::SUBPROTOCOL,)* }
            }

            #[inline]
            pub const fn login(self) -> Login {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::LOGIN,)* }
            }

            #[inline]
            pub const fn encoding(self) -> Encoding {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::ENCODING,)* }
            }

            pub fn is_at(self, path: &str) -> bool {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::is_at(path),)* }
            }

            #[inline]
            pub fn parse(self, message: &[u8]) -> Result<Command, Malformed> {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::parse(message),)* }
            }

            pub fn login_reply(self, template: &str, uid: &str) -> Option<String> {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::login_reply(template, uid),)* }
            }

            pub fn error(self, text: &str) -> Option<Cow<'static, str>> {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::error(text),)* }
            }

            pub fn close_code(self, cause: u16) -> u16 {
                match self { $($(#[cfg($cfg)])? Self::$protocol => <$rules as Rules>::close_code(cause),)* }
            }
        }
    };
}

protocols! {
    /// The plain protocol: see [`plain`].
    Plain => plain::Plain;
    /// Nobody logs in, and each message comes back as it came: for suites that test WebSocket servers, see
    /// `examples/echo.rs`.
    Echo => echo::Echo;
    /// A protocol of the tests, whose messages look different from their payloads.
    #[cfg(test)]
    Json => json::Json;
}

impl Protocol {
    /// Chooses the protocol of a session at its upgrade: by the path, else by the first of the client's subprotocols that is
    /// a protocol's, else `default`.
    pub fn choose<'a>(path: &str, offered: impl IntoIterator<Item = &'a [u8]>, default: Self) -> Self {
        if let Some(&at_path) = Self::ALL.iter().find(|protocol| protocol.is_at(path)) {
            return at_path;
        }
        let named =
            |offer: &[u8]| Self::ALL.iter().copied().find(|it| it.subprotocol().map(str::as_bytes) == Some(offer));
        offered.into_iter().find_map(named).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, offered: &[&str], default: Protocol, expected: Protocol) {
        assert_eq!(Protocol::choose(path, offered.iter().map(|offer| offer.as_bytes()), default), expected);
    }

    #[test]
    fn path_goes_before_subprotocol_and_subprotocol_before_the_default() {
        check("/", &[], Protocol::Plain, Protocol::Plain);
        check("/", &[], Protocol::Echo, Protocol::Echo);
        check("/", &["chat", "pombo.plain"], Protocol::Echo, Protocol::Plain);
        check("/", &["pombo.test.json", "pombo.plain"], Protocol::Plain, Protocol::Json);
        check("/", &["pombo.plain", "pombo.test.json"], Protocol::Plain, Protocol::Plain);
        check("/", &["chat"], Protocol::Plain, Protocol::Plain);
        check("/json", &["pombo.plain"], Protocol::Plain, Protocol::Json);
    }

    #[test]
    fn each_subprotocol_names_one_protocol() {
        let mut names: Vec<_> = Protocol::ALL.iter().filter_map(|protocol| protocol.subprotocol()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(size_of::<Protocol>(), 1);
    }
}
