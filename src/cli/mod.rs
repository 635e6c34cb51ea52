//! The command line.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a command line talks to its terminal")]

use std::process::ExitCode;

use clap::Parser as _;

mod connect;

/// WebSocket push server: a message to one user by uid, or to everybody.
#[derive(clap::Parser)]
#[command(name = "pombo", version)]
enum Command {
    Connect(connect::ConnectArgs),
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    match Command::parse() {
        Command::Connect(args) => connect::run(args),
    }
}
