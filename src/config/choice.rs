//! The types of settings whose value is one of a few words.

use super::Listen;
use super::form::Words as _;

/// Which request paths upgrade to a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Every path.
    Any,
    /// These paths exactly; each begins with `/`, and the query is not part of it.
    List(Vec<String>),
}

impl Paths {
    /// Returns whether a request for `path` (without its query) may upgrade.
    pub fn allows(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(paths) => paths.iter().any(|allowed| allowed == path),
        }
    }
}

/// Whether the control listener speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTls {
    /// Where other machines can connect, if the node has a certificate.
    Auto,
    /// On loopback addresses, too.
    On,
    /// Nowhere.
    Off,
}

impl ControlTls {
    /// Returns the choice that a setting's word names.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(each, _)| *each == word).map(|(_, choice)| *choice)
    }

    /// Returns whether a control listener on `listen` speaks TLS. A Unix socket never does.
    pub fn applies_to(self, listen: &Listen, has_certificate: bool) -> bool {
        let is_asked_for = match self {
            Self::Auto => !listen.is_local(),
            Self::On => true,
            Self::Off => false,
        };
        is_asked_for && has_certificate && matches!(listen, Listen::Tcp(_))
    }
}

/// What happens when a uid that is logged in logs in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// The newest login gets the uid; the older session is closed with 4001.
    Replace,
    /// The newcomer is refused.
    Reject,
    /// Each session gets every message, up to `uid_sessions_max` sessions.
    Share,
}

/// What happens to a session whose outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// The session is closed with 4008.
    Disconnect,
    /// The message that does not fit is dropped and counted.
    DropNewest,
    /// The oldest whole unsent messages are dropped and counted.
    DropOldest,
}

/// Close code of sessions at a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainCode {
    /// 1001: the node goes away, and may not come back.
    GoingAway,
    /// 1012: the node, or another in its place, will be there again at once.
    ServiceRestart,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For reading in a terminal.
    Human,
    /// One JSON object a line, for collectors.
    Json,
}

/// The least severe event that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Someone must act.
    Error,
    /// Something was refused or lost.
    Warn,
    /// The life of the node.
    Info,
    /// The life of each session.
    Debug,
    /// Frames.
    Trace,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_speaks_tls_where_other_machines_can_connect() {
        use ControlTls::{Auto, Off, On};
        for (listen, expected) in [
            ("127.0.0.1:1", [false, true, false]),
            ("[::1]:1", [false, true, false]),
            ("0.0.0.0:1", [true, true, false]),
            ("[::]:1", [true, true, false]),
            ("10.0.0.1:1", [true, true, false]),
            ("unix:/x", [false, false, false]),
        ] {
            let listen: Listen = listen.parse().expect("an address");
            assert_eq!([Auto, On, Off].map(|choice| choice.applies_to(&listen, true)), expected, "{listen}");
            assert_eq!([Auto, On, Off].map(|choice| choice.applies_to(&listen, false)), [false; 3], "{listen}");
        }
    }
}
