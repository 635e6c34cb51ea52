//! `pombo bench`: replaces this process by `pombo-bench`, the load generator, which is a program of its own.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::refuse;

/// The program's name.
const PROGRAM: &str = "pombo-bench";

/// Puts a server under load, checks every message, and says what it cost; runs `pombo-bench`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Bench {
    /// Arguments of `pombo-bench`; `pombo bench --help` tells them
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Bench {
    /// Executes the `pombo-bench` in the folder of this program, or else the one on the PATH; returns only if that fails.
    pub(super) fn run(self) -> ExitCode {
        let beside =
            env::current_exe().ok().map(|program| program.with_file_name(PROGRAM)).filter(|path| path.exists());
        let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
        let error = Command::new(&program).args(self.arguments).exec();
        refuse([match error.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no {PROGRAM} beside this program or on the PATH; the packages have it, and in the sources \
                 `cargo build --release -p {PROGRAM}` builds it"
            ),
            _ => format!("cannot run {}: {error}", program.display()),
        }])
    }
}
