//! `pombo --version`: the commit and the features, wherever the program was built.
//!
//! What it was built from is found by `build.rs`, which is run here on folders of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[track_caller]
fn printed(argument: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pombo")).arg(argument).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn the_version_is_a_line_and_with_its_features_two() {
    let short = printed("-V");
    assert!(short.starts_with(&format!("pombo {VERSION}")) && short.ends_with('\n'), "{short:?}");
    assert_eq!(short.lines().count(), 1, "{short:?}");
    let long = printed("--version");
    let features = long.strip_prefix(&short).and_then(|rest| rest.strip_prefix("features: "));
    assert!(features.is_some_and(|features| features.trim_end().len() > 1), "{long:?}");
}

/// The build script, compiled.
struct Script {
    folder: TempDir,
}

impl Script {
    fn compile() -> Self {
        let folder = TempDir::new().expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "-o"])
            .args([folder.path().join("script"), source])
            .status()
            .expect("there is a compiler");
        assert!(status.success());
        fs::create_dir(folder.path().join("crate")).expect("a folder");
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("crate")
    }

    /// Runs it as cargo would; returns the version, the features, and how many files it wants to be run again for.
    fn run(&self, variables: &[(&str, &str)]) -> Option<(String, String, usize)> {
        let output = Command::new(self.folder.path().join("script"))
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("GIT_CEILING_DIRECTORIES", self.folder.path())
            .env("CARGO_MANIFEST_DIR", self.root())
            .env("CARGO_PKG_VERSION", "1.2.3")
            .env("PROFILE", "release")
            .envs(variables.iter().copied())
            .stderr(Stdio::null())
            .output()
            .expect("it runs");
        let told = String::from_utf8(output.stdout).expect("text");
        let value = |key: &str| {
            let prefix = format!("cargo::rustc-env={key}=");
            told.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
        };
        let watched = told.lines().filter(|line| line.starts_with("cargo::rerun-if-changed=")).count();
        output.status.success().then(|| Some((value("BUILD_VERSION")?, value("BUILD_FEATURES")?, watched)))?
    }

    #[track_caller]
    fn check(&self, variables: &[(&str, &str)], version: &str, features: &str, watched: usize) {
        let told = self.run(variables).expect("the script succeeds");
        assert_eq!(told, (version.to_owned(), features.to_owned(), watched), "{variables:?}");
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(self.root())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_COMMITTER_DATE", "2026-11-23T12:00:00Z")
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

#[test]
fn what_it_was_built_from_is_told_as_far_as_it_is_known() {
    const HASH: &str = "3e06cee0123456789abcdef0123456789abcdef0";
    let script = Script::compile();
    // A tarball: no git, nobody who says.
    script.check(&[], "1.2.3", "none", 1);
    let features = [("CARGO_FEATURE_DEFAULT", "1"), ("CARGO_FEATURE_SO_FAST", "1"), ("CARGO_FEATURE_A", "1")];
    script.check(&features, "1.2.3", "a, so-fast", 1);

    // The builder's word.
    script.check(&[("BUILD_COMMIT", "")], "1.2.3", "none", 1);
    script.check(&[("BUILD_COMMIT", HASH)], "1.2.3 (3e06cee)", "none", 1);
    script.check(&[("BUILD_COMMIT", &format!("{HASH} 2026-11-23"))], "1.2.3 (3e06cee, 2026-11-23)", "none", 1);
    for wrong in ["main", "3e06ce", "3e06cee today", "3e06ceé0"] {
        assert_eq!(script.run(&[("BUILD_COMMIT", wrong)]), None, "{wrong}");
    }

    // A tarball of `cargo package`.
    let info = script.root().join(".cargo_vcs_info.json");
    fs::write(&info, format!("{{\n  \"git\": {{\n    \"sha1\": \"{HASH}\"\n  }}\n}}")).expect("a file");
    script.check(&[], "1.2.3 (3e06cee)", "none", 1);
    fs::remove_file(info).expect("it was there");
}

#[test]
fn a_checkout_tells_its_commit() {
    let script = Script::compile();
    script.git(&["init", "-q"]);
    // Without a commit yet.
    script.check(&[], "1.2.3", "none", 1);
    script.git(&["commit", "-q", "--allow-empty", "-m", "one"]);
    let hash = script.git(&["rev-parse", "HEAD"]);
    let version = format!("1.2.3 ({}, 2026-11-23)", &hash[..7]);
    // Run again when another commit is made; a debug build is not.
    script.check(&[], &version, "none", 2);
    script.check(&[("PROFILE", "debug")], "1.2.3", "none", 1);

    // A tarball unpacked in a checkout that is not its own.
    let inner = script.root().join("inner");
    fs::create_dir(&inner).expect("a folder");
    script.check(&[("CARGO_MANIFEST_DIR", inner.to_str().expect("a path in UTF-8"))], "1.2.3", "none", 1);
}
