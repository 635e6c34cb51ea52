//! The node's settings, checked: what each means, its range, and its default.
//!
//! [`Config`] is a plain value that a program may build by hand (`Config { shards, ..Config::default() }`)
//! or [`load()`] from flags, environment and file. Every default stands in `impl Default` (`default.rs`) and nowhere else;
//! every range stands in [`SETTINGS`], which also gives each setting its flag, its variable, its TOML key
//! and its line in `docs/settings.md`.
//!
//! The server wiring owns the config. A room gets its own small part ([`SessionSettings`],
//! [`GatewaySettings`]), never the whole; nothing in here reads the environment or any other global.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Protocol;
use crate::rights::Rights;

mod admission;
mod auth;
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
pub use choice::{DrainCode, DuplicateLogin, LogFormat, LogLevel, Paths, SlowConsumer};
pub use control::{ControlRights, ControlSettings, ControlToken, ControlTokenError};
pub use fault::{Fault, Faults, Origin};
pub use hooks::HookSettings;
pub use listen::{Listen, ListenError};
pub use load::{FILE_VARIABLE, Settings, TOKEN_VARIABLE, find, load};
pub use parts::{GatewaySettings, SessionSettings};
pub use reload::Reloaded;
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
    /// They hold for `listen`, `control` and `text`; whoever connects needs the right to write. With `umask` the process's
    /// own decides. The socket is not connected to before it has them. Range: `umask`, or an octal mode of 0000 to 0777,
    /// as in `"0660"`. Default: `umask`.
    pub unix_socket_mode: Option<u32>,

    /// Certificate of TCP listeners, PEM, with those that lead to a root behind it; they speak TLS if it is set.
    ///
    /// Read again on a reload, and when the file changes; connections keep the one they came in with. Unix sockets
    /// stay plain. Range: `none`, or the path of a file. Default: `none`.
    pub tls_certificate: Option<PathBuf>,

    /// Private key of `tls_certificate`, PEM.
    ///
    /// Read again with it. Nobody else needs to read the file. Range: `none`, or the path of a file. Default: `none`.
    pub tls_key: Option<PathBuf>,

    /// Shard threads; each owns the sessions of its part of the uids.
    ///
    /// More than the cores only adds wake-ups; fewer leaves cores to other programs. The cores are those that the
    /// process may use, cgroup quotas included. Range: 1 to 256. Default: the cores.
    pub shards: NonZeroUsize,

    /// Threads that accept, upgrade and log in connections.
    ///
    /// What they do is rare, and slow compared to a push: more takes a storm of reconnects faster, at the price of
    /// shard time while it lasts. Range: 1 to 64. Default: a quarter of the cores, at least 1.
    pub gateway_threads: NonZeroUsize,

    /// Most connections on the node, sessions and handshakes together.
    ///
    /// One more is refused. An idle session costs under 1 KiB of private memory and a file descriptor, besides the
    /// kernel's buffers. Range: 1 to 100000000. Default: `1000000`.
    pub connections_max: usize,

    /// Most connections that have not logged in yet.
    ///
    /// One more waits in the kernel's backlog or is refused. A higher bound rides out a bigger storm of reconnects,
    /// and gives strangers more memory to hold. Range: 1 to 1000000. Default: `16384`.
    pub handshakes_max: usize,

    /// Address where other programs push and ask over HTTP.
    ///
    /// The default is loopback: whoever can connect to it may do everything, unless `control_tokens` are set, which any
    /// other address needs. Range: `off`, or `IP:PORT`, `localhost:PORT`, `unix:/PATH` or, on Linux,
    /// `unix:@NAME`. Default: `127.0.0.1:1235`.
    pub control: Option<Listen>,

    /// Tokens of the programs that may; better set by its variable, or by a file.
    ///
    /// Each has a name for the logs, and rights: `push`, `query` and `admin`, joined by `+`. With any, whoever has none is
    /// refused. Range: `none`, or one or more of `NAME RIGHTS TOKEN`, such as backend push+query and 32 or more letters,
    /// digits or `-._~+/=`. Default: `none`.
    pub control_tokens: Vec<ControlToken>,

    /// File with such tokens, one in a line.
    ///
    /// Read again when it changes. Empty lines, and those that begin with `#`, mean nothing. Range: `none`, or the path
    /// of a file. Default: `none`.
    pub control_tokens_file: Option<PathBuf>,

    /// Most connections of other programs over HTTP; for another, the one that waits longest for its program is closed.
    ///
    /// While requests are being served on all of them, other requests wait. Sixteen more are kept for `/healthz` and
    /// `/readyz`.
    ///
    /// A connection has one request at a time, so this bounds those, too, and the memory that their messages take:
    /// `push_bytes_max` each, and twice as much for a batch. Range: 1 to 100000. Default: `256`.
    pub control_connections_max: usize,

    /// Time without a request on a connection, and for what is not read of an answer.
    ///
    /// Shorter frees the places of programs that are gone; longer spares others a new connection. Range: a time of 10ms
    /// to 1h, as in `5s`. Default: `60s`.
    pub control_idle_timeout: Duration,

    /// Time for a request's head after its first bytes, from the head to the end, and between two lines of a batch.
    ///
    /// Shorter frees the places of slow programs sooner. Range: a time of 10ms to 1h, as in `5s`. Default: `30s`.
    pub control_body_timeout: Duration,

    /// Time that the shards may take to answer a request.
    ///
    /// Past it a program is told whether its message may have been taken. Range: a time of 1ms to 10m, as in `5s`.
    /// Default: `5s`.
    pub control_answer_timeout: Duration,

    /// Longest message that another program may push; `auto` is `message_bytes_max`, and `outbox_bytes_max` - 14 the most.
    ///
    /// More lets each connection hold more memory while it sends. Range: `auto`, or a size of 1 to 1GiB. Default: `auto`.
    pub push_bytes_max: Option<usize>,

    /// Most uids in one request.
    ///
    /// Of those that a message is for, or that a broadcast leaves out. Range: 1 to 1000000. Default: `10000`.
    pub push_uids_max: usize,

    /// How long an answer is kept for its `Idempotency-Key`.
    ///
    /// Longer lets a program try again later without a message being sent twice; `0s` ignores the header. Range: a time of
    /// 0s to 24h, as in `5s`. Default: `10m`.
    pub idempotency_window: Duration,

    /// Most bytes of answers that are kept so.
    ///
    /// An answer takes some 600. A request with a new key is refused while the longest answer that it can have does not fit, until
    /// the oldest answer expires. Range: a size of 1KiB to 16GiB. Default: `64MiB`.
    pub idempotency_bytes_max: usize,

    /// Address where other programs push by lines of JSON.
    ///
    /// There is no way to prove who one is there, so only loopback addresses and Unix sockets are allowed. Range: `off`, or
    /// `IP:PORT`, `localhost:PORT`, `unix:/PATH` or, on Linux, `unix:@NAME`. Default: `off`.
    pub text: Option<Listen>,

    /// Most sessions of one address; IPv6 is counted by its /64 network.
    ///
    /// Off, since whole companies and mobile networks may share one address, and so does everybody behind a proxy that
    /// is not in `trusted_proxies`. Range: `off`, or 1 to 100000000. Default: `off`.
    pub address_sessions_max: Option<NonZeroUsize>,

    /// Most logins of one address in a minute, at once or spread; IPv6 is counted by its /64 network.
    ///
    /// Off for the same reason. Bounds how fast one address can try uids and tokens. Range: `off`, or 1 to 1000000.
    /// Default: `off`.
    pub address_logins_per_minute: Option<NonZeroUsize>,

    /// Most logins of the node in a second; more wait, up to half of `handshake_timeout`.
    ///
    /// Off, since pombo itself takes a storm as fast as its cores allow; set it to what stands behind it can take, such
    /// as the service that authenticates. Range: `off`, or 1 to 1000000. Default: `off`.
    pub logins_per_second: Option<NonZeroUsize>,

    /// Pages that may connect, by the `Origin` that a browser sends; what sends none is no browser.
    ///
    /// `auto` is `loopback` where only this machine can connect, and `any` elsewhere: list your sites there. `loopback`
    /// lets in pages of this machine, and those opened from a file. Range: `auto`, `any`, `loopback`, or origins such as
    /// `https://example.com`. Default: `auto`.
    pub origins: Origins,

    /// Proxies whose `X-Forwarded-For` tells who is connected.
    ///
    /// The last address in it that is no trusted proxy is the client's. From others the header means nothing. `unix`
    /// is who comes by a Unix socket. Range: `none`, or addresses, networks such as `10.0.0.0/8`, or `unix`. Default:
    /// `none`.
    pub trusted_proxies: Vec<TrustedProxy>,

    /// Whether connections of trusted proxies begin with a PROXY protocol header, version 1 or 2.
    ///
    /// It is then required of them; others are served without. Range: `true` or `false`. Default: `false`.
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
    /// One more login is refused. Bounds what one push can fan out to. Range: 1 to 65536. Default: `16`.
    pub uid_sessions_max: NonZeroUsize,

    /// Time from accepting a connection to the end of its HTTP upgrade.
    ///
    /// Shorter frees the places of dead and hostile peers sooner; longer serves bad networks. Range: a time of 1ms
    /// to 1h, as in `5s`. Default: `5s`.
    pub handshake_timeout: Duration,

    /// Time from the upgrade to the login frame.
    ///
    /// The same trade-off as `handshake_timeout`. Range: a time of 1ms to 1h, as in `5s`. Default: `10s`.
    pub login_timeout: Duration,

    /// Longest login message; at least `uid_bytes_max`.
    ///
    /// It is what a stranger may make the node hold. Range: a size of 16 to 1MiB. Default: `8KiB`.
    pub login_bytes_max: usize,

    /// How a connection proves who it is.
    ///
    /// `none` takes its word for it, as the demo does; `jwt` takes a signed token; `http` asks a service of yours.
    /// Range: `none`, `jwt` or `http`. Default: `none`.
    pub auth: Auth,

    /// Whether `auth = none` may listen where other machines can connect, and log in as anybody.
    ///
    /// For a trusted network, or behind a proxy that authenticates. Range: `true` or `false`. Default: `false`.
    pub insecure_open: bool,

    /// Where a credential may stand.
    ///
    /// `query` is off because addresses end up in logs and histories. Range: one or more of `first-frame`, `header`,
    /// `subprotocol`, `query`. Default: `first-frame,header,subprotocol`.
    pub auth_sources: Vec<AuthSource>,

    /// What a client may do whose credential does not say.
    ///
    /// Everybody may receive. Range: `receive`, or one or more of `unicast`, `broadcast`. Default: `unicast,broadcast`.
    pub rights: Rights,

    /// Claim of a token that says what its client may do, a list of words as in `rights`.
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
    /// Its bytes, less a line's end behind them. Range: `none`, or the path of a file. Default: `none`.
    pub jwt_secret_file: Option<PathBuf>,

    /// Files with public keys, PEM or JWKS, of tokens signed with RS256, ES256 or EdDSA.
    ///
    /// Read again when they change. Range: `none`, or paths of files. Default: `none`.
    pub jwt_key_files: Vec<PathBuf>,

    /// The only `iss` of a token that is taken.
    ///
    /// Set it if others sign with the same key. Range: `any`, or a text of 1 to 1024 bytes. Default: `any`.
    pub jwt_issuer: Option<String>,

    /// The `aud` that a token must have, among others.
    ///
    /// Set it if the key also signs tokens meant for other services. Range: `any`, or a text of 1 to 1024 bytes.
    /// Default: `any`.
    pub jwt_audience: Option<String>,

    /// How far the clock of who signs tokens may differ from the node's.
    ///
    /// A token is taken, and its session lives, this long past `exp`. Range: a time of 0s to 10m, as in `5s`.
    /// Default: `5s`.
    pub jwt_leeway: Duration,

    /// Service that is asked who a connection is while `auth` is `http`.
    ///
    /// Range: `none`, or an address such as `http://127.0.0.1:8080/login`. Default: `none`.
    pub auth_url: Option<AuthUrl>,

    /// File with the certificates that may vouch for `auth_url` over TLS.
    ///
    /// PEM; they stand in for those that the system trusts. Range: `none`, or the path of a file. Default: `none`.
    pub auth_url_ca: Option<PathBuf>,

    /// Time that the service may take to answer.
    ///
    /// Past it the client is told to try again later. Range: a time of 1ms to 60s, as in `5s`. Default: `3s`.
    pub auth_url_timeout: Duration,

    /// Most questions to the service at a time; more wait.
    ///
    /// Waiting counts towards `auth_url_timeout`. Range: 1 to 10000. Default: `64`.
    pub auth_url_in_flight_max: usize,

    /// Headers of the client's request that the service is told.
    ///
    /// Range: `none`, or names of headers. Default: `cookie,user-agent`.
    pub auth_url_headers: Vec<String>,

    /// How long an answer of the service holds for the same question.
    ///
    /// Longer spares the service; shorter notices sooner who was locked out. Range: a time of 0s to 1h, as in `5s`.
    /// Default: `10s`.
    pub auth_cache_ttl: Duration,

    /// Most answers of the service that are kept.
    ///
    /// Past it the oldest goes; some 200 bytes each. Range: 0 to 10000000. Default: `10000`.
    pub auth_cache_entries_max: usize,

    /// Service that is told which uids come online and go offline.
    ///
    /// Each batch is posted to it as JSON, and signed. Range: `none`, or an address such as
    /// `http://127.0.0.1:8080/login`. Default: `none`.
    pub hook_url: Option<AuthUrl>,

    /// File with the certificates that may vouch for `hook_url` over TLS.
    ///
    /// PEM; they stand in for those that the system trusts. Range: `none`, or the path of a file. Default: `none`.
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
    /// Longer hides the reconnects of bad networks, shorter tells sooner. Range: a time of 0s to 1h, as in `5s`.
    /// Default: `5s`.
    pub hook_grace: Duration,

    /// Time that an event waits for others to go with it.
    ///
    /// Longer makes fewer and larger batches. Range: a time of 0s to 60s, as in `5s`. Default: `100ms`.
    pub hook_delay: Duration,

    /// Most events in a batch.
    ///
    /// A batch has at most a megabyte in any case. Range: 1 to 10000. Default: `1000`.
    pub hook_batch_max: usize,

    /// Time that the service may take to answer a batch.
    ///
    /// The node's end waits that long for the last batches to be taken, too. Range: a time of 1ms to 60s, as in `5s`.
    /// Default: `5s`.
    pub hook_timeout: Duration,

    /// Time that a batch is tried again before its events are given up.
    ///
    /// Meanwhile the others wait, since events come in order. Range: a time of 0s to 24h, as in `5s`. Default: `10m`.
    pub hook_retry_time: Duration,

    /// Most events that wait for the service, and most uids that wait for their grace to end.
    ///
    /// Past it the oldest event is lost, which the next batch says; or the oldest grace ends early. Some 200 bytes each.
    /// Range: 1 to 10000000. Default: `100000`.
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
    /// A second's worth may come at once; then the session is not read until it may send again, and TCP holds its peer
    /// back. Pings, pongs and the fragments of a message count as messages. Range: `off`, or 1 to 1000000. Default:
    /// `off`.
    pub message_rate_max: Option<usize>,

    /// Most bytes that a session may send in a second.
    ///
    /// As for `message_rate_max`; frame headers count. A message must come within `message_timeout`, so a low rate
    /// bounds its size, too. Range: `off`, or a size of 1KiB to 1GiB. Default: `off`.
    pub byte_rate_max: Option<usize>,

    /// Time a session may stay over its rate before it is closed.
    ///
    /// It is over as long as there always is more than may be read. Longer rides out bursts; a client that never slows
    /// down is closed with 1008. Range: a time of 1ms to 1h, as in `5s`. Default: `10s`.
    pub rate_patience: Duration,

    /// Longest uid.
    ///
    /// In bytes, not characters. Each session keeps its uid, so long ones cost memory. Range: a size of 1 to 1KiB.
    /// Default: `256`.
    pub uid_bytes_max: usize,

    /// Most bytes waiting for one session that its socket has not taken; at least `message_bytes_max` + 14.
    ///
    /// Past it `slow_consumer` acts. More rides out a longer stall of a receiver, and lets it hold more memory; 14
    /// bytes are the longest header of a frame. Range: a size of 128 to 2GiB. Default: `2MiB`.
    pub outbox_bytes_max: usize,

    /// Most bytes that sessions and mail hold, in parts of messages and outboxes; each shard has its part of it.
    ///
    /// Past its part, a shard closes the sessions that hold most with 4009. Mail counts, and is not dropped: leave room
    /// for twice `mailbox_bytes_max` for each pair of shards. Not in it are the kernel's buffers and what
    /// an idle session costs. A payload that waits for several sessions counts for each. The memory is the machine's, or
    /// that of the control group if less. Range: a size of 1MiB to 16384GiB. Default: half of the memory that the process
    /// may use.
    pub memory_bytes_max: usize,

    /// Size of the kernel's send buffer for each connection; `auto` leaves it to the kernel.
    ///
    /// The kernel's own tuning gives fast links their full rate, and hides up to 4 MiB of lag from `slow_consumer`;
    /// a small buffer shows the lag at once. Range: `auto`, or a size of 4KiB to 256MiB. Default: `auto`.
    pub send_buffer_bytes: Option<usize>,

    /// What happens to a session whose outbox is full.
    ///
    /// With `disconnect` nothing is lost unseen: the client knows, and reconnects. `drop-newest` and `drop-oldest`
    /// keep the connection and lose messages. Every drop is counted. Range: `disconnect`, `drop-newest` or
    /// `drop-oldest`. Default: `disconnect`.
    pub slow_consumer: SlowConsumer,

    /// Bytes from which on a batch of mail to another shard is full; two batches wait at most.
    ///
    /// One of them is in flight, one in hand. A full batch takes no message: sessions that send there wait. Beside these
    /// bytes a batch may hold the message that made it full, and one broadcast. More smooths bursts between shards. Range: a size of 1KiB to 1GiB. Default: `1MiB`.
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
    /// Longer spreads the reconnects that follow; keep it under the grace period of what stops the process. Range:
    /// a time of 0s to 1h, as in `5s`. Default: `10s`.
    pub drain_timeout: Duration,

    /// What sessions are told at a drain: close code 1001 or 1012.
    ///
    /// `going-away` suits a node that may not come back, `service-restart` a rolling update: a client that is told 1012
    /// knows to connect again after a short random delay. Range: `going-away` or `service-restart`. Default:
    /// `going-away`.
    pub drain_code: DrainCode,

    /// Whether an ordinary GET on the WebSocket port answers the built-in page.
    ///
    /// The page lets a newcomer try the node from a browser; without it the answer is 426. Range: `true` or
    /// `false`. Default: `true`.
    pub page: bool,

    /// How log lines look.
    ///
    /// `human` for reading in a terminal, `json` for collectors, an object a line. Range: `human` or `json`.
    /// Default: `human`.
    pub log_format: LogFormat,

    /// The least severe event that is logged.
    ///
    /// `debug` logs the life of each session, `trace` each frame; both cost at every connection. Range: `off`,
    /// `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub log_level: LogLevel,

    /// What a session speaks whose client chooses nothing else at its upgrade. No setting: flags, variables and files can't reach it, only a program that embeds a node.
    #[doc(hidden)]
    pub protocol: Protocol,
}

impl Config {
    /// Checks every value against its range, and those that depend on each other.
    ///
    /// # Errors
    /// All faults together: values out of range, an outbox too small for the largest frame, a login message
    /// shorter than the longest uid, a certificate without its key.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults: Vec<Fault> = SETTINGS
            .iter()
            .filter(|setting| !setting.allows(self))
            .map(|setting| self.fault(setting.key, Origin::Code, setting.expected()))
            .collect();
        let relations = self.relation_faults(&faults, |_| Origin::Code);
        faults.extend(relations);
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
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
        check(|c| c.shards = at_least_one(257), "shards = 257 (from the program): expected 1 to 256");
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
        assert_eq!(old.reload(&old), (old.clone(), Reloaded::default()));

        let new = Config {
            shards: at_least_one(old.shards.get() + 1),
            login_reply: "hello {uid}".to_owned(),
            log_level: LogLevel::Debug,
            log_format: LogFormat::Json,
            ..old.clone()
        };
        let (next, reloaded) = old.reload(&new);
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
