//! `completions` and `man`, of `pombo` and of `pombo-bench`: scripts for shells and man pages, made from the description
//! of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use super::refuse;

/// Prints a script by which a shell completes commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = "\
bash:  PROGRAM completions bash > ~/.local/share/bash-completion/completions/PROGRAM
zsh:   PROGRAM completions zsh > ~/.zfunc/_PROGRAM, where fpath has ~/.zfunc
fish:  PROGRAM completions fish > ~/.config/fish/completions/PROGRAM.fish
PROGRAM is the name of this program.")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Writes a man page for the program, and one for each of its commands
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Folder to write them into, such as ~/.local/share/man/man1; it is made if there is none
    folder: PathBuf,
}

impl Completions {
    /// Prints the script for a program with this command line.
    pub fn run(&self, mut command: Command) -> ExitCode {
        let mut script = Vec::new();
        let program = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, program, &mut script);
        // A failed write means that nobody reads stdout any more.
        io::stdout().lock().write_all(&script).ok();
        ExitCode::SUCCESS
    }
}

impl Man {
    /// Writes the pages of a program with this command line.
    pub fn run(&self, command: Command) -> ExitCode {
        let written = fs::create_dir_all(&self.folder).and_then(|()| clap_mangen::generate_to(command, &self.folder));
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse([format!("cannot write to {}: {error}", self.folder.display())]),
        }
    }
}
