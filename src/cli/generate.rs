//! `pombo completions` and `pombo man`: what shells and `man` want to know of the command line, made from it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, refuse};

/// Prints what makes a shell complete pombo's commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = "\
bash:  pombo completions bash > ~/.local/share/bash-completion/completions/pombo
zsh:   pombo completions zsh > ~/.zfunc/_pombo, where fpath has ~/.zfunc
fish:  pombo completions fish > ~/.config/fish/completions/pombo.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Writes a man page for pombo, and one for each of its commands
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// Folder to write them into, such as ~/.local/share/man/man1; it is made if there is none
    folder: PathBuf,
}

impl Completions {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "pombo", &mut script);
        // A reader that has gone wants no more of it.
        io::stdout().lock().write_all(&script).ok();
        ExitCode::SUCCESS
    }
}

impl Man {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitCode {
        let written = fs::create_dir_all(&self.folder).and_then(|()| clap_mangen::generate_to(command(), &self.folder));
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse([format!("cannot write to {}: {error}", self.folder.display())]),
        }
    }
}

fn command() -> Command {
    Cli::command()
}
