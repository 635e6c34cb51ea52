//! The node's settings, in their checked form: the meaning, range and default of each.
//!
//! [`Config`] is a plain value that a program may build by hand (`Config { shards, ..Config::default() }`)
//! or [`load()`] from flags, environment and file. Every default is in `impl Default` (`default.rs`) and nowhere else;
//! every range is in [`SETTINGS`], which also gives each setting its flag, its variable, its TOML key
//! and its line in `docs/settings.md`.
//!
//! The server owns the config. Each room gets its own small part ([`SessionSettings`],
//! [`GatewaySettings`]), never the whole; nothing here reads the environment or any other global.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Protocol;
use crate::rights::Rights;

mod admission;
mod auth;
mod ceiling;
mod choice;
mod control;
mod default;
mod fault;
mod form;
mod hooks;
mod listen;
mod load;
mod memory;
mod parts;
mod relations;
mod reload;
mod show;
mod table;

pub use admission::{AdmissionSettings, OriginError, Origins, PageOrigin, TrustedProxy, TrustedProxyError};
pub use auth::{Auth, AuthSettings, AuthSource, AuthUrl, Secret};
pub use ceiling::{ConnectionLimit, ConnectionLimits};
pub use choice::{ControlTls, DrainCode, DuplicateLogin, LogFormat, LogLevel, Paths, SlowConsumer};
pub use control::{ControlRights, ControlSettings, ControlToken, ControlTokenError};
pub use fault::{Fault, Faults, Origin};
pub use hooks::HookSettings;
pub use listen::{Listen, ListenError};
pub use load::{FILE_VARIABLE, Settings, TOKEN_VARIABLE, find, load, load_toml};
pub use parts::{GatewaySettings, SessionSettings};
pub use reload::Reloaded;
pub use show::SettingInForce;
pub use table::{Reload, SETTINGS, Setting, VARIABLE_PREFIX};

/// Every setting of a node, in its checked form.
///
/// Sizes are bytes. A value built by hand is checked by [`Config::check`], which the server calls
/// before it binds; a loaded one has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to accept connections on; port 0 lets the kernel choose; `[::]` is IPv6 only, and IPv4 needs 0.0.0.0 beside
    /// it.
    ///
    /// The default is loopback; while `auth` is `none`, others need `insecure_open`. Range: one or more of `IP:PORT`,
    /// `localhost:PORT`, `unix:/PATH` or, on Linux, `unix:@NAME`. Default: `127.0.0.1:1234`.
    pub listen: Vec<Listen>,

    /// Permissions of the files of Unix sockets, for a proxy or a back end that runs as another user.
    ///
    /// They hold for `listen`, `control` and `text`; a client needs the permission to write. With `umask` the process's
    /// umask decides. No client can connect before the permissions are set. Range: `umask`, or an octal mode of 0000 to
    /// 0777, as in `"0660"`. Default: `umask`.
    pub unix_socket_mode: Option<u32>,

    /// Certificate chain of the TCP listeners, PEM, the server's own certificate first; they speak TLS if it is set.
    ///
    /// Read again on a reload, and when the file changes; connections keep the one that they were accepted with. Unix
    /// sockets stay plain; `control_tls` decides for `control`. Range: `none`, or the path of a file. Default: `none`.
    pub tls_certificate: Option<PathBuf>,

    /// Private key of `tls_certificate`, PEM.
    ///
    /// Read again whenever the certificate is. No other user needs to read the file. Range: `none`, or the path of a
    /// file. Default: `none`.
    pub tls_key: Option<PathBuf>,

    /// Shard threads; each owns the sessions of its part of the uids.
    ///
    /// More than the cores only adds wake-ups; fewer leaves cores to other programs. The cores are those that the
    /// process may use, cgroup quotas included. Range: `auto`,
    /// or 1 to 256. Default: `auto`, the cores.
    pub shards: NonZeroUsize,

    /// Threads that accept, upgrade and log in connections.
    ///
    /// Their work is rare, and slow compared to a push: more threads handle a storm of reconnects faster, but take time
    /// from the shards while it lasts. Range: `auto`, or 1 to 64. Default: `auto`, a quarter of the
    /// cores, at least 1.
    pub gateway_threads: NonZeroUsize,

    /// Most connections on the node, sessions and handshakes together.
    ///
    /// A further one is refused. An idle session costs under 1 KiB of private memory and a file descriptor, besides the
    /// kernel's buffers. Range: 1 to 100000000. Default: `1000000`.
    pub connections_max: usize,

    /// Most connections that have not logged in yet.
    ///
    /// A further one waits in the kernel's backlog or is refused. A higher bound handles a bigger storm of reconnects,
    /// and lets unauthenticated peers occupy more memory. Range: 1 to 1000000. Default: `16384`.
    pub handshakes_max: usize,

    /// Address where other programs push and query over HTTP.
    ///
    /// The default is loopback. Any client that can connect may do everything, unless `control_tokens` are set; an
    /// address that other machines can reach needs them. Range: `off`, or `IP:PORT`, `localhost:PORT`, `unix:/PATH` or,
    /// on Linux, `unix:@NAME`. Default: `127.0.0.1:1235`.
    pub control: Option<Listen>,

    /// Whether `control` speaks TLS, with `tls_certificate`.
    ///
    /// `auto` does where other machines can connect, if there is a certificate. On loopback it stays plain, so that the
    /// commands, probes and scrapes of this machine need no certificate for 127.0.0.1. Unix sockets are always plain.
    /// Range: `auto`, `on` or `off`. Default: `auto`.
    pub control_tls: ControlTls,

    /// Tokens of the programs that may use `control`; better set by its variable, or by a file.
    ///
    /// Each has a name for the logs, and rights: `push`, `query` and `admin`, joined by `+`. If there is any token,
    /// requests without one are refused. Range: `none`, or one or more of `NAME RIGHTS TOKEN`, such as backend
    /// push+query and 32 or more letters, digits or `-._~+/=`. Default: `none`.
    pub control_tokens: Vec<ControlToken>,

    /// File with tokens as in `control_tokens`, one a line.
    ///
    /// Read again when it changes. Empty lines, and those that begin with `#`, are ignored. Range: `none`, or the path
    /// of a file. Default: `none`.
    pub control_tokens_file: Option<PathBuf>,

    /// Most connections of other programs over HTTP; a further one takes the place of the one that is idle longest.
    ///
    /// While all of them are serving requests, other requests wait. Sixteen more are kept for `/healthz` and `/readyz`.
    ///
    /// A connection has one request at a time, so this bounds those, too, and the memory that their messages take:
    /// `push_bytes_max` each, and twice as much for a batch. Range: 1 to 100000. Default: `256`.
    pub control_connections_max: usize,

    /// Time that a connection may go without a request, and that an answer may stay unread.
    ///
    /// Shorter frees the connections of programs that are gone; longer saves other programs from connecting again.
    /// Range: a time of 10ms to 1h, as in `5s`. Default: `60s`.
    pub control_idle_timeout: Duration,

    /// Time for a request's head from its first byte, for the rest of the request, and between two lines of a batch.
    ///
    /// Shorter frees the connections of slow programs sooner. Range: a time of 10ms to 1h, as in `5s`. Default: `30s`.
    pub control_body_timeout: Duration,

    /// Time that the shards may take to answer a request.
    ///
    /// After that the answer says whether the message may have been delivered. Range: a time of 1ms to 10m, as in `5s`.
    /// Default: `5s`.
    pub control_answer_timeout: Duration,

    /// Longest message that another program may push; `auto` is `message_bytes_max`, and `outbox_bytes_max` - 14 the most.
    ///
    /// More lets each connection hold more memory while it sends. Range: `auto`, or a size of 1 to 1GiB. Default: `auto`.
    pub push_bytes_max: Option<usize>,

    /// Most uids in one request.
    ///
    /// They are the recipients of a message, or the uids that a broadcast leaves out. Range: 1 to 1000000. Default:
    /// `10000`.
    pub push_uids_max: usize,

    /// How long an answer is kept for its `Idempotency-Key`.
    ///
    /// Longer lets a program retry later without sending a message twice; `0s` ignores the header. Range: a time of 0s
    /// to 24h, as in `5s`. Default: `10m`.
    pub idempotency_window: Duration,

    /// Most bytes of answers that are kept for `idempotency_window`.
    ///
    /// An answer takes some 600. A request with a new key is refused if the longest answer that it can get does not
    /// fit, until older answers expire. Range: a size of 1KiB to 16GiB. Default: `64MiB`.
    pub idempotency_bytes_max: usize,

    /// Address where other programs push by lines of JSON.
    ///
    /// It has no authentication and no TLS, so only loopback addresses and Unix sockets are allowed. Range: `off`, or
    /// `IP:PORT`, `localhost:PORT`, `unix:/PATH` or, on Linux, `unix:@NAME`. Default: `off`.
    pub text: Option<Listen>,

    /// Most sessions of one address; IPv6 is counted by its /64 network.
    ///
    /// Off, because whole companies and mobile networks may share one address, and so do all clients behind a proxy
    /// that is not in `trusted_proxies`. Range: `off`, or 1 to 100000000. Default: `off`.
    pub address_sessions_max: Option<NonZeroUsize>,

    /// Most logins of one address in a minute, at once or spread; IPv6 is counted by its /64 network.
    ///
    /// Off for the same reason. It bounds how fast one address can try uids and tokens. Range: `off`, or 1 to 1000000.
    /// Default: `off`.
    pub address_logins_per_minute: Option<NonZeroUsize>,

    /// Most logins of the node in a second; more wait, up to half of `handshake_timeout`.
    ///
    /// Off, because pombo itself handles a storm as fast as its cores allow. Set it to protect services behind it, such
    /// as the one that authenticates. Range: `off`, or 1 to 1000000. Default: `off`.
    pub logins_per_second: Option<NonZeroUsize>,

    /// Web pages that may connect, by the `Origin` header that browsers send; clients that send none are let in.
    ///
    /// `auto` is `loopback` where only this machine can connect, and `any` elsewhere: list your sites there. `loopback`
    /// lets in pages of this machine, and those opened from a file; where `auth_url_login_headers` log in, both let in
    /// pages of loopback hosts only. Range: `auto`, `any`, `loopback`, or origins such
    /// as `https://example.com`. Default: `auto`.
    pub origins: Origins,

    /// Proxies whose `X-Forwarded-For` is believed to name the client.
    ///
    /// The last address in the header that is not a trusted proxy is the client's. The header is ignored if another
    /// peer sends it. `unix` stands for peers on a Unix socket. Range: `none`, or addresses, networks such as
    /// `10.0.0.0/8`, or `unix`. Default: `none`.
    pub trusted_proxies: Vec<TrustedProxy>,

    /// Whether connections of trusted proxies begin with a PROXY protocol header, version 1 or 2.
    ///
    /// They must then send one; other clients must not. Range: `true` or `false`. Default: `false`.
    pub proxy_protocol: bool,

    /// Request paths that upgrade to a WebSocket.
    ///
    /// A list lets a proxy share the host with other services, and answers 404 elsewhere. Range: `any`, or paths
    /// such as `/ws`, without a query. Default: `any`.
    pub paths: Paths,

    /// Text that answers a login; `{uid}` in it is replaced by the uid.
    ///
    /// The default is the demo's, byte for byte. It must fit `outbox_bytes_max` with the longest uid. Range: text of up to
    /// 4096 bytes. Default: `Login realizado com
    /// sucesso, seu uid é {uid}`.
    pub login_reply: String,

    /// What happens when a uid that is logged in logs in again.
    ///
    /// `replace` suits one device per user, `share` several; `reject` protects a session from takeover, but locks a
    /// user out until a dead connection is noticed. Range: `replace`, `reject` or `share`. Default: `replace`.
    pub duplicate_login: DuplicateLogin,

    /// Most sessions of one uid while `duplicate_login` is `share`.
    ///
    /// A further login is refused. It bounds the fan-out of one push. Range: 1 to 65536. Default: `16`.
    pub uid_sessions_max: NonZeroUsize,

    /// Time from accepting a connection to the end of its HTTP upgrade.
    ///
    /// Shorter gets rid of dead and hostile peers sooner; longer serves bad networks. Range: a time of 1ms to 1h, as in
    /// `5s`. Default: `5s`.
    pub handshake_timeout: Duration,

    /// Time from the upgrade to the login frame.
    ///
    /// The same trade-off as `handshake_timeout`. Range: a time of 1ms to 1h, as in `5s`. Default: `10s`.
    pub login_timeout: Duration,

    /// Longest login message; at least `uid_bytes_max`.
    ///
    /// An unauthenticated peer can make the node hold this much memory. Range: a size of 16 to 1MiB. Default: `8KiB`.
    pub login_bytes_max: usize,

    /// How a client authenticates.
    ///
    /// With `none` the client claims a uid, as in the demo; `jwt` needs a signed token; `http` asks a service of yours.
    /// Range: `none`, `jwt` or `http`. Default: `none`.
    pub auth: Auth,

    /// Whether `auth = none` may listen where other machines can connect, and log in as anybody.
    ///
    /// For a trusted network, or behind a proxy that authenticates. Range: `true` or `false`. Default: `false`.
    pub insecure_open: bool,

    /// Where a client may put its credential.
    ///
    /// `query` is off because addresses end up in logs and histories. Range: one or more of `first-frame`, `header`,
    /// `subprotocol`, `query`. Default: `first-frame,header,subprotocol`.
    pub auth_sources: Vec<AuthSource>,

    /// Rights of a client whose credential does not name any.
    ///
    /// Every client may receive. Range: `receive`, or one or more of `unicast`, `broadcast`. Default:
    /// `unicast,broadcast`.
    pub rights: Rights,

    /// Claim of a token that holds its client's rights, a list of words as in `rights`.
    ///
    /// A token without it has `rights`; an empty list lets a client only receive. Range: text of up to 256 bytes.
    /// Default: `may`.
    pub rights_claim: String,

    /// Secret of tokens signed with HS256; better set by its variable, or by a file.
    ///
    /// A flag shows in the list of processes. Range: `none`, or one line of 32 to 1024 bytes without its end or a byte order
    /// mark. Default: `none`.
    pub jwt_secret: Option<Secret>,

    /// File with the secret of tokens signed with HS256.
    ///
    /// The secret is the file's bytes, without line ends after them. Range: `none`, or the path of a file. Default:
    /// `none`.
    pub jwt_secret_file: Option<PathBuf>,

    /// Files with public keys, PEM or JWKS, of tokens signed with RS256, ES256 or EdDSA.
    ///
    /// Read again when they change. Range: `none`, or paths of files. Default: `none`.
    pub jwt_key_files: Vec<PathBuf>,

    /// The `iss` that a token must have.
    ///
    /// Set it if others sign with the same key. Range: `any`, or a text of 1 to 1024 bytes. Default: `any`.
    pub jwt_issuer: Option<String>,

    /// The `aud` that a token must have, among others.
    ///
    /// Set it if the key also signs tokens meant for other services. Range: `any`, or a text of 1 to 1024 bytes.
    /// Default: `any`.
    pub jwt_audience: Option<String>,

    /// How far the clock of the issuer of tokens may differ from the node's.
    ///
    /// A token is taken, and its session lives, this long past `exp`. Range: a time of 0s to 10m, as in `5s`. Default:
    /// `5s`.
    pub jwt_leeway: Duration,

    /// Service that authenticates clients while `auth` is `http`.
    ///
    /// Range: `none`, or an address such as `http://127.0.0.1:8080/login`. Default: `none`.
    pub auth_url: Option<AuthUrl>,

    /// File with the root certificates that are trusted for `auth_url`.
    ///
    /// PEM; they replace the system's root certificates. Range: `none`, or the path of a file. Default: `none`.
    pub auth_url_ca: Option<PathBuf>,

    /// Time that the service may take to answer.
    ///
    /// After that the client gets 503 or 1013, and should try again later. Range: a time of 1ms to 60s, as in `5s`.
    /// Default: `3s`.
    pub auth_url_timeout: Duration,

    /// Most requests to the service at a time; more wait.
    ///
    /// Waiting counts towards `auth_url_timeout`. Range: 1 to 10000. Default: `64`.
    pub auth_url_in_flight_max: usize,

    /// Headers of the client's request that are passed on to the service.
    ///
    /// Range: `none`, or names of headers. Default: `cookie,user-agent`.
    pub auth_url_headers: Vec<String>,

    /// Headers that log a client in at its upgrade, without a first message, such as cookie.
    ///
    /// They are passed on as those in `auth_url_headers` are. If a request has one of them and no credential, the service
    /// is asked with a credential of null, and its answer decides about the upgrade. Range: `none`, or names of headers.
    /// Default: `none`.
    pub auth_url_login_headers: Vec<String>,

    /// How long an answer of the service is used again for the same request.
    ///
    /// Longer saves requests to the service; shorter makes a revoked login take effect sooner. Range: a time of 0s to
    /// 1h, as in `5s`. Default: `10s`.
    pub auth_cache_ttl: Duration,

    /// Most answers of the service that are kept.
    ///
    /// Beyond that the oldest is dropped; each takes some 200 bytes. Range: 0 to 10000000. Default: `10000`.
    pub auth_cache_entries_max: usize,

    /// Service that gets an event whenever a uid comes online or goes offline.
    ///
    /// Each batch is posted to it as JSON, and signed. Range: `none`, or an address such as
    /// `http://127.0.0.1:8080/hook`. Default: `none`.
    pub hook_url: Option<AuthUrl>,

    /// File with the root certificates that are trusted for `hook_url`.
    ///
    /// PEM; they replace the system's root certificates. Range: `none`, or the path of a file. Default: `none`.
    pub hook_url_ca: Option<PathBuf>,

    /// Secret that batches are signed with; better set by its variable, or by a file.
    ///
    /// A flag shows in the list of processes. Range: `none`, or one line of 32 to 1024 bytes without its end or a byte order
    /// mark. Default: `none`.
    pub hook_secret: Option<Secret>,

    /// File with the secrets that batches are signed with, one a line.
    ///
    /// Read again when it changes; every batch has a signature by each, so that a new one can take over from an old one.
    /// Range: `none`, or the path of a file. Default: `none`.
    pub hook_secret_file: Option<PathBuf>,

    /// Time that a uid may be without a session before it counts as offline.
    ///
    /// Longer hides the reconnects of bad networks, shorter reports sooner. Range: a time of 0s to 1h, as in `5s`.
    /// Default: `5s`.
    pub hook_grace: Duration,

    /// Whether a uid that returns within `hook_grace` makes an event online, too.
    ///
    /// On for a service that stores messages for users who are offline, and sends them at each return. Range: `true` or
    /// `false`. Default: `false`.
    pub hook_returns: bool,

    /// Time that an event waits for others to join its batch.
    ///
    /// Longer makes fewer and larger batches. Range: a time of 0s to 60s, as in `5s`. Default: `100ms`.
    pub hook_delay: Duration,

    /// Most events in a batch.
    ///
    /// A batch has at most a megabyte in any case. Range: 1 to 10000. Default: `1000`.
    pub hook_batch_max: usize,

    /// Time that the service may take to answer a batch.
    ///
    /// A node that ends waits as long for its last batches to be accepted. Range: a time of 1ms to 60s, as in `5s`.
    /// Default: `5s`.
    pub hook_timeout: Duration,

    /// Time that a batch is tried again before its events are lost.
    ///
    /// Meanwhile the others wait, because events stay in order. Range: a time of 0s to 24h, as in `5s`. Default: `10m`.
    pub hook_retry_time: Duration,

    /// Most events that wait for the service, and most uids that wait for their grace to end.
    ///
    /// Beyond that the oldest event is lost, which the next batch reports, or the oldest grace ends early. Each takes
    /// some 200 bytes. Range: 1 to 10000000. Default: `100000`.
    pub hook_queue_max: usize,

    /// Time from a message's first byte to its last.
    ///
    /// Bounds how long a peer can occupy a half-received message's memory; slow links with large messages need
    /// more. Range: a time of 1ms to 1h, as in `5s`. Default: `60s`.
    pub message_timeout: Duration,

    /// Longest message a client may send, its fragments joined.
    ///
    /// A longer one ends the session with 1009. A higher bound lets each connection hold more memory while it
    /// sends. Range: a size of 1 to 1GiB. Default: `1MiB`.
    pub message_bytes_max: usize,

    /// Most messages that a session may send in a second.
    ///
    /// A second's worth may come at once. After that the session is not read until it may send again, and TCP slows its
    /// peer down. Pings, pongs and the fragments of a message count as messages. Range: `off`, or 1 to 1000000.
    /// Default: `off`.
    pub message_rate_max: Option<usize>,

    /// Most bytes that a session may send in a second.
    ///
    /// As for `message_rate_max`; frame headers count. A message must come within `message_timeout`, so a low rate
    /// bounds its size, too. Range: `off`, or a size of 1KiB to 1GiB. Default: `off`.
    pub byte_rate_max: Option<usize>,

    /// Time a session may stay over its rate before it is closed.
    ///
    /// A session is over its rate while more data always waits than it may send. Longer tolerates bursts; a client that
    /// ignores backpressure is closed with 1008. Range: a time of 1ms to 1h, as in `5s`. Default: `10s`.
    pub rate_patience: Duration,

    /// Longest uid.
    ///
    /// In bytes, not characters. Each session keeps its uid, so long ones cost memory. Range: a size of 1 to 1KiB.
    /// Default: `256`.
    pub uid_bytes_max: usize,

    /// Most bytes waiting for one session that its socket has not taken; at least `message_bytes_max` + 14.
    ///
    /// When a message does not fit, `slow_consumer` decides. More tolerates a longer stall of a receiver, and lets it
    /// hold more memory; 14 bytes are the longest header of a frame. Range: a size of 128 to 2GiB. Default: `2MiB`.
    pub outbox_bytes_max: usize,

    /// Most bytes that sessions and mail hold, in parts of messages and outboxes; each shard has its part of it.
    ///
    /// A shard that holds more than its part closes the sessions that hold most, with 4009. Mail counts, and is not
    /// dropped: leave room for twice `mailbox_bytes_max` for each pair of shards. Not in it are the kernel's buffers
    /// and what an idle session costs. A payload that waits for several sessions counts for each. The memory is the
    /// machine's, or that of the control group if less. Range: `auto`, or a size of 1MiB to 16384GiB.
    /// Default: `auto`, half of the memory
    /// that the process may use.
    pub memory_bytes_max: usize,

    /// Size of the kernel's send buffer for each connection; `auto` leaves it to the kernel.
    ///
    /// The kernel's own tuning gives fast links their full rate, and hides up to 4 MiB of lag from `slow_consumer`;
    /// a small buffer shows the lag at once. Range: `auto`, or a size of 4KiB to 256MiB. Default: `auto`.
    pub send_buffer_bytes: Option<usize>,

    /// What happens to a session whose outbox is full.
    ///
    /// With `disconnect` no loss goes unnoticed: the client is closed, and reconnects. `drop-newest` and `drop-oldest`
    /// keep the connection and lose messages. Every drop is counted. Range: `disconnect`, `drop-newest` or
    /// `drop-oldest`. Default: `disconnect`.
    pub slow_consumer: SlowConsumer,

    /// Size at which a batch of mail to another shard is full; at most two batches wait from one shard to another.
    ///
    /// One of them is in flight, one in hand. A full batch takes no message: sessions that send there wait. Beside
    /// these bytes a batch may hold the message that made it full, and one broadcast. More smooths bursts between
    /// shards. Range: a size of 1KiB to 1GiB. Default: `1MiB`.
    pub mailbox_bytes_max: usize,

    /// Time between two pings to a session; one silent for two of them is closed.
    ///
    /// Shorter notices vanished peers and keeps address translators awake; longer saves batteries and packets.
    /// Range: a time of 10ms to 24h, as in `5s`. Default: `25s`.
    pub heartbeat_interval: Duration,

    /// Time a closing connection may take to answer the close frame and end.
    ///
    /// Longer lets slow peers still see the code; shorter frees their descriptors sooner. Range: a time of 1ms to
    /// 1h, as in `5s`. Default: `2s`.
    pub close_timeout: Duration,

    /// Time a drain may take: the first half spreads the closes, the second flushes outboxes.
    ///
    /// Longer spreads the reconnects that follow; keep it under the time that a service manager or orchestrator gives
    /// the process to end. Range: a time of 0s to 1h, as in `5s`. Default: `10s`.
    pub drain_timeout: Duration,

    /// Close code that sessions get at a drain, 1001 or 1012.
    ///
    /// `going-away` suits a node that may not come back, `service-restart` a rolling update: a client that gets 1012
    /// connects again after a short random delay. Range: `going-away` or `service-restart`. Default: `going-away`.
    pub drain_code: DrainCode,

    /// Whether an ordinary GET on the WebSocket port answers the built-in page.
    ///
    /// The page lets a newcomer try the node from a browser; without it the answer is 426. Range: `true` or `false`.
    /// Default: `true`.
    pub page: bool,

    /// Format of log lines.
    ///
    /// `human` for reading in a terminal, `json` for collectors, an object a line. Range: `human` or `json`. Default:
    /// `human`.
    pub log_format: LogFormat,

    /// The least severe event that is logged.
    ///
    /// `debug` logs the life of each session, `trace` each frame; both cost at every connection. Range: `off`,
    /// `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub log_level: LogLevel,

    /// The protocol of a session whose client chooses none at its upgrade. Not a setting: only a program that embeds a node can
    /// change it.
    #[doc(hidden)]
    pub protocol: Protocol,
}

impl Config {
    /// Checks every value against its range, and the relations between values.
    ///
    /// # Errors
    /// All faults together: values out of range, an outbox too small for the largest frame, a login message
    /// shorter than the longest uid, a certificate without its key.
    pub fn check(&self) -> Result<(), Faults> {
        let faults = self.faults(|_| Origin::Code);
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    /// Returns the faults of [`check`](Self::check); `origin` says where the value of a setting comes from.
    fn faults(&self, origin: impl Fn(&str) -> Origin) -> Vec<Fault> {
        let mut faults: Vec<Fault> = SETTINGS
            .iter()
            .filter(|setting| !setting.allows(self))
            .map(|setting| self.fault(setting.key, origin(setting.key), setting.expected()))
            .collect();
        let relations = self.relation_faults(&faults, origin);
        faults.extend(relations);
        faults
    }

    fn fault(&self, key: &'static str, origin: Origin, expected: String) -> Fault {
        let value = Setting::of(key).map(|setting| setting.text(self)).unwrap_or_default();
        Fault::Value { key, value, origin, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::default::at_least_one;
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), lines: &str) {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.check().map_err(|faults| faults.to_string()).err().unwrap_or_default(), lines);
    }

    #[test]
    fn tells_ranges_and_relations_together() {
        check(|_| {}, "");
        check(
            |c| c.listen.clear(),
            "listen =  (from the program): expected one or more of IP:PORT, localhost:PORT, unix:/PATH or, on Linux, unix:@NAME",
        );
        check(|c| c.shards = at_least_one(257), "shards = 257 (from the program): expected auto, or 1 to 256");
        check(|c| c.connections_max = 0, "connections_max = 0 (from the program): expected 1 to 100000000");
        check(
            |c| c.outbox_bytes_max = 1000,
            "outbox_bytes_max = 1000 (from the program): expected message_bytes_max + 14 = 1048590 or more",
        );
        check(|c| c.outbox_bytes_max = c.message_bytes_max + 14, "");
        check(
            |c| c.message_bytes_max = 4 << 20,
            "outbox_bytes_max = 2MiB (from the program): expected message_bytes_max + 14 = 4194318 or more",
        );
        check(
            |c| {
                (c.message_bytes_max, c.outbox_bytes_max, c.push_bytes_max) = (64, 128, Some(64));
                c.login_reply = "hi {uid}".to_owned();
            },
            "login_reply = hi {uid} (from the program): expected a text that fits an outbox: with the longest uid its frame \
             takes 273 bytes, and outbox_bytes_max is 128",
        );
        check(
            |c| c.tls_key = Some("key.pem".into()),
            "tls_certificate = none (from the program): expected a file, since tls_key is set",
        );
        check(
            |c| c.tls_certificate = Some("chain.pem".into()),
            "tls_key = none (from the program): expected a file, since tls_certificate is set",
        );
        check(
            |c| c.login_bytes_max = 100,
            "login_bytes_max = 100 (from the program): expected uid_bytes_max = 256 or more",
        );
        check(
            |c| {
                c.outbox_bytes_max = 0;
                c.close_timeout = Duration::ZERO;
                c.message_bytes_max = usize::MAX;
            },
            "message_bytes_max = 9223372036854775807 (from the program): expected a size of 1 to 1GiB\n\
             outbox_bytes_max = 0 (from the program): expected a size of 128 to 2GiB\n\
             close_timeout = 0s (from the program): expected a time of 1ms to 1h, as in 5s",
        );
    }

    #[test]
    fn reload_takes_what_can_change() {
        let old = Config::default();
        assert_eq!(old.reload(&old), Ok((old.clone(), Reloaded::default())));

        let new = Config {
            shards: at_least_one(old.shards.get() + 1),
            login_reply: "hello {uid}".to_owned(),
            log_level: LogLevel::Debug,
            log_format: LogFormat::Json,
            ..old.clone()
        };
        let (next, reloaded) = old.reload(&new).expect("it is valid");
        assert_eq!(reloaded.taken, ["login_reply", "log_level"]);
        assert_eq!(reloaded.needs_restart, ["shards", "log_format"]);
        let expected = Config { shards: old.shards, log_format: LogFormat::Human, ..new };
        assert_eq!(next, expected);
    }

    #[test]
    fn paths_are_exact() {
        let list = Paths::List(vec!["/ws".to_owned()]);
        assert!(list.allows("/ws"));
        for path in ["/", "/ws/", "/WS", "/ws2", ""] {
            assert!(!list.allows(path), "{path}");
            assert!(Paths::Any.allows(path), "{path}");
        }
    }
}
