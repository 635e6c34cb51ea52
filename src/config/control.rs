//! Settings of the control listener: tokens of other programs, how they are written, and what goes with them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Value;

use super::form::Form;
use super::{AdmissionSettings, Config, ConnectionLimits, ControlTls, HookSettings, Listen, Secret, SettingInForce};

/// What another program may do on the control listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlRights {
    /// Send messages.
    pub push: bool,
    /// Ask who is online.
    pub query: bool,
    /// Close sessions.
    pub admin: bool,
}

impl ControlRights {
    /// Everything.
    pub const ALL: Self = Self { push: true, query: true, admin: true };

    /// The rights by name, as they are written.
    pub const WORDS: [&str; 3] = ["push", "query", "admin"];

    fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().zip([self.push, self.query, self.admin]).filter(|(_, has)| *has).map(|(word, _)| word)
    }
}

impl FromStr for ControlRights {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut rights = Self::default();
        for word in text.split('+') {
            match word {
                "push" => rights.push = true,
                "query" => rights.query = true,
                "admin" => rights.admin = true,
                _ => return Err(()),
            }
        }
        Ok(rights)
    }
}

/// A program that may use the control listener, by a secret of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlToken {
    /// The name of the program, for logs.
    pub name: String,
    /// What it may do.
    pub rights: ControlRights,
    /// What it sends in `Authorization: Bearer`.
    pub secret: Secret,
}

/// Why a text is not a [`ControlToken`]; it does not contain the text, any word of which may be the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlTokenError {
    /// There are more words than three, or fewer.
    #[error("there are {count} words, expected three: {form}", form = ControlToken::FORM)]
    Words {
        /// How many.
        count: usize,
    },
    /// The name is too long, or has other characters.
    #[error("the first word is no name, expected up to 64 letters, digits or -._")]
    Name,
    /// A right is none of those there are.
    #[error(
        "the second word is no list of rights, expected push, query or admin, or several joined by +, as in push+query"
    )]
    Rights,
    /// The secret is too short or too long.
    #[error(
        "the third word, the token, has {bytes} characters, expected 32 to 1024; `openssl rand -hex 32` makes a good one"
    )]
    Length {
        /// How long it is.
        bytes: usize,
    },
    /// The secret has characters that a bearer token can't have.
    #[error("the third word, the token, has other characters than letters, digits and -._~+/=")]
    Characters,
}

impl ControlToken {
    /// How a token is written.
    pub const FORM: &str = "NAME RIGHTS TOKEN, such as backend push+query and 32 or more letters, digits or -._~+/=";

    /// Longest name, in bytes.
    const NAME_BYTES_MAX: usize = 64;
}

impl FromStr for ControlToken {
    type Err = ControlTokenError;

    fn from_str(text: &str) -> Result<Self, ControlTokenError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [name, rights, secret] = words[..] else { return Err(ControlTokenError::Words { count: words.len() }) };
        // The characters of a bearer token (RFC 6750, section 2.1); a comma would end the token in a list.
        let is_bearer = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.len() > Self::NAME_BYTES_MAX || !name.bytes().all(is_of_a_name) {
            return Err(ControlTokenError::Name);
        }
        let rights = rights.parse().map_err(|()| ControlTokenError::Rights)?;
        if !secret.bytes().all(is_bearer) {
            return Err(ControlTokenError::Characters);
        }
        if !(Secret::BYTES_MIN..=Secret::BYTES_MAX).contains(&secret.len()) {
            return Err(ControlTokenError::Length { bytes: secret.len() });
        }
        Ok(Self { name: name.to_owned(), rights, secret: Secret::new(secret) })
    }
}

impl fmt::Display for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<&str> = self.rights.words().collect();
        write!(f, "{} {} {}", self.name, rights.join("+"), self.secret.reveal())
    }
}

/// `none`, or tokens of other programs; never shown.
pub(super) struct Tokens;

const NONE: &str = "none";

impl Form<Vec<ControlToken>> for Tokens {
    const MANY: bool = true;
    const SECRET: bool = true;
    const PLACEHOLDER: &'static str = "TOKEN";

    fn read(&self, items: &[String]) -> Option<Vec<ControlToken>> {
        if items == [NONE] {
            return Some(Vec::new());
        }
        let tokens: Option<Vec<ControlToken>> = items.iter().map(|item| item.parse().ok()).collect();
        tokens.filter(|tokens| !tokens.is_empty())
    }

    fn show(&self, value: &Vec<ControlToken>) -> Value {
        match &value[..] {
            [] => NONE.into(),
            tokens => tokens.iter().map(|token| Value::from(token.to_string())).collect::<Vec<_>>().into(),
        }
    }

    fn expected(&self) -> String {
        format!("{NONE}, or one or more of {}", ControlToken::FORM)
    }

    fn explain(&self, items: &[String]) -> Option<String> {
        let error = |(index, item): (usize, &String)| Some((index + 1, item.parse::<ControlToken>().err()?));
        items.iter().enumerate().find_map(error).map(|(number, error)| format!("of token {number} {error}"))
    }
}

/// The settings of control; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Longest uid.
    pub uid_bytes_max: usize,
    /// Most connections of the node at a time, which control reports.
    pub node_connections_max: usize,
    /// All limits on the connections of the node, which control reports.
    pub connection_limits: ConnectionLimits,
    /// Tokens of other programs.
    pub tokens: Vec<ControlToken>,
    /// File with more of them.
    pub tokens_file: Option<PathBuf>,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most bytes that sessions of the node may hold.
    pub memory_bytes_max: usize,
    /// Time without a request, for a request's head, and for an answer that is not read.
    pub idle_timeout: Duration,
    /// Time that a request's body may take.
    pub body_timeout: Duration,
    /// Time that the shards may take to answer.
    pub answer_timeout: Duration,
    /// Longest message.
    pub push_bytes_max: usize,
    /// Most uids in one request.
    pub push_uids_max: usize,
    /// How long an answer is kept for its `Idempotency-Key`.
    pub idempotency_window: Duration,
    /// Most bytes of answers that are kept for that.
    pub idempotency_bytes_max: usize,
    /// The proxies that are trusted to name the client, for the log.
    pub admission: AdmissionSettings,
    /// Whether the node serves the page for trying it, to which the console links.
    pub page: bool,
    /// Every setting as the console may show it, without secrets.
    pub in_force: Vec<SettingInForce>,
    /// The service that gets presence events, if there is one.
    pub hooks: Option<HookSettings>,
}

impl Config {
    /// Returns the settings of control.
    pub fn control_settings(&self) -> ControlSettings {
        ControlSettings {
            uid_bytes_max: self.uid_bytes_max,
            tokens: self.control_tokens.clone(),
            tokens_file: self.control_tokens_file.clone(),
            connections_max: self.control_connections_max,
            node_connections_max: self.connections_max,
            connection_limits: ConnectionLimits::of(self),
            memory_bytes_max: self.memory_bytes_max,
            idle_timeout: self.control_idle_timeout,
            body_timeout: self.control_body_timeout,
            answer_timeout: self.control_answer_timeout,
            push_bytes_max: self.push_bytes_max.unwrap_or(self.message_bytes_max),
            push_uids_max: self.push_uids_max,
            idempotency_window: self.idempotency_window,
            idempotency_bytes_max: self.idempotency_bytes_max,
            admission: self.admission(),
            page: self.page,
            in_force: self.in_force(),
            hooks: self.hook_settings(),
        }
    }

    /// Returns whether the control listener speaks TLS.
    pub fn control_speaks_tls(&self) -> bool {
        let has_certificate = self.tls_certificate.is_some();
        self.control.as_ref().is_some_and(|listen| self.control_tls.applies_to(listen, has_certificate))
    }

    /// Returns an address of `others` that `listen` can't be bound beside.
    fn in_the_way<'a>(listen: Option<&Listen>, others: impl IntoIterator<Item = &'a Listen>) -> Option<&'a Listen> {
        others.into_iter().find(|other| listen.is_some_and(|listen| listen.overlaps(other)))
    }

    /// Returns the relations between settings of control: the key, whether the relation is broken, and the expected value.
    pub(super) fn control_relations(&self) -> [(&'static str, bool, String); 7] {
        let has_tokens = !self.control_tokens.is_empty() || self.control_tokens_file.is_some();
        let is_open = !has_tokens && self.control.as_ref().is_some_and(|listen| !listen.is_local());
        // Beside a message, an outbox holds the header of its frame.
        let push_bytes_max = self.outbox_bytes_max.saturating_sub(super::relations::FRAME_HEADER_BYTES_MAX);
        let another = |key: &str, taken: Option<&Listen>| {
            let taken = taken.map(Listen::to_string).unwrap_or_default();
            format!("another address, since {key} = {taken}: each has a listener of its own")
        };
        let control_taken = Self::in_the_way(self.control.as_ref(), &self.listen);
        let text_taken = Self::in_the_way(self.text.as_ref(), &self.listen);
        let text_at_control = Self::in_the_way(self.text.as_ref(), &self.control);
        let is_on = self.control_tls == ControlTls::On;
        let is_unix = matches!(self.control, Some(Listen::Unix(_) | Listen::Abstract(_)));
        [
            (
                "control_tls",
                is_on && self.tls_certificate.is_none(),
                "auto or off, or files in tls_certificate and tls_key to go with it".to_owned(),
            ),
            (
                "control_tls",
                is_on && self.tls_certificate.is_some() && is_unix,
                "auto or off, since control is a Unix socket, which has no TLS".to_owned(),
            ),
            ("control", control_taken.is_some(), another("listen", control_taken)),
            (
                "text",
                text_taken.or(text_at_control).is_some(),
                another(if text_taken.is_some() { "listen" } else { "control" }, text_taken.or(text_at_control)),
            ),
            (
                "control",
                is_open,
                "a loopback address or a Unix socket, or tokens to go with it: control_tokens_file or control_tokens"
                    .to_owned(),
            ),
            (
                "text",
                self.text.as_ref().is_some_and(|listen| !listen.is_local()),
                "a loopback address or a Unix socket, since nobody proves who they are there".to_owned(),
            ),
            (
                "push_bytes_max",
                self.push_bytes_max.is_some_and(|bytes| bytes > push_bytes_max),
                format!("outbox_bytes_max - 14 = {push_bytes_max} or less"),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;

    const SECRET: &str = "0123456789abcdef0123456789ABCDEF";

    #[track_caller]
    fn check(text: &str, shown: Option<&str>) {
        let read: Result<ControlToken, _> = text.parse();
        assert_eq!(read.as_ref().map(ControlToken::to_string).ok().as_deref(), shown, "{text}");
        if let Some(shown) = shown {
            assert_eq!(shown.parse(), read, "{text} read, shown and read again");
        }
    }

    #[test]
    fn reads_tokens() {
        check(&format!("backend push {SECRET}"), Some(&format!("backend push {SECRET}")));
        check(&format!("  a-b.c_d \t query+push  {SECRET}\t"), Some(&format!("a-b.c_d push+query {SECRET}")));
        check(&format!("x admin+admin -._~+/={SECRET}"), Some(&format!("x admin -._~+/={SECRET}")));
    }

    #[test]
    fn refuses_what_is_no_token() {
        let long = "x".repeat(Secret::BYTES_MAX + 1);
        for text in [
            "",
            SECRET,
            &format!("push {SECRET}"),
            &format!("a push {SECRET} x"),
            &format!("a all {SECRET}"),
            &format!("a push+ {SECRET}"),
            &format!("a Push {SECRET}"),
            &format!("ä push {SECRET}"),
            &format!("{} push {SECRET}", "x".repeat(65)),
            &format!("a push {}", &SECRET[1..]),
            &format!("a push {long}"),
            &format!("a push {SECRET}!"),
        ] {
            check(text, None);
        }
    }

    #[test]
    fn tells_what_is_wrong() {
        #[track_caller]
        fn check(text: &str, expected: ControlTokenError) {
            let error = text.parse::<ControlToken>().expect_err(text);
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
        check(SECRET, ControlTokenError::Words { count: 1 });
        check(&format!("a b push {SECRET}"), ControlTokenError::Words { count: 4 });
        check(&format!("a/b push {SECRET}"), ControlTokenError::Name);
        check(&format!("a send {SECRET}"), ControlTokenError::Rights);
        check(&format!("a {SECRET} push"), ControlTokenError::Rights);
        check("a push 0123456789abcdef", ControlTokenError::Length { bytes: 16 });
        check(&format!("a push {SECRET}!"), ControlTokenError::Characters);
    }

    #[test]
    fn is_never_shown() {
        let token: ControlToken = format!("a push {SECRET}").parse().expect("a token");
        assert!(!format!("{token:?}").contains(SECRET), "{token:?}");
    }

    #[test]
    fn where_others_can_connect_tokens_are_needed() {
        #[track_caller]
        fn check(listen: &str, has_token: bool, key: Option<&str>) {
            let token = format!("a push {SECRET}").parse().expect("a token");
            let control_tokens = if has_token { vec![token] } else { Vec::new() };
            let control: Listen = listen.parse().expect("an address");
            let config = Config { control: Some(control), control_tokens, ..Config::default() };
            let faults = config.check().map_err(|faults| faults.to_string()).err();
            assert_eq!(faults.as_deref().and_then(|text| text.split(' ').next()), key, "{listen}");
        }
        check("127.0.0.1:1", false, None);
        check("[::1]:1", false, None);
        check("unix:/x", false, None);
        check("0.0.0.0:1", false, Some("control"));
        check("[::]:1", false, Some("control"));
        check("10.0.0.1:1", false, Some("control"));
        check("10.0.0.1:1", true, None);
        let file = Config { control_tokens_file: Some("tokens".into()), ..Config::default() };
        let open = Config { control: Some("0.0.0.0:1".parse().expect("an address")), ..file };
        assert_eq!(open.check(), Ok(()));
    }

    #[test]
    fn each_listener_has_an_address_of_its_own() {
        #[track_caller]
        fn check(listen: &str, control: &str, text: &str, fault: &str) {
            let any = |text: &str| text.parse::<Listen>().expect("an address");
            let listen = listen.split(',').map(any).collect();
            let config =
                Config { listen, control: Some(any(control)), text: Some(any(text)), ..Config::default() }.check();
            assert_eq!(config.map_err(|faults| faults.to_string()).err().unwrap_or_default(), fault);
        }
        let (listen, control, text) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");
        check(listen, control, text, "");
        check("127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "");
        let tail = "each has a listener of its own";
        check(
            listen,
            listen,
            text,
            &format!(
                "control = {listen} (from the program): expected another address, since listen = {listen}: {tail}"
            ),
        );
        check(
            listen,
            control,
            listen,
            &format!("text = {listen} (from the program): expected another address, since listen = {listen}: {tail}"),
        );
        check(
            listen,
            control,
            control,
            &format!(
                "text = {control} (from the program): expected another address, since control = {control}: {tail}"
            ),
        );
        check(
            "127.0.0.1:1,127.0.0.1:1",
            control,
            text,
            "listen = 127.0.0.1:1,127.0.0.1:1 (from the program): expected 127.0.0.1:1 once: it can't be listened on twice",
        );
    }

    #[test]
    fn tls_that_can_not_be_is_a_fault() {
        #[track_caller]
        fn check(control: &str, has_certificate: bool, expected: &str) {
            let file = || has_certificate.then(|| "file".into());
            let control = Some(control.parse().expect("an address"));
            let config = Config { control, control_tls: ControlTls::On, ..Config::default() };
            let faults = Config { tls_certificate: file(), tls_key: file(), ..config }.check();
            let fault = faults.map_err(|faults| faults.to_string()).err().unwrap_or_default();
            assert_eq!(fault.split("expected ").nth(1).unwrap_or_default(), expected);
        }
        check("127.0.0.1:1", true, "");
        check("127.0.0.1:1", false, "auto or off, or files in tls_certificate and tls_key to go with it");
        check("unix:/x", true, "auto or off, since control is a Unix socket, which has no TLS");
    }

    #[test]
    fn a_message_fits_an_outbox() {
        let outbox_bytes_max = Config::default().outbox_bytes_max;
        let with = |bytes| Config { push_bytes_max: Some(bytes), ..Config::default() }.check();
        assert_eq!(with(outbox_bytes_max - 14), Ok(()));
        let fault = with(outbox_bytes_max - 13).expect_err("it is too long").to_string();
        assert!(fault.ends_with("expected outbox_bytes_max - 14 = 2097138 or less"), "{fault}");
    }
}
