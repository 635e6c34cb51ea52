//! `pombo bench`: runs `pombo-bench`, the load generator. It is a program of its own, because no server needs its plots.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::refuse;

/// The program's name.
const PROGRAM: &str = "pombo-bench";

/// Puts a server under load, and checks every message; runs `pombo-bench`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Bench {
    /// Arguments of `pombo-bench`; `pombo bench --help` tells them
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    /// Replaces this process by `pombo-bench`, from this program's folder or else from the PATH; returns only if that fails.
    pub(super) fn run(self) -> ExitCode {
        let beside =
            env::current_exe().ok().map(|program| program.with_file_name(PROGRAM)).filter(|path| path.exists());
        let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
        let error = Command::new(&program).args(self.arguments).exec();
        refuse([match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no {PROGRAM} beside this program or on the PATH; the packages have it, and in the sources \
                 `cargo build -p {PROGRAM}` builds it, with the same `--release` or `--profile` as pombo"
            ),
            _ => format!("cannot run {}: {error}", program.display()),
        }])
    }
}
