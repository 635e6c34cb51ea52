//! Entry point: hands the process's arguments to the command line.

use std::process::ExitCode;

// The server's allocator: `--in-process` measures a server inside of this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pombo_bench::run(std::env::args_os())
}
