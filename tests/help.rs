//! The help that fits a screen, and the one that is whole.

use std::process::{Command, Stdio};

use pombo::config::SETTINGS;

/// Rows and columns of a screen.
const LINES_MAX: usize = 40;
const COLUMNS_MAX: usize = 100;

#[track_caller]
fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    let output = command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

#[test]
fn the_first_help_fits_a_screen() {
    for arguments in [&["--help"][..], &["-h"], &["--shards", "2", "--help"], &["serve", "-h"]] {
        let text = help(arguments);
        assert!(text.lines().count() <= LINES_MAX, "{} lines: {text}", text.lines().count());
        let too_long = text.lines().find(|line| line.chars().count() > COLUMNS_MAX);
        assert_eq!(too_long, None, "{arguments:?}");
        for setting in ["--listen <ADDRESS>", "--control <ADDRESS>", "--config <FILE>", "--auth <none|jwt|http>"] {
            assert!(text.contains(setting), "{setting} in {text}");
        }
        assert!(text.contains("`pombo serve --help` shows all"), "{text}");
    }
    assert_eq!(help(&["--help"]), help(&["-h"]));
}

/// Each command and setting of the first help has a line of its own.
#[test]
fn the_first_help_has_a_line_for_each() {
    let text = help(&["--help"]);
    for name in [
        "serve",
        "connect",
        "push",
        "online",
        "kick",
        "health",
        "top",
        "bench",
        "completions",
        "man",
        "--listen",
        "--tls-certificate",
        "--tls-key",
        "--origins",
        "--control",
        "--shards",
        "--auth",
    ] {
        let lines: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with(&format!("{name} "))).collect();
        assert!(lines.len() == 1 && lines[0].split_whitespace().count() > 3, "{name}: {lines:?} in {text}");
    }
}

#[test]
fn the_whole_help_has_every_setting() {
    let text = help(&["serve", "--help"]);
    for setting in SETTINGS {
        let flag = format!("{} <{}>", setting.flag(), setting.placeholder);
        assert!(text.contains(&flag) || text.contains(&flag.replace(" <", " [<")), "{flag}");
        assert!(text.contains(&setting.variable()), "{}", setting.variable());
    }
}
