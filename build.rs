//! Puts the version, the commit and the features into the program, for `pombo --version` and metrics.
//!
//! The commit comes from `BUILD_COMMIT` if that is set (`<hash>` or `<hash> <date>`), else from the file that `cargo package`
//! puts into a source tarball, else from git if this folder is a checkout; without any of them it is left out.
//! The date is the commit's, not that of the build: the same sources make the same program on any day.
//!
//! The variables don't begin with `POMBO_`: `cargo run` passes them on to the program, which would take them for settings.
//!
//! Debug builds don't ask git: each commit would cause a new build of them, and of every test.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    let version = variable("CARGO_PKG_VERSION");
    let commit = from_variable().or_else(packaged).or_else(checked_out);
    let revision = commit.as_ref().and_then(|commit| commit.split(',').next()).unwrap_or_default();
    println!("cargo::rustc-env=BUILD_REVISION={revision}");
    let version = commit.as_ref().map_or_else(|| version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=BUILD_VERSION={version}");
    println!("cargo::rustc-env=BUILD_FEATURES={}", features());
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The features that are on, by name; cargo sets a variable for each.
fn features() -> String {
    let names = env::vars().filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()));
    let mut names: Vec<_> = names.filter(|name| name != "default").map(|name| name.replace('_', "-")).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Reads the commit from `BUILD_COMMIT`.
fn from_variable() -> Option<String> {
    let commit = variable("BUILD_COMMIT");
    if commit.is_empty() {
        return None;
    }
    let shown = shown(&commit);
    assert!(shown.is_some(), "BUILD_COMMIT = {commit:?}: expected the commit's hash, and its date if known");
    shown
}

/// Reads the commit from the file that `cargo package` has written; it has no date.
fn packaged() -> Option<String> {
    let info = fs::read_to_string(Path::new(&variable("CARGO_MANIFEST_DIR")).join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = info.split_once("\"sha1\": \"")?;
    shown(rest.split('"').next()?)
}

/// Asks git for the commit of a checkout.
fn checked_out() -> Option<String> {
    if variable("PROFILE") == "debug" {
        return None;
    }
    let root = fs::canonicalize(variable("CARGO_MANIFEST_DIR")).ok()?;
    // A tarball may be unpacked inside of another project's checkout, whose commit says nothing about it.
    if fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()? != root {
        return None;
    }
    // This log grows with each commit and each checkout. If it did not exist, cargo would run this script every time.
    let log = root.join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    shown(&git(&["log", "-1", "--format=%H %cs"])?)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(variable("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Formats a commit as `3e06cee, 2026-11-23`; `None` if `commit` is malformed.
fn shown(commit: &str) -> Option<String> {
    let (hash, date) = commit.trim().split_once(' ').unwrap_or((commit.trim(), ""));
    let is_hash = (7..=64).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_date = date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let short = hash.get(..7).filter(|_| is_hash && is_date)?;
    Some(if date.is_empty() { short.to_owned() } else { format!("{short}, {date}") })
}
