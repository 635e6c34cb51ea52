//! What the workspace depends on: licences that go with ours, one version of each package, one source.
//!
//! Asks cargo about the lock file, offline, for this machine's platform; known vulnerabilities are in a database that
//! must be downloaded, so they are not looked at here. Packages of optional features are looked at where they have been
//! downloaded, which `cargo test` alone never does; with `ALL_FEATURES=true`, as in CI, they have to be there.

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::io::{self, Write as _};
use std::process::Command;

use serde_json::Value;

/// Licences that MIT OR Apache-2.0 can build on; of alternatives one is enough.
const LICENCES: &[&str] = &["Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Zlib"];

/// Packages that come in more than one version, and why that has to be.
const DUPLICATES: &[(&str, &str)] = &[
    ("itertools", "criterion asks for an older one than ratatui"),
    ("rand", "the SDK of OpenTelemetry asks for an older one than tungstenite; with the feature opentelemetry only"),
    ("getrandom", "ahash 0.8 asks for an older one than tungstenite's rand"),
    ("rand_core", "jsonwebtoken's signature asks for an older one than tungstenite's rand"),
    ("untrusted", "aws-lc-rs asks for an older one than rustls-webpki, for an interface that nobody here uses"),
    ("syn", "tracing-attributes asks for an older one than the derives; at compile time only"),
];

/// Where packages may come from; ours come from nowhere.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn licences_go_with_ours() {
    let bad: Vec<_> = packages()
        .0
        .into_iter()
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or("none")))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(bad.is_empty(), "licences that are not allowed:\n{}", bad.join("\n"));
}

#[test]
fn every_package_comes_from_the_registry() {
    for package in packages().0 {
        let source = package["source"].as_str();
        assert!(source == Some(SOURCE) || is_ours(&package), "{} comes from {source:?}", package["name"]);
    }
}

#[test]
fn one_version_of_each_package() {
    let mut versions = BTreeMap::<String, Vec<String>>::new();
    let (packages, has_all_features) = packages();
    for package in packages {
        let text = |key: &str| package[key].as_str().expect("a text").to_owned();
        versions.entry(text("name")).or_default().push(text("version"));
    }
    versions.retain(|_, versions| versions.len() > 1);
    for (name, versions) in &versions {
        let known = DUPLICATES.iter().any(|(known, _)| known == name);
        assert!(known, "{name} comes as {}; `cargo tree -d` tells who asks for each", versions.join(" and "));
    }
    for (name, reason) in DUPLICATES {
        let stale = cfg!(target_os = "linux") && has_all_features && !versions.contains_key(*name);
        assert!(!stale, "{name} comes once; its exception ({reason}) can go");
    }
}

/// Most packages in the server as `cargo run --release` builds it, itself included: each is built by everyone who tries it.
const SERVER_PACKAGES_MAX: usize = 160;

#[test]
fn the_server_is_built_of_few_packages() {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--no-dedupe"]);
    let tree = run(&mut cargo).expect("the packages of the default build were downloaded");
    // A line is a name, a version, and what kind of package it is.
    let packages: HashSet<_> = tree.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    let count = packages.len();
    assert!((2..=SERVER_PACKAGES_MAX).contains(&count), "{count} packages, expected at most {SERVER_PACKAGES_MAX}");
}

/// Tells whether a licence expression (SPDX, or the older form with slashes) can be met by [`LICENCES`].
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

#[test]
fn licence_expressions_are_understood() {
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["none", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0", "Apache-2.0 WITH X"] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

/// Every package that a build, test or bench on this platform uses, and whether that is with all features.
fn packages() -> (Vec<Value>, bool) {
    let rustc = run(Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())).arg("-vV")).expect("rustc runs");
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc tells its host");
    let (metadata, has_all_features) = match metadata(host, &["--all-features"]) {
        Ok(metadata) => (metadata, true),
        Err(error) if env::var("ALL_FEATURES").as_deref() == Ok("true") => panic!("{error}"),
        Err(error) => {
            let metadata = metadata(host, &[]).unwrap_or_else(|of_default| panic!("{of_default}\nand before: {error}"));
            // Not by `eprintln!`, which the test harness keeps to itself.
            writeln!(io::stderr(), "packages of optional features are skipped, not all of them are downloaded").ok();
            (metadata, false)
        }
    };
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata is JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("the resolved packages");
    let used: HashSet<_> = nodes.iter().map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().expect("the packages");
    (packages.iter().filter(|package| used.contains(&package["id"])).cloned().collect(), has_all_features)
}

/// Whether a package is of this workspace.
fn is_ours(package: &Value) -> bool {
    package["manifest_path"].as_str().is_some_and(|path| path.starts_with(env!("CARGO_MANIFEST_DIR")))
}

/// Asks cargo for the packages of these features, without downloading any.
fn metadata(host: &str, features: &[&str]) -> Result<String, String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    run(cargo.args(features))
}

/// Returns what the program prints, or what it complains of.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("the program is there, since it built this test");
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8(output.stdout).expect("UTF-8"))
}
