//! The load generator that puts a node of a benchmark under load.

use std::env;
use std::path::{Path, PathBuf};

/// Returns the program: the one that the variable `POMBO_BENCH` names, or else the one beside the server.
///
/// # Panics
/// If there is none: cargo builds the server for a benchmark, and not the load generator.
pub(crate) fn load_generator() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_pombo")).with_file_name("pombo-bench");
    let program = env::var_os("POMBO_BENCH").map_or_else(beside, PathBuf::from);
    assert!(program.exists(), "there is no {}: run `cargo build --release -p pombo-bench` first", program.display());
    program
}
