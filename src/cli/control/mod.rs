//! `pombo push`, `online`, `kick`, `health` and `top`: calls to a running node, over HTTP at its control listener.
//!
//! Each command makes one connection, prints the answer to stdout, and returns the outcome as its exit code. A runtime on the
//! main thread runs everything except the reading of standard input.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use self::address::{Address, Scheme};
use self::client::{CallError, Callee};
use super::input::InputError;
use super::token::{self, TokenError};
use super::trust::Trust;
use crate::config::{ControlTls, Faults, Listen, Origin, Setting, TOKEN_VARIABLE, find};
use crate::roots::RootsError;

mod address;
mod client;
pub(super) mod health;
pub(super) mod kick;
mod lines;
pub(super) mod online;
mod outcome;
pub(super) mod push;
#[cfg_attr(not(feature = "top"), path = "no_top.rs")]
pub(super) mod top;

/// How a node is called, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub(super) struct ControlArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Prints the node's own answer, which is JSON, on one line
    #[arg(long)]
    json: bool,
}

/// How a node is called.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// Where the node's control listener is: HOST:PORT, https://HOST:PORT, unix:/PATH or unix:@NAME [default: the setting control] [env: POMBO_CONTROL]
    #[arg(long, value_name = "ADDRESS", help_heading = "Node")]
    control: Option<String>,
    /// Reads where control listens, and whether over TLS, from this TOML file, which is the node's [env: POMBO_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Node")]
    config: Option<PathBuf>,
    /// Proves who calls by the token in this file [env: POMBO_CONTROL_TOKEN, the token itself]
    #[arg(long, value_name = "FILE", help_heading = "Node")]
    token_file: Option<PathBuf>,
    /// Trusts what the certificates in this PEM file have signed, instead of what the system trusts
    #[arg(long, value_name = "FILE", help_heading = "Node")]
    ca: Option<PathBuf>,
    /// Expects the certificate to be for this name, instead of for the host of the address
    #[arg(long, value_name = "NAME", help_heading = "Node")]
    server_name: Option<String>,
    /// Gives up when an answer takes longer than this
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s", help_heading = "Node")]
    timeout: Duration,
}

/// The outcome of a command, for its exit code; the same codes for all of these commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// A session took the message, or the uid is online.
    Done = 0,
    /// The node refused the request, or does not know the outcome.
    Failed = 1,
    /// The uid is offline.
    Offline = 3,
    /// The uid is online, but none of its sessions took the message.
    Shed = 4,
}

/// The exit codes, for the help of each command.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  a session took it (push), is there (online), or was closed (kick)
  1  no answer, or the node refused
  2  wrong arguments or settings
  3  nobody is online who could take it
  4  sessions are online, and none took it
Of many lines the worst counts: 1, then 4, then 3.";

/// Why a command failed without an outcome.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Faults(#[from] Faults),
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("can't read standard input: {0}")]
    Input(io::Error),
    #[error(transparent)]
    Lines(#[from] InputError),
    #[error("can't write standard output: {0}")]
    Output(io::Error),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

impl NodeArgs {
    /// Finds the node to call: flags override the environment, which overrides the file, as for the node itself.
    fn callee(&self, variables: &[(OsString, OsString)]) -> Result<Callee, Failure> {
        let (text, origin) = match &self.control {
            Some(text) => (text.clone(), "from --control".to_owned()),
            None => match self.find("control", variables)? {
                Some((text, origin)) => (text, origin.to_string()),
                None => (Listen::CONTROL.to_string(), "the default".to_owned()),
            },
        };
        let address: Result<Address, _> = text.parse();
        let address = address.map_err(|error| {
            let text = text.escape_debug();
            Failure::Settings(format!("control = {text} ({origin}): {error}"))
        })?;
        // With an address from a flag, the node's other settings are not read.
        let by_settings = self.control.is_none() && address.is_without_scheme();
        let certificate = match by_settings {
            true => self.find("tls_certificate", variables)?.filter(|(path, _)| path != "none"),
            false => None,
        };
        let is_secure = by_settings && self.speaks_tls(&text, certificate.is_some(), variables)?;
        let address = if is_secure { address.or_secure() } else { address };
        let trust = match &address {
            Address::Tcp { scheme: Scheme::Https, .. }
                if by_settings && self.ca.is_none() && self.server_name.is_none() =>
            {
                Some(Trust::of_own_node(certificate.map(|(path, _)| path.into())))
            }
            Address::Tcp { scheme: Scheme::Https, .. } => {
                Some(Trust::load(self.ca.as_deref(), self.server_name.as_deref())?)
            }
            _ => None,
        };
        Ok(Callee { address, origin, trust, token: self.token(variables)? })
    }

    /// Returns whether the node's control listener at this address, from the settings, speaks TLS by its settings.
    fn speaks_tls(
        &self,
        address: &str,
        has_certificate: bool,
        variables: &[(OsString, OsString)],
    ) -> Result<bool, Failure> {
        let choice = match self.find("control_tls", variables)? {
            None => ControlTls::Auto,
            Some((word, origin)) => ControlTls::of_word(&word).ok_or_else(|| {
                let (word, expected) = (word.escape_debug(), setting("control_tls").expected());
                Failure::Settings(format!("control_tls = {word} ({origin}): expected {expected}"))
            })?,
        };
        // The node doesn't start with `on` and no certificate. Its service manager may name that to the node alone.
        let has_certificate = has_certificate || choice == ControlTls::On;
        Ok(match address.parse::<Listen>() {
            Ok(listen) => choice.applies_to(&listen, has_certificate),
            // A host name: an address of the caller's, since no node listens on a name.
            Err(_) => choice != ControlTls::Off && has_certificate,
        })
    }

    /// Finds the text of a setting of the node, with its origin.
    fn find(&self, key: &'static str, variables: &[(OsString, OsString)]) -> Result<Option<(String, Origin)>, Failure> {
        Ok(find(setting(key), self.config.as_deref(), variables)?)
    }

    fn token(&self, variables: &[(OsString, OsString)]) -> Result<Option<hyper::header::HeaderValue>, Failure> {
        if let Some(path) = &self.token_file {
            return Ok(Some(token::from_file(path)?));
        }
        let Some((_, token)) = variables.iter().find(|(name, _)| name == TOKEN_VARIABLE) else { return Ok(None) };
        let header = token.to_str().and_then(token::bearer);
        let bad =
            || Failure::Settings(format!("{TOKEN_VARIABLE} holds no token, expected one word of printable ASCII"));
        header.ok_or_else(bad).map(Some)
    }

    /// Runs one call until its end, or until the time-out.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, Failure> {
        let answer = timeout(self.timeout, call).await.map_err(|_| Failure::Timeout(self.timeout))?;
        Ok(answer?)
    }
}

fn setting(key: &str) -> &'static Setting {
    Setting::of(key).expect("a setting of the table")
}

/// Runs one of these commands on a runtime of its own; prints a failure, and returns the exit code.
fn run(command: &str, call: impl Future<Output = Result<End, Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(command, &format!("no event loop: {error}"), 1),
    };
    match runtime.block_on(call) {
        Ok(end) => ExitCode::from(end as u8),
        // The reader of standard output, `head` perhaps, has ended.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let code = match failure {
                Failure::Settings(_) | Failure::Faults(_) | Failure::Roots(_) | Failure::Token(_) => super::REFUSED,
                _ => 1,
            };
            fail(command, &failure, code)
        }
    }
}

fn fail(command: &str, failure: &dyn Display, code: u8) -> ExitCode {
    // Not `eprintln!`, which panics when nobody reads.
    writeln!(io::stderr(), "pombo {command}: {}", one_line(&failure.to_string())).ok();
    ExitCode::from(code)
}

/// Prints a line of the answer.
fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", one_line(line)).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Escapes control characters: a node's answer may hold texts that clients have sent, and a terminal would act on them.
fn one_line(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Encodes a uid as a segment of a path.
fn encoded(uid: &str) -> String {
    utf8_percent_encode(uid, NON_ALPHANUMERIC).to_string()
}

fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}
