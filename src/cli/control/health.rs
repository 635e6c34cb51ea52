//! `pombo health`: whether a node lives, and whether it takes connections; for probes that have no HTTP of their own.

use std::ffi::OsString;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;

use super::client::Client;
use super::{End, Failure, NodeArgs, print, run};

/// Tells whether a node lives, as a container's health check
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  it does
  1  it does not, or there is no answer
  2  wrong arguments or settings")]
pub(in crate::cli) struct Health {
    /// Asks instead whether it takes connections: not while it drains, or is full
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Health {
    /// Runs the command.
    pub(in crate::cli) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        run("health", self.ask(variables))
    }

    async fn ask(&self, variables: &[(OsString, OsString)]) -> Result<End, Failure> {
        let callee = self.node.callee(variables)?;
        let (path, yes) = if self.ready { ("/readyz", "ready") } else { ("/healthz", "healthy") };
        let request = Request::get(path).body(Full::<Bytes>::default());
        let request = request.map_err(|error| Failure::Settings(error.to_string()))?;
        let call = async { Client::connect(&callee).await?.probe(request).await };
        self.node.in_time(call).await?;
        print(yes)?;
        Ok(End::Done)
    }
}
