//! What data messages mean: sans-I/O, from a message to a command and from an outcome to a reply.
//!
//! One file per protocol; a session speaks one of them from its login on.

pub mod plain;

/// What the sessions of a node speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The plain protocol: see [`plain`].
    #[default]
    Plain,
    /// Nobody logs in, and each message comes back as it came: for suites that test WebSocket servers, see
    /// `examples/echo.rs`.
    ///
    /// Its sessions have a number for a uid and no right to send. So a message goes the way of every other up to where
    /// it turns out not to be allowed, and only there is the protocol looked at: the others pay nothing for it.
    Echo,
}
