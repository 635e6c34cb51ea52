//! `pombo kick`: closes the sessions of a uid.

use std::ffi::OsString;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;

use super::client::{CallError, Client};
use super::{ControlArgs, EXIT_CODES, End, Failure, encoded, print, run, sessions};

/// Closes a user's sessions, behind what is due to them
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct Kick {
    /// Whose sessions to close
    uid: String,
    /// Close code that they are told: 1000 to 1003, 1007 to 1014, or 3000 to 4999 [default: 1008]
    #[arg(long, value_name = "CODE")]
    code: Option<u16>,
    /// Reason that they are told, of up to 123 bytes
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
}

impl Kick {
    /// Runs the command.
    pub(in crate::cli) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        run("kick", self.ask(variables))
    }

    async fn ask(&self, variables: &[(OsString, OsString)]) -> Result<End, Failure> {
        let callee = self.control.node.callee(variables)?;
        let code = self.code.map(|code| format!("code={code}"));
        let reason = self.reason.as_ref().map(|reason| format!("reason={}", encoded(reason)));
        let query: Vec<_> = code.into_iter().chain(reason).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let request = Request::delete(format!("/v1/uids/{}{query}", encoded(&self.uid)));
        let request = request.body(Full::<Bytes>::default()).map_err(|error| Failure::Settings(error.to_string()))?;
        let call = async { Client::connect(&callee).await?.call(request).await };
        let answer = self.control.node.in_time(call).await?;
        let closed = closed(&answer).ok_or_else(|| CallError::Strange(answer.to_string()))?;
        match closed {
            _ if self.control.json => print(&answer.to_string())?,
            0 => print(&format!("{} is offline", self.uid))?,
            _ => print(&format!("closed {}", sessions(closed)))?,
        }
        Ok(if closed == 0 { End::Offline } else { End::Done })
    }
}

/// Finds how many sessions were closed.
fn closed(answer: &Value) -> Option<u64> {
    answer.get("sessions")?.as_u64()
}
