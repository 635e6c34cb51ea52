//! Entry point: hands the process's arguments and environment to the command line.

use std::process::ExitCode;

// glibc's allocator keeps the memory that a storm of connections used; mimalloc gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pombo::cli::run(std::env::args_os(), std::env::vars_os())
}
