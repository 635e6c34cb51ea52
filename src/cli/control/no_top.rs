//! In place of `top/` without the feature `top`: a line that says how to get it.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::refuse;

/// Shows what a node does, as it does it; not in this build, without the feature `top`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(in crate::cli) struct Top {
    /// Taken and not looked at
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<OsString>,
}

impl Top {
    /// Refuses.
    pub(in crate::cli) fn run(&self, _variables: &[(OsString, OsString)]) -> ExitCode {
        refuse(["this program was built without the feature top; the packages have it, and in the sources \
             `cargo run --release --features top -- top` builds and runs it"])
    }
}
