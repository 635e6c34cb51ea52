//! What a batch is signed with: one secret or several, read again when their file changes.

use std::fmt::Write as _;
use std::future::pending;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use tokio::sync::watch;
use tracing::{error, info};

use crate::bounded_file;
use crate::config::{HookSettings, Secret};
use crate::watched_files::{Stamps, WatchedFiles};

/// Longest file that is read, and most secrets in all.
const FILE_BYTES_MAX: u64 = 64 << 10;
const SECRETS_MAX: usize = 4;

/// A file of secrets that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read hook_secret_file {}: {reason}", path.display())]
pub(crate) struct SecretError {
    path: PathBuf,
    reason: String,
}

/// The keys as they are now.
#[derive(Debug)]
pub(super) struct Keys {
    /// The one of the setting `hook_secret`.
    own: Option<hmac::Key>,
    file: Option<PathBuf>,
    of_file: Vec<hmac::Key>,
    /// What the file held when it was read last, or what was wrong with it: the same is not parsed again.
    read: Result<Vec<u8>, String>,
}

impl Keys {
    /// Reads all secrets.
    ///
    /// # Errors
    /// When the file can't be read, or holds something else.
    pub(super) fn load(settings: &HookSettings) -> Result<Self, SecretError> {
        let own = settings.secret.as_ref().map(|secret| key(secret.reveal().as_bytes()));
        let mut keys = Self { own, file: settings.secret_file.clone(), of_file: Vec::new(), read: Ok(Vec::new()) };
        if let Some(path) = &keys.file {
            keys.read = read(path);
            let parsed = keys.read.as_ref().map_err(String::clone).and_then(|bytes| parse(bytes));
            keys.of_file = parsed.map_err(|reason| SecretError { path: path.clone(), reason })?;
        }
        Ok(keys)
    }

    /// Takes over what [`read`] found in the file, if it holds something else than before and is sound.
    fn refresh(&mut self, read: Result<Vec<u8>, String>) {
        if self.read == read {
            return;
        }
        match read.as_ref().map_err(String::clone).and_then(|bytes| parse(bytes)) {
            Ok(keys) => {
                info!(secrets = keys.len(), "secrets of the hook changed");
                self.of_file = keys;
            }
            Err(reason) => error!(reason, "secrets of the hook not changed, the old ones stay"),
        }
        self.read = read;
    }

    /// Signs a body at this second since 1970: `t=…,v1=…`, with a `v1` for each secret.
    pub(super) fn sign(&self, second: u64, body: &[u8]) -> String {
        let mut signature = format!("t={second}");
        for key in self.own.iter().chain(&self.of_file) {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{second}.").as_bytes());
            context.update(body);
            signature += ",v1=";
            for byte in context.sign().as_ref() {
                write!(signature, "{byte:02x}").expect("a String takes all");
            }
        }
        signature
    }
}

/// Reads the file of secrets again whenever it changes; for ever.
pub(super) async fn keep(keys: watch::Sender<Keys>) {
    let Some(path) = keys.borrow().file.clone() else { return pending().await };
    let mut watched = WatchedFiles::new(Stamps::default());
    loop {
        watched.next_look().await;
        let file = path.clone();
        match watched.look(vec![path.clone()], move || read(&file)).await {
            Ok(Some(read)) => keys.send_modify(|keys| keys.refresh(read)),
            Ok(None) => {}
            Err(error) => error!(error = %error, "secrets of the hook not changed, the old ones stay"),
        }
    }
}

/// Reads the file of secrets; blocks for as long as that takes.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    bounded_file::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())
}

/// Takes each line as a secret; empty ones count for nothing, nor does a byte order mark in front of the first.
fn parse(bytes: &[u8]) -> Result<Vec<hmac::Key>, String> {
    let lines = Secret::bare(bytes).split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let secrets: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    if !(1..=SECRETS_MAX).contains(&secrets.len()) {
        return Err(format!("it has {} lines, expected a secret on each of 1 to {SECRETS_MAX}", secrets.len()));
    }
    let (least, most) = (Secret::BYTES_MIN, Secret::BYTES_MAX);
    match secrets.iter().find(|secret| !(least..=most).contains(&secret.len())) {
        Some(secret) => Err(format!("a secret has {} bytes, expected {least} to {most}", secret.len())),
        None => Ok(secrets.into_iter().map(key).collect()),
    }
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_secrets() {
        let secret = "x".repeat(32);
        for (text, count) in [(secret.clone(), 1), (format!("{secret}\r\n\n{secret}\n"), 2)] {
            assert_eq!(parse(text.as_bytes()).expect("secrets").len(), count);
        }
        let signed = |bytes: &[u8]| {
            Keys { own: None, file: None, of_file: parse(bytes).expect("a secret"), read: Ok(Vec::new()) }.sign(1, b"")
        };
        assert_eq!(signed(format!("\u{feff}{secret}\n").as_bytes()), signed(secret.as_bytes()));
        for bad in [String::new(), "\n".to_owned(), "x".repeat(31), "x".repeat(1025), format!("{secret}\n").repeat(5)] {
            parse(bad.as_bytes()).expect_err(&bad);
        }
    }

    #[test]
    fn a_file_that_is_not_sound_any_more_changes_nothing() {
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let of_file = parse(old.as_bytes()).expect("a secret");
        let mut keys = Keys { own: None, file: None, of_file, read: Ok(old.into_bytes()) };
        let signed = keys.sign(1, b"");
        keys.refresh(Ok(b"short".to_vec()));
        keys.refresh(Err("it has gone".to_owned()));
        assert_eq!(keys.sign(1, b""), signed);
        keys.refresh(Ok(new.into_bytes()));
        assert_ne!(keys.sign(1, b""), signed);
    }

    /// By `printf '1700000000.{}' | openssl dgst -sha256 -hmac "$(printf 'k%.0s' $(seq 32))"`.
    #[test]
    fn signs_as_others_do() {
        let keys = |own: Option<hmac::Key>, of_file| Keys { own, file: None, of_file, read: Ok(Vec::new()) };
        let one = key("k".repeat(32).as_bytes());
        let expected = "0b3b35525c10b3757ffa78df69037021fc3168d8390a51a4fcb4a8d56a25b557";
        assert_eq!(keys(Some(one.clone()), vec![]).sign(1_700_000_000, b"{}"), format!("t=1700000000,v1={expected}"));
        let both = keys(Some(key(b"another")), vec![one]).sign(1_700_000_000, b"{}");
        assert!(both.ends_with(&format!(",v1={expected}")) && both.matches("v1=").count() == 2, "{both}");
    }
}
