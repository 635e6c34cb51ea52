//! `pombo bench` becomes `pombo-bench`: the one beside it, or else the one on the PATH; without any it says how to get it.
//!
//! In here the load generator is a script that prints its arguments; `crates/pombo-bench/tests` has the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Puts a script into `folder` that prints `name` and its arguments, each on a line, and exits with 7.
fn script(folder: &Path, name: &str) {
    let path = folder.join("pombo-bench");
    fs::write(&path, format!("#!/bin/sh\nprintf '%s\\n' {name} \"$@\"\nexit 7\n")).expect("the folder is writable");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Only one test in this file: a program that another thread starts would hold a script open that is being written.
#[test]
fn the_load_generator_is_found_beside_it_or_on_the_path() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (here, elsewhere) = (folder.path().join("here"), folder.path().join("elsewhere"));
    for folder in [&here, &elsewhere] {
        fs::create_dir(folder).expect("the folder is writable");
    }
    // No symbolic link: it would be beside what it leads to.
    fs::hard_link(env!("CARGO_BIN_EXE_pombo"), here.join("pombo")).expect("both are below `target`");
    let run = |arguments: &[&str]| -> Output {
        let mut pombo = Command::new(here.join("pombo"));
        pombo.arg("bench").args(arguments).env("PATH", &elsewhere).output().expect("the program runs")
    };

    let output = run(&["connect"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: there is no pombo-bench beside this program or on the PATH"), "{said}");
    assert!(said.contains("`cargo build -p pombo-bench`"), "{said}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));

    for (folder, name) in [(&elsewhere, "on-the-path"), (&here, "beside")] {
        script(folder, name);
        for arguments in [
            &[][..],
            &["--help"],
            &["-h"],
            &["connect", "-c", "8", "--json", "--help"],
            &["unicast", "a b", "--", "--pid", ""],
        ] {
            let output = run(arguments);
            let expected: String = [&[name], arguments].concat().iter().map(|word| format!("{word}\n")).collect();
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
            assert_eq!(output.status.code(), Some(7), "{arguments:?}");
        }
    }
}
