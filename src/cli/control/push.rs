//! `pombo push`: sends a message to a uid, or to everybody; or each line of standard input.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::CONTENT_TYPE;

use super::client::{CallError, Client};
use super::outcome::Outcome;
use super::{ControlArgs, EXIT_CODES, End, Failure, encoded, lines, print, run};

/// Longest message that is read; longer than any that a node takes.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// Sends a message to a user, or to everybody
///
/// The message is sent as it is, standard input too, with its last line feed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXIT_CODES,
    override_usage = "pombo push [OPTIONS] <UID> [MESSAGE]\n       pombo push [OPTIONS] --lines <UID>\n       pombo push [OPTIONS] --all [MESSAGE]"
)]
pub(in crate::cli) struct Push {
    /// Whom it is for; not with --all
    #[arg(required_unless_present = "all")]
    uid: Option<String>,
    /// The message; `-`, or none, reads it from standard input
    message: Option<String>,
    /// Sends it to everybody who is online
    #[arg(long)]
    all: bool,
    /// Leaves this user out; may be repeated
    #[arg(long, value_name = "UID", requires = "all")]
    except: Vec<String>,
    /// Sends a binary message; otherwise it is text, and has to be UTF-8
    #[arg(long)]
    binary: bool,
    /// Sends each line of standard input, ended by LF or CR LF, as a message of its own, as it comes, and tells at the end
    /// how many were taken
    #[arg(long, conflicts_with_all = ["binary", "message"])]
    lines: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// The recipient of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver<'a> {
    Uid(&'a str),
    All,
}

impl Push {
    /// Runs the command.
    pub(in crate::cli) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        run("push", self.push(variables))
    }

    async fn push(&self, variables: &[(OsString, OsString)]) -> Result<End, Failure> {
        let (receiver, message) = self.receiver()?;
        let callee = self.control.node.callee(variables)?;
        if self.lines {
            return match receiver {
                Receiver::Uid(uid) => lines::push(&callee, uid, &self.control).await,
                Receiver::All => lines::broadcast(&callee, &self.path(receiver), &self.control).await,
            };
        }
        let message = match message {
            Some(message) if message != "-" => Bytes::copy_from_slice(message.as_bytes()),
            _ => standard_input()?,
        };
        if !self.binary && std::str::from_utf8(&message).is_err() {
            return Err(Failure::Settings("the message is not UTF-8, expected text, or --binary".to_owned()));
        }
        let kind = if self.binary { "application/octet-stream" } else { "text/plain; charset=utf-8" };
        let request = Request::post(self.path(receiver)).header(CONTENT_TYPE, kind).body(Full::from(message));
        let request = request.map_err(|error| Failure::Settings(error.to_string()))?;
        let call = async { Client::connect(&callee).await?.call(request).await };
        let answer = self.control.node.in_time(call).await?;
        let outcome = Outcome::of(&answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
        print(&if self.control.json { answer.to_string() } else { outcome.told(self.who(receiver)) })?;
        Ok(outcome.end())
    }

    /// Splits the arguments into receiver and message: with --all the only word is the message.
    fn receiver(&self) -> Result<(Receiver<'_>, Option<&str>), Failure> {
        match (self.all, &self.uid, &self.message) {
            (true, Some(_), Some(_)) => {
                Err(Failure::Settings("--all and a uid don't go together, expected --all and the message".to_owned()))
            }
            (true, Some(_), None) if self.lines => {
                Err(Failure::Settings("--lines and a message don't go together, expected lines to read".to_owned()))
            }
            (true, message, _) => Ok((Receiver::All, message.as_deref())),
            (false, uid, message) => Ok((Receiver::Uid(uid.as_deref().unwrap_or_default()), message.as_deref())),
        }
    }

    /// Returns the name of the receiver, for the text about its outcome.
    fn who<'a>(&self, receiver: Receiver<'a>) -> &'a str {
        match receiver {
            Receiver::Uid(uid) => uid,
            Receiver::All if self.except.is_empty() => "everybody",
            Receiver::All => "everybody else",
        }
    }

    fn path(&self, receiver: Receiver<'_>) -> String {
        match receiver {
            Receiver::Uid(uid) => format!("/v1/push/{}", encoded(uid)),
            Receiver::All => {
                let except: Vec<_> = self.except.iter().map(|uid| format!("except={}", encoded(uid))).collect();
                let query = if except.is_empty() { String::new() } else { format!("?{}", except.join("&")) };
                format!("/v1/broadcast{query}")
            }
        }
    }
}

/// Reads standard input to its end.
fn standard_input() -> Result<Bytes, Failure> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        writeln!(io::stderr(), "pombo push: reading the message, end it with Ctrl-D").ok();
    }
    let mut message = Vec::new();
    let length = input.by_ref().take(MESSAGE_BYTES_MAX).read_to_end(&mut message).map_err(Failure::Input)?;
    if length as u64 == MESSAGE_BYTES_MAX {
        return Err(Failure::Settings(format!(
            "the message is too long, expected less than {MESSAGE_BYTES_MAX} bytes"
        )));
    }
    Ok(message.into())
}
