//! The settings of each room.

use std::time::Duration;

use super::{AdmissionSettings, AuthSettings, Config, DrainCode, DuplicateLogin, Paths, SlowConsumer};
use crate::protocol::Protocol;

/// The settings of a shard; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Longest message a client may send.
    pub message_bytes_max: usize,
    /// Time from a message's first byte to its last.
    pub message_timeout: Duration,
    /// Most messages in a second, unless the rate is not limited.
    pub message_rate_max: Option<usize>,
    /// Most bytes in a second, unless the rate is not limited.
    pub byte_rate_max: Option<usize>,
    /// Time a session may stay over its rate.
    pub rate_patience: Duration,
    /// Most bytes waiting for one session; at least `message_bytes_max` + 14.
    pub outbox_bytes_max: usize,
    /// Most bytes that the sessions of one shard hold: its part of the node's.
    pub memory_bytes_max: usize,
    /// What happens to a session whose outbox is full.
    pub slow_consumer: SlowConsumer,
    /// Time between two pings to a session.
    pub heartbeat_interval: Duration,
    /// Time a closing connection may take.
    pub close_timeout: Duration,
    /// Close code of sessions at a drain.
    pub drain_code: DrainCode,
    /// What happens when a uid that is logged in logs in again.
    pub duplicate_login: DuplicateLogin,
    /// Most sessions of one uid under [`DuplicateLogin::Share`]; at least one.
    pub uid_sessions_max: usize,
    /// Text that answers a login, with `{uid}` for the uid.
    pub login_reply: String,
}

/// The settings of the gateway; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Most connections on the node, sessions and handshakes together.
    pub connections_max: usize,
    /// Most connections that have not logged in yet.
    pub handshakes_max: usize,
    /// Limits on the connections that are let in.
    pub admission: AdmissionSettings,
    /// Request paths that upgrade.
    pub paths: Paths,
    /// Time from accepting a connection to the end of its upgrade.
    pub handshake_timeout: Duration,
    /// Time from the upgrade to the login frame.
    pub login_timeout: Duration,
    /// Longest login message.
    pub login_bytes_max: usize,
    /// Longest uid.
    pub uid_bytes_max: usize,
    /// Time a refused connection may take to end.
    pub close_timeout: Duration,
    /// Whether an ordinary GET answers the page.
    pub page: bool,
    /// Size of the kernel's send buffer, unless the kernel tunes it.
    pub send_buffer_bytes: Option<usize>,
    /// How clients authenticate.
    pub auth: AuthSettings,
    /// The protocol of a session whose client chooses none at its upgrade.
    pub protocol: Protocol,
}

impl Config {
    /// Returns the settings of a shard.
    pub fn session(&self) -> SessionSettings {
        SessionSettings {
            message_bytes_max: self.message_bytes_max,
            message_timeout: self.message_timeout,
            message_rate_max: self.message_rate_max,
            byte_rate_max: self.byte_rate_max,
            rate_patience: self.rate_patience,
            outbox_bytes_max: self.outbox_bytes_max,
            memory_bytes_max: self.memory_bytes_max / self.shards,
            slow_consumer: self.slow_consumer,
            heartbeat_interval: self.heartbeat_interval,
            close_timeout: self.close_timeout,
            drain_code: self.drain_code,
            duplicate_login: self.duplicate_login,
            uid_sessions_max: self.uid_sessions_max.get(),
            login_reply: self.login_reply.clone(),
        }
    }

    /// Returns the settings of the gateway.
    pub fn gateway(&self) -> GatewaySettings {
        GatewaySettings {
            connections_max: self.connections_max,
            handshakes_max: self.handshakes_max,
            admission: self.admission(),
            paths: self.paths.clone(),
            handshake_timeout: self.handshake_timeout,
            login_timeout: self.login_timeout,
            login_bytes_max: self.login_bytes_max,
            uid_bytes_max: self.uid_bytes_max,
            close_timeout: self.close_timeout,
            page: self.page,
            send_buffer_bytes: self.send_buffer_bytes,
            auth: self.auth_settings(),
            protocol: self.protocol,
        }
    }
}
