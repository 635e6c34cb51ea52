//! The table of settings: each declared once, with its form, range, group and help text.
//!
//! Flags, variables, TOML keys, `--print-config`, the reload and `docs/settings.md` are all made from this
//! table, so none can differ from another. Defaults are not here: they are in `impl Default for Config`.

use toml::Value;

use super::admission::{OriginList, Proxies};
use super::auth::{Exactly, File, Granted, HeaderNames, Hidden, Sources, URL_EXAMPLE, Url};
use super::control::Tokens;
use super::form::{
    AUTO, Address, Addresses, Count, FileMode, Form, OrAuto, OrOff, PathList, Size, Switch, Text, Time, Word, items,
};
use super::hooks::HOOK_URL_EXAMPLE;
use super::{Auth, Config, ControlTls, DrainCode, DuplicateLogin, LogFormat, LogLevel, SlowConsumer};

/// One setting: its names, and how it is read, shown and reloaded.
pub struct Setting {
    /// TOML key, and the field of [`Config`].
    pub key: &'static str,
    /// Heading of its group.
    pub group: &'static str,
    /// Help text: one sentence, without a full stop.
    pub help: &'static str,
    /// Whether a running node can change it.
    pub reload: Reload,
    /// Whether it takes several values: a repeated flag, commas, a TOML array.
    pub many: bool,
    /// Whether its value is hidden wherever settings are shown.
    pub secret: bool,
    /// The placeholder for the value in help texts.
    pub placeholder: &'static str,
    /// The default in words, where it depends on the machine.
    computed: Option<&'static str>,
    expected: fn() -> String,
    explain: fn(&[String]) -> Option<String>,
    read: fn(&mut Config, &[String]) -> bool,
    show: fn(&Config) -> Value,
    take: fn(&mut Config, &Config),
}

/// Whether a running node can change a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// A reload takes it.
    Live,
    /// Only the next start takes it.
    Restart,
}

impl Setting {
    /// Finds the setting of this key.
    pub fn of(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Returns the flag, `--outbox-bytes-max`.
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// Returns the environment variable, `POMBO_OUTBOX_BYTES_MAX`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_uppercase())
    }

    /// Describes the allowed values, to follow the word "expected".
    pub fn expected(&self) -> String {
        (self.expected)()
    }

    /// Says what is wrong with `items`, which can't be read, and what was expected.
    pub(super) fn explain(&self, items: &[String]) -> String {
        match (self.explain)(items) {
            Some(reason) => format!("{}; {reason}", self.expected()),
            None => self.expected(),
        }
    }

    /// Shows the default, in words where it depends on the machine.
    pub fn default_text(&self) -> String {
        self.computed.map_or_else(|| self.text(&Config::default()), |words| format!("{AUTO}, {words}"))
    }

    /// Returns how a value that depends on the machine is found, in words.
    pub(super) fn computed(&self) -> Option<&'static str> {
        self.computed
    }

    /// Returns whether the default depends on the machine, so that its text is a description, not a value.
    pub fn default_varies(&self) -> bool {
        self.computed.is_some()
    }

    /// Shows the value in `config` in the form of a flag; of a secret only whether there is one, and no query of an address.
    pub fn text(&self, config: &Config) -> String {
        let text = || items(&self.show(config)).join(",");
        // The default of a secret is none.
        self.concealed(config).unwrap_or_else(|| if self.secret { text() } else { self.conceal(&text()) })
    }

    /// Returns the text to show instead of a secret that was set.
    pub(super) fn concealed(&self, config: &Config) -> Option<String> {
        let is_set = || self.show(config) != self.show(&Config::default());
        (self.secret && is_set()).then(|| self.conceal(""))
    }

    /// Shows `text`, which a user wrote as the value, unless it may be a secret; and no query of an address, in which some
    /// services expect a key.
    pub(super) fn conceal(&self, text: &str) -> String {
        match text.split_once('?') {
            _ if self.secret => "(hidden)".to_owned(),
            Some((address, _)) if self.placeholder == "URL" => format!("{address}?(hidden)"),
            _ => text.to_owned(),
        }
    }

    /// Shows the value in `config` as TOML, a secret too.
    pub(super) fn show(&self, config: &Config) -> Value {
        (self.show)(config)
    }

    /// Reads the value into `config`; returns whether it was valid, else leaves `config` unchanged.
    pub(super) fn read(&self, config: &mut Config, items: &[String]) -> bool {
        (self.read)(config, items)
    }

    /// Returns whether the value in `config` is one that could have been read.
    pub(super) fn allows(&self, config: &Config) -> bool {
        self.read(&mut config.clone(), &items(&self.show(config)))
    }

    /// Copies the value from `new` into `config`.
    pub(super) fn take(&self, config: &mut Config, new: &Config) {
        (self.take)(config, new);
    }
}

/// Prefix of the name of every variable.
pub const VARIABLE_PREFIX: &str = "POMBO_";

/// Makes a [`Setting`] of each row: `field: form, reload, help text;` under a heading.
///
/// The field's name is the key, so a row can't name one field and set another.
macro_rules! settings {
    ($($group:literal { $($key:ident: $form:expr, $reload:ident $(, default $computed:literal)?, $help:literal;)* })*) => {
        &[$($(Setting {
            key: stringify!($key),
            group: $group,
            help: $help,
            reload: Reload::$reload,
            many: many(&$form, |config| &config.$key),
            secret: secret(&$form, |config| &config.$key),
            placeholder: placeholder(&$form, |config| &config.$key),
            computed: settings!(@computed $($computed)?),
            expected: || expected(&$form, |config| &config.$key),
            explain: |items| explain(&$form, |config| &config.$key, items),
            read: |config, items| $form.read(items).map(|value| config.$key = value).is_some(),
            show: |config| $form.show(&config.$key),
            take: |config, new| config.$key = new.$key.clone(),
        }),*),*]
    };
    (@computed) => { None };
    (@computed $computed:literal) => { Some($computed) };
}

// The field's type selects the form's type parameter; its value is not read.
type Field<T> = fn(&Config) -> &T;

const fn many<T, F: Form<T>>(_: &F, _: Field<T>) -> bool {
    F::MANY
}

const fn secret<T, F: Form<T>>(_: &F, _: Field<T>) -> bool {
    F::SECRET
}

const fn placeholder<T, F: Form<T>>(_: &F, _: Field<T>) -> &'static str {
    F::PLACEHOLDER
}

fn expected<T, F: Form<T>>(form: &F, _: Field<T>) -> String {
    form.expected()
}

fn explain<T, F: Form<T>>(form: &F, _: Field<T>, items: &[String]) -> Option<String> {
    form.explain(items)
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600_000;

/// Every setting, in the order in which they are shown.
pub static SETTINGS: &[Setting] = settings! {
    "Listening" {
        listen: Addresses, Restart,
            "Addresses to accept connections on; port 0 lets the kernel choose; [::] is IPv6 only, and IPv4 needs 0.0.0.0 beside it";
        unix_socket_mode: FileMode, Restart,
            "Permissions of the files of Unix sockets, for a proxy or a back end that runs as another user";
        tls_certificate: File, Restart,
            "Certificate chain of the TCP listeners, PEM, the server's own certificate first; they speak TLS if it is set";
        tls_key: File, Restart, "Private key of tls_certificate, PEM";
        paths: PathList, Live, "Request paths that upgrade to a WebSocket";
        page: Switch, Live, "Whether an ordinary GET on the WebSocket port answers the built-in page";
        origins: OriginList, Live,
            "Web pages that may connect, by the Origin header that browsers send; clients that send none are let in";
        trusted_proxies: Proxies, Live, "Proxies whose X-Forwarded-For is believed to name the client";
        proxy_protocol: Switch, Live, "Whether connections of trusted proxies begin with a PROXY protocol header, version 1 or 2";
    }
    "Push from other programs" {
        control: OrOff(Address), Restart, "Address where other programs push and query over HTTP";
        control_tls: Word::<ControlTls>::ANY, Restart, "Whether control speaks TLS, with tls_certificate";
        control_tokens: Tokens, Live, "Tokens of the programs that may use control; better set by its variable, or by a file";
        control_tokens_file: File, Live, "File with tokens as in control_tokens, one a line";
        control_connections_max: Count(1, 100_000), Restart,
            "Most connections of other programs over HTTP; a further one takes the place of the one that is idle longest";
        control_idle_timeout: Time(10, HOUR), Live,
            "Time that a connection may go without a request, and that an answer may stay unread";
        control_body_timeout: Time(10, HOUR), Live,
            "Time for a request's head from its first byte, for the rest of the request, and between two lines of a batch";
        control_answer_timeout: Time(1, 600 * SECOND), Live, "Time that the shards may take to answer a request";
        push_bytes_max: Size(1, GIB), Live,
            "Longest message that another program may push; auto is message_bytes_max, and outbox_bytes_max - 14 the most";
        push_uids_max: Count(1, 1_000_000), Live, "Most uids in one request";
        idempotency_window: Time(0, 24 * HOUR), Live, "How long an answer is kept for its Idempotency-Key";
        idempotency_bytes_max: Size(KIB, 16 * GIB), Live, "Most bytes of answers that are kept for idempotency_window";
        text: OrOff(Address), Restart, "Address where other programs push by lines of JSON";
    }
    "Threads" {
        shards: OrAuto(Count(1, 256), |default| default.shards), Restart, default "the cores",
            "Shard threads; each owns the sessions of its part of the uids";
        gateway_threads: OrAuto(Count(1, 64), |default| default.gateway_threads), Restart, default "a quarter of the cores, at least 1",
            "Threads that accept, upgrade and log in connections";
        mailbox_bytes_max: Size(KIB, GIB), Restart,
            "Size at which a batch of mail to another shard is full; at most two batches wait from one shard to another";
    }
    "Admission and login" {
        connections_max: Count(1, 100_000_000), Live,
            "Most connections on the node, sessions and handshakes together";
        handshakes_max: Count(1, 1_000_000), Restart, "Most connections that have not logged in yet";
        address_sessions_max: OrOff(Count(1, 100_000_000)), Live,
            "Most sessions of one address; IPv6 is counted by its /64 network";
        address_logins_per_minute: OrOff(Count(1, 1_000_000)), Live,
            "Most logins of one address in a minute, at once or spread; IPv6 is counted by its /64 network";
        logins_per_second: OrOff(Count(1, 1_000_000)), Live,
            "Most logins of the node in a second; more wait, up to half of handshake_timeout";
        handshake_timeout: Time(1, HOUR), Live, "Time from accepting a connection to the end of its HTTP upgrade";
        login_timeout: Time(1, HOUR), Live, "Time from the upgrade to the login frame";
        login_bytes_max: Size(16, MIB), Live, "Longest login message; at least uid_bytes_max";
        uid_bytes_max: Size(1, KIB), Live, "Longest uid";
        login_reply: Text(4096), Live, "Text that answers a login; {uid} in it is replaced by the uid";
        duplicate_login: Word::<DuplicateLogin>::ANY, Live,
            "What happens when a uid that is logged in logs in again";
        uid_sessions_max: Count(1, 65_536), Live, "Most sessions of one uid while duplicate_login is share";
    }
    "Authentication" {
        auth: Word::<Auth>::ANY, Restart, "How a client authenticates";
        insecure_open: Switch, Restart,
            "Whether auth = none may listen where other machines can connect, and log in as anybody";
        auth_sources: Sources, Live, "Where a client may put its credential";
        rights: Granted, Live, "Rights of a client whose credential does not name any";
        rights_claim: Text(256), Live, "Claim of a token that holds its client's rights, a list of words as in rights";
        jwt_secret: Hidden, Live, "Secret of tokens signed with HS256; better set by its variable, or by a file";
        jwt_secret_file: File, Live, "File with the secret of tokens signed with HS256";
        jwt_key_files: File, Live, "Files with public keys, PEM or JWKS, of tokens signed with RS256, ES256 or EdDSA";
        jwt_issuer: Exactly, Live, "The iss that a token must have";
        jwt_audience: Exactly, Live, "The aud that a token must have, among others";
        jwt_leeway: Time(0, 600 * SECOND), Live, "How far the clock of the issuer of tokens may differ from the node's";
        auth_url: Url(URL_EXAMPLE), Live, "Service that authenticates clients while auth is http";
        auth_url_ca: File, Restart, "File with the root certificates that are trusted for auth_url";
        auth_url_timeout: Time(1, 60 * SECOND), Live, "Time that the service may take to answer";
        auth_url_in_flight_max: Count(1, 10_000), Restart, "Most requests to the service at a time; more wait";
        auth_url_headers: HeaderNames, Live, "Headers of the client's request that are passed on to the service";
        auth_url_login_headers: HeaderNames, Live,
            "Headers that log a client in at its upgrade, without a first message, such as cookie";
        auth_cache_ttl: Time(0, HOUR), Live, "How long an answer of the service is used again for the same request";
        auth_cache_entries_max: Count(0, 10_000_000), Restart, "Most answers of the service that are kept";
    }
    "Hook" {
        hook_url: Url(HOOK_URL_EXAMPLE), Restart, "Service that gets an event whenever a uid comes online or goes offline";
        hook_url_ca: File, Restart, "File with the root certificates that are trusted for hook_url";
        hook_secret: Hidden, Restart, "Secret that batches are signed with; better set by its variable, or by a file";
        hook_secret_file: File, Restart, "File with the secrets that batches are signed with, one a line";
        hook_grace: Time(0, HOUR), Live, "Time that a uid may be without a session before it counts as offline";
        hook_returns: Switch, Live, "Whether a uid that returns within hook_grace makes an event online, too";
        hook_delay: Time(0, 60 * SECOND), Live, "Time that an event waits for others to join its batch";
        hook_batch_max: Count(1, 10_000), Live, "Most events in a batch";
        hook_timeout: Time(1, 60 * SECOND), Live, "Time that the service may take to answer a batch";
        hook_retry_time: Time(0, 24 * HOUR), Live, "Time that a batch is tried again before its events are lost";
        hook_queue_max: Count(1, 10_000_000), Live,
            "Most events that wait for the service, and most uids that wait for their grace to end";
    }
    "Messages and slow consumers" {
        message_bytes_max: Size(1, GIB), Live, "Longest message a client may send, its fragments joined";
        message_timeout: Time(1, HOUR), Live, "Time from a message's first byte to its last";
        message_rate_max: OrOff(Count(1, 1_000_000)), Live,
            "Most messages that a session may send in a second";
        byte_rate_max: OrOff(Size(KIB, GIB)), Live, "Most bytes that a session may send in a second";
        rate_patience: Time(1, HOUR), Live, "Time a session may stay over its rate before it is closed";
        outbox_bytes_max: Size(128, 2 * GIB), Live,
            "Most bytes waiting for one session that its socket has not taken; at least message_bytes_max + 14";
        memory_bytes_max: OrAuto(Size(MIB, 16_384 * GIB), |default| default.memory_bytes_max), Live, default "half of the memory that the process may use",
            "Most bytes that sessions and mail hold, in parts of messages and outboxes; each shard has its part of it";
        send_buffer_bytes: Size(4 * KIB, 256 * MIB), Restart,
            "Size of the kernel's send buffer for each connection; auto leaves it to the kernel";
        slow_consumer: Word::<SlowConsumer>::ANY, Live, "What happens to a session whose outbox is full";
    }
    "Life of connections and of the node" {
        heartbeat_interval: Time(10, 24 * HOUR), Live,
            "Time between two pings to a session; one silent for two of them is closed";
        close_timeout: Time(1, HOUR), Live, "Time a closing connection may take to answer the close frame and end";
        drain_timeout: Time(0, HOUR), Live,
            "Time a drain may take: the first half spreads the closes, the second flushes outboxes";
        drain_code: Word::<DrainCode>::ANY, Live, "Close code that sessions get at a drain, 1001 or 1012";
    }
    "Logs" {
        log_format: Word::<LogFormat>::ANY, Restart, "Format of log lines";
        log_level: Word::<LogLevel>::ANY, Live, "The least severe event that is logged";
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_config_is_a_setting_once() {
        // `{:#?}` shows each field of the config itself at one step of indentation.
        let shown = format!("{:#?}", Config::default());
        let fields: Vec<&str> = shown
            .lines()
            .filter_map(|line| line.strip_prefix("    ").filter(|line| !line.starts_with([' ', ']', ')'])))
            .filter_map(|line| line.split_once(':').map(|(field, _)| field))
            // No setting: only a program that embeds a node reaches it.
            .filter(|field| *field != "protocol")
            .collect();
        let mut keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        for field in &fields {
            assert!(keys.contains(field), "{field} is no setting");
        }
        assert_eq!(keys.len(), fields.len());
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), fields.len(), "a setting stands in the table twice");
    }

    #[test]
    fn names_follow_the_key() {
        let setting = Setting::of("outbox_bytes_max").expect("the table has it");
        assert_eq!(setting.flag(), "--outbox-bytes-max");
        assert_eq!(setting.variable(), "POMBO_OUTBOX_BYTES_MAX");
        assert!(Setting::of("outbox").is_none());
    }

    #[test]
    fn every_default_is_allowed_and_reads_back() {
        let default = Config::default();
        for setting in SETTINGS {
            assert!(setting.allows(&default), "{}", setting.key);
            assert!(!setting.read(&mut default.clone(), &[]), "{} reads nothing", setting.key);
        }
    }
}
