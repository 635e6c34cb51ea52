//! `pombo online`: who is online, or whether one uid is, and its sessions.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;

use super::client::{CallError, Callee, Client};
use super::{ControlArgs, EXIT_CODES, End, Failure, encoded, print, run, sessions};

/// Uids in one answer of the node, the most that it gives.
const PAGE: usize = 1000;

/// Lists who is online, or tells whether a user is, and their sessions
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct Online {
    /// Whom to ask about; without it, every uid that is online is printed on a line of its own
    uid: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

impl Online {
    /// Runs the command.
    pub(in crate::cli) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        run("online", self.ask(variables))
    }

    async fn ask(&self, variables: &[(OsString, OsString)]) -> Result<End, Failure> {
        let callee = self.control.node.callee(variables)?;
        match &self.uid {
            Some(uid) => self.ask_about(uid, &callee).await,
            None => self.list(&callee).await,
        }
    }

    async fn ask_about(&self, uid: &str, callee: &Callee) -> Result<End, Failure> {
        let request = request(&format!("/v1/uids/{}", encoded(uid)))?;
        let call = async { Client::connect(callee).await?.call(request).await };
        let answer = self.control.node.in_time(call).await?;
        let found = found(&answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
        if self.control.json {
            print(&answer.to_string())?;
        } else if found.is_empty() {
            print(&format!("{uid} is offline"))?;
        } else {
            print(&format!("{uid} is online, {}", sessions(found.len() as u64)))?;
            for session in found {
                print(&shown(session))?;
            }
        }
        Ok(if found.is_empty() { End::Offline } else { End::Done })
    }

    /// Prints every uid that is online, page by page: it never holds more than one page.
    async fn list(&self, callee: &Callee) -> Result<End, Failure> {
        let mut client = self.control.node.in_time(Client::connect(callee)).await?;
        let (mut cursor, mut end) = (None::<String>, End::Offline);
        loop {
            let after = cursor.as_ref().map(|cursor| format!("&cursor={}", encoded(cursor))).unwrap_or_default();
            let request = request(&format!("/v1/uids?limit={PAGE}{after}"))?;
            let answer = self.control.node.in_time(client.call(request)).await?;
            let (uids, next) = page(&answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
            if !uids.is_empty() {
                end = End::Done;
            }
            if self.control.json {
                print(&answer.to_string())?;
            } else {
                uids.iter().try_for_each(|uid| print(uid))?;
            }
            match next {
                // The same page again would never end.
                Some(next) if cursor.as_deref() == Some(next) => {
                    return Err(CallError::Strange(answer.to_string()).into());
                }
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        if end == End::Offline && !self.control.json {
            // Not on stdout, where each line is a uid.
            writeln!(io::stderr(), "pombo online: nobody is online").ok();
        }
        Ok(end)
    }
}

fn request(path: &str) -> Result<Request<Full<Bytes>>, Failure> {
    Request::get(path).body(Full::default()).map_err(|error| Failure::Settings(error.to_string()))
}

/// Finds the uids of a page, and the cursor of the next page if there is one.
fn page(answer: &Value) -> Option<(Vec<&str>, Option<&str>)> {
    let uids: Option<Vec<&str>> = answer.get("uids")?.as_array()?.iter().map(Value::as_str).collect();
    Some((uids?, answer.get("next").and_then(Value::as_str)))
}

/// Finds the sessions in an answer.
fn found(answer: &Value) -> Option<&[Value]> {
    answer.get("sessions")?.as_array().map(Vec::as_slice)
}

/// Shows a session on a line.
fn shown(session: &Value) -> String {
    let text = |name| session.get(name).and_then(Value::as_str);
    let address = text("address").unwrap_or("a Unix socket");
    let since = text("since").map(|since| format!(" since {since}")).unwrap_or_default();
    format!("  from {address}{since}")
}
