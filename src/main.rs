//! Entry point: hands over to the library's command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pombo::cli::bench;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put a server under load
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let Command::Bench(args) = Cli::parse().command;
    bench::run(args)
}
