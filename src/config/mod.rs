//! The node's settings, checked: what each means, its range, and its default.
//!
//! [`Config`] is a plain value that a program may build by hand (`Config { shards, ..Config::default() }`)
//! or load from flags, environment and file. Every default stands in `impl Default` and nowhere else;
//! every range stands in the table of settings, which also gives each setting its flag, its variable, its TOML key
//! and its line in `docs/settings.md`.
//!
//! The server wiring owns the config. A room gets its own small part ([`SessionSettings`],
//! [`GatewaySettings`]), never the whole; nothing in here reads the environment or any other global.

use std::num::NonZeroUsize;
use std::time::Duration;

mod listen;

pub use listen::{Listen, ListenError};

/// Every setting of a node, in its checked form.
///
/// Sizes are bytes. A value built by hand is checked by [`Config::check`], which the server calls
/// before it binds; a loaded one has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to accept connections on, TCP or Unix sockets; port 0 lets the kernel choose.
    ///
    /// The default is loopback: whoever can reach the port can log in as anybody. At least one. Default
    /// `127.0.0.1:1234`.
    pub listen: Vec<Listen>,

    /// Shard threads; each owns the sessions of its part of the uids.
    ///
    /// More than the cores only adds wake-ups; fewer leaves cores to other programs. 1 to 256. Default: the
    /// cores that the process may use, cgroup quotas included.
    pub shards: NonZeroUsize,

    /// Threads that accept, upgrade and log in connections; what they do is rare, and slow compared to a push.
    ///
    /// More takes a storm of reconnects faster, at the price of shard time while it lasts. 1 to 64. Default: a
    /// quarter of the cores, at least one.
    pub gateway_threads: NonZeroUsize,

    /// Most connections on the node, sessions and handshakes together; one more is refused.
    ///
    /// An idle session costs under 1 KiB of private memory and a file descriptor, besides the kernel's buffers.
    /// 1 to 100000000. Default `1000000`.
    pub connections_max: usize,

    /// Most connections that have not logged in yet; one more waits in the kernel's backlog or is refused.
    ///
    /// A higher bound rides out a bigger storm of reconnects, and gives strangers more memory to hold. 1 to
    /// 1000000. Default `16384`.
    pub handshakes_max: usize,

    /// Request paths that upgrade to a WebSocket; `any`, or exact paths.
    ///
    /// A list lets a proxy share the host with other services, and answers 404 elsewhere. Default `any`.
    pub paths: Paths,

    /// Text that answers a login; `{uid}` in it is replaced by the uid.
    ///
    /// The default is the demo's, byte for byte. Up to 4096 bytes. Default
    /// `Login realizado com sucesso, seu uid é {uid}`.
    pub login_reply: String,

    /// What happens when a uid that is logged in logs in again.
    ///
    /// `replace` suits one device per user, `share` several, `reject` protects a session from takeover but
    /// locks a user out until a dead connection is noticed. Default `replace`.
    pub duplicate_login: DuplicateLogin,

    /// Most sessions of one uid while `duplicate_login` is `share`; one more login is refused.
    ///
    /// Bounds what one push can fan out to. 1 to 65536. Default `16`.
    pub uid_sessions_max: NonZeroUsize,

    /// Time from accepting a connection to the end of its HTTP upgrade.
    ///
    /// Shorter frees the places of dead and hostile peers sooner; longer serves bad networks. 1ms to 1h.
    /// Default `5s`.
    pub handshake_timeout: Duration,

    /// Time from the upgrade to the login frame.
    ///
    /// The same trade-off as `handshake_timeout`. 1ms to 1h. Default `10s`.
    pub login_timeout: Duration,

    /// Longest login message, and most bytes read from a connection that has not logged in.
    ///
    /// What a stranger may make the node hold; at least `uid_bytes_max`. 16B to 1MiB. Default `8KiB`.
    pub login_bytes_max: usize,

    /// Time from a message's first byte to its last.
    ///
    /// Bounds how long a peer can occupy a half-received message's memory; slow links with large messages need
    /// more. 1ms to 1h. Default `60s`.
    pub message_timeout: Duration,

    /// Longest message a client may send, its fragments joined; a longer one ends the session with 1009.
    ///
    /// A higher bound lets each connection hold more memory while it sends. 1B to 1GiB. Default `1MiB`.
    pub message_bytes_max: usize,

    /// Longest uid.
    ///
    /// Each session keeps its uid, so long ones cost memory. 1 to 1024 bytes. Default `256B`.
    pub uid_bytes_max: usize,

    /// Most bytes waiting for one session that its socket has not taken; then `slow_consumer` acts.
    ///
    /// More rides out a longer stall of a receiver, and lets it hold more memory; at least
    /// `message_bytes_max` + 14, so that the largest frame fits. 128B to 4GiB. Default `2MiB`.
    pub outbox_bytes_max: usize,

    /// Size of the kernel's send buffer for each connection; `auto` leaves it to the kernel.
    ///
    /// The kernel's own tuning gives fast links their full rate, and hides up to 4 MiB of lag from
    /// `slow_consumer`. A small buffer shows the lag at once. 4KiB to 256MiB. Default `auto`.
    pub send_buffer_bytes: Option<usize>,

    /// What happens to a session whose outbox is full.
    ///
    /// `disconnect` loses nothing unseen: the client knows and reconnects; `drop-newest` and `drop-oldest` keep
    /// the connection and lose messages. Every drop is counted. Default `disconnect`.
    pub slow_consumer: SlowConsumer,

    /// Most bytes of mail in flight from one shard (or the control thread) to another.
    ///
    /// More smooths bursts between shards; all mailboxes together may hold this times the square of the
    /// shards. 1KiB to 1GiB. Default `1MiB`.
    pub mailbox_bytes_max: usize,

    /// Time between two pings to a session; one silent for two of them is closed.
    ///
    /// Shorter notices vanished peers and keeps address translators awake; longer saves batteries and packets.
    /// 10ms to 24h. Default `25s`.
    pub heartbeat_interval: Duration,

    /// Time a closing connection may take to answer the close frame and end.
    ///
    /// Longer lets slow peers still see the code; shorter frees their descriptors sooner. 1ms to 1h. Default
    /// `2s`.
    pub close_timeout: Duration,

    /// Time a drain may take: the first half spreads the closes, the second flushes outboxes.
    ///
    /// Longer spreads the reconnects that follow; keep it under the grace period of what stops the process.
    /// 0s to 1h. Default `10s`.
    pub drain_timeout: Duration,

    /// Whether an ordinary GET on the WebSocket port answers the built-in page to try the node with.
    ///
    /// `false` answers 404 instead. Default `true`.
    pub page: bool,

    /// How log lines look: `human`, or one `json` object each.
    ///
    /// Default `human`.
    pub log_format: LogFormat,

    /// The least severe event that is logged.
    ///
    /// `debug` logs the life of each session, `trace` each frame; both cost at every connection. Default `info`.
    pub log_level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        let cores = num_cpus::get();
        Self {
            listen: vec![Listen::LOOPBACK],
            shards: at_least_one(cores.min(256)),
            gateway_threads: at_least_one((cores / 4).min(64)),
            connections_max: 1_000_000,
            handshakes_max: 16_384,
            paths: Paths::Any,
            login_reply: "Login realizado com sucesso, seu uid é {uid}".to_owned(),
            duplicate_login: DuplicateLogin::Replace,
            uid_sessions_max: at_least_one(16),
            handshake_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(10),
            login_bytes_max: 8 * 1024,
            message_timeout: Duration::from_secs(60),
            message_bytes_max: 1024 * 1024,
            uid_bytes_max: 256,
            outbox_bytes_max: 2 * 1024 * 1024,
            send_buffer_bytes: None,
            slow_consumer: SlowConsumer::Disconnect,
            mailbox_bytes_max: 1024 * 1024,
            heartbeat_interval: Duration::from_secs(25),
            close_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            page: true,
            log_format: LogFormat::Human,
            log_level: LogLevel::Info,
        }
    }
}

fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}

/// What a shard needs to know; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Longest message a client may send.
    pub message_bytes_max: usize,
    /// Time from a message's first byte to its last.
    pub message_timeout: Duration,
    /// Most bytes waiting for one session; at least `message_bytes_max` + 14.
    pub outbox_bytes_max: usize,
    /// What happens to a session whose outbox is full.
    pub slow_consumer: SlowConsumer,
    /// Time between two pings to a session.
    pub heartbeat_interval: Duration,
    /// Time a closing connection may take.
    pub close_timeout: Duration,
    /// What happens when a uid that is logged in logs in again.
    pub duplicate_login: DuplicateLogin,
    /// Most sessions of one uid under [`DuplicateLogin::Share`]; at least one.
    pub uid_sessions_max: usize,
    /// Text that answers a login, with `{uid}` for the uid.
    pub login_reply: String,
}

/// What the gateway needs to know; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Most connections on the node, sessions and handshakes together.
    pub connections_max: usize,
    /// Most connections that have not logged in yet.
    pub handshakes_max: usize,
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
}

impl Config {
    /// Copies out a shard's part.
    pub fn session(&self) -> SessionSettings {
        SessionSettings {
            message_bytes_max: self.message_bytes_max,
            message_timeout: self.message_timeout,
            outbox_bytes_max: self.outbox_bytes_max,
            slow_consumer: self.slow_consumer,
            heartbeat_interval: self.heartbeat_interval,
            close_timeout: self.close_timeout,
            duplicate_login: self.duplicate_login,
            uid_sessions_max: self.uid_sessions_max.get(),
            login_reply: self.login_reply.clone(),
        }
    }

    /// Copies out the gateway's part.
    pub fn gateway(&self) -> GatewaySettings {
        GatewaySettings {
            connections_max: self.connections_max,
            handshakes_max: self.handshakes_max,
            paths: self.paths.clone(),
            handshake_timeout: self.handshake_timeout,
            login_timeout: self.login_timeout,
            login_bytes_max: self.login_bytes_max,
            uid_bytes_max: self.uid_bytes_max,
            close_timeout: self.close_timeout,
            page: self.page,
            send_buffer_bytes: self.send_buffer_bytes,
        }
    }
}

/// Which request paths upgrade to a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Every path.
    Any,
    /// These paths exactly; each begins with `/`, and the query is not part of it.
    List(Vec<String>),
}

impl Paths {
    /// Tells whether a request for `path` (without its query) may upgrade.
    pub fn allows(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(paths) => paths.iter().any(|allowed| allowed == path),
        }
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

/// How log lines look.
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
