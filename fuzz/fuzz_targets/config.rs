//! Settings: a file, and behind a zero byte the environment's variables, one in a line.
#![no_main]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pombo::config::{Settings, load};

/// Of this process alone; in memory where the system has a place for that.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("pombo-fuzz-{}.toml", std::process::id()))
});

fuzz_target!(|bytes: &[u8]| {
    let (file, rest) = bytes.split_at(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    let variables: Vec<(OsString, OsString)> = rest
        .split(|&byte| byte == b'\n' || byte == 0)
        .filter_map(|line| {
            let at = line.iter().position(|&byte| byte == b'=')?;
            Some((OsString::from_vec(line[..at].to_vec()), OsString::from_vec(line[at + 1..].to_vec())))
        })
        // Another file is another input.
        .filter(|(name, _)| name != "POMBO_CONFIG")
        .collect();
    fs::write(&*FILE, file).expect("a file can be written");
    let config = match load(&Settings::default(), Some(&FILE), &variables) {
        Ok(config) => config,
        Err(faults) => return assert!(!faults.to_string().is_empty(), "a refusal says why"),
    };
    assert!(config.check().is_ok(), "what was loaded is checked");
    if config.jwt_secret.is_some() || config.hook_secret.is_some() || !config.control_tokens.is_empty() {
        // Not shown, so not loaded again.
        return;
    }
    fs::write(&*FILE, config.to_toml()).expect("a file can be written");
    let again = load(&Settings::default(), Some(&FILE), &[]);
    assert_eq!(again.ok().as_ref(), Some(&config), "what is shown means the same:\n{}", config.to_toml());
});
