//! The other program of the workspace: `pombo` for the tests of `pombo-bench`, and the other way round.
//!
//! Cargo builds the programs of the packages that are tested, so `cargo test --workspace` has both.

use std::env;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Returns the program `name` beside `program`, or says why the test is skipped.
///
/// # Panics
/// If there is none under `CI=true`.
pub(crate) fn sibling(program: &str, name: &str) -> Option<PathBuf> {
    let path = Path::new(program).with_file_name(name);
    if path.exists() {
        return Some(path);
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "no {}, which CI must have", path.display());
    // Not by `println!`, which the test harness keeps to itself.
    writeln!(io::stderr(), "skipped: no {}, `cargo test --workspace` builds it", path.display()).ok();
    None
}
