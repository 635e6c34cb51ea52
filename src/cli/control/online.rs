//! `pombo online`: whether a uid is online, and its sessions.

use std::ffi::OsString;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;

use super::client::{CallError, Client};
use super::{ControlArgs, EXIT_CODES, End, Failure, encoded, print, run, sessions};

/// Tells whether a user is online, and their sessions
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct Online {
    /// Whom to ask about
    uid: String,
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
        let request = Request::get(format!("/v1/uids/{}", encoded(&self.uid))).body(Full::<Bytes>::default());
        let request = request.map_err(|error| Failure::Settings(error.to_string()))?;
        let call = async { Client::connect(&callee).await?.call(request).await };
        let answer = self.control.node.in_time(call).await?;
        let found = found(&answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
        if self.control.json {
            print(&answer.to_string())?;
        } else if found.is_empty() {
            print(&format!("{} is offline", self.uid))?;
        } else {
            print(&format!("{} is online, {}", self.uid, sessions(found.len() as u64)))?;
            for session in found {
                print(&shown(session))?;
            }
        }
        Ok(if found.is_empty() { End::Offline } else { End::Done })
    }
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
