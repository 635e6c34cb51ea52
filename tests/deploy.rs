//! What is under `deploy/` goes with the program: its settings load, its units are sound, and all name the same addresses.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The settings in effect with a file of ours.
fn settings(file: &str) -> toml::Table {
    let output = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["serve", "--print-config", "--config"])
        .arg(deploy(file))
        .env_clear()
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).parse().expect("it prints TOML")
}

#[test]
fn the_socket_unit_listens_where_the_settings_say() {
    let settings = settings("systemd/pombo.toml");
    let addresses = ["listen", "control"].map(|key| settings[key].as_str().expect("one address"));
    let socket = text("systemd/pombo.socket");
    assert_eq!(values(&socket, "ListenStream"), addresses);
}

#[test]
fn the_service_gives_a_drain_its_time() {
    let service = text("systemd/pombo.service");
    let seconds = |text: &str| humantime::parse_duration(text).expect("a time");
    let drain_timeout = settings("systemd/pombo.toml").remove("drain_timeout").expect("it has a value");
    let stop = values(&service, "TimeoutStopSec");
    assert!(seconds(stop[0]) > seconds(drain_timeout.as_str().expect("text")), "{stop:?}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = TempDir::new().expect("a folder");
    for unit in ["pombo.service", "pombo.socket"] {
        // The program is not installed, and neither is its manual.
        let unit_text = text(&format!("systemd/{unit}"))
            .replace("/usr/bin/pombo", env!("CARGO_BIN_EXE_pombo"))
            .replace("Documentation=man:pombo(1)\n", "");
        fs::write(folder.path().join(unit), unit_text).expect("a file");
    }
    let units = ["pombo.service", "pombo.socket"].map(|unit| folder.path().join(unit));
    let output = match Command::new("systemd-analyze").arg("verify").args(units).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            writeln!(std::io::stderr(), "skipped: there is no systemd-analyze").ok();
            return;
        }
        Err(error) => panic!("systemd-analyze does not run: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("pombo")).collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}
