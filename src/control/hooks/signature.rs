//! The keys that sign batches: from one secret or several, whose file is read again when it changes.

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

/// The file of secrets can't be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read hook_secret_file {}: {reason}", path.display())]
pub(crate) struct SecretError {
    path: PathBuf,
    reason: String,
}

/// The keys in use.
#[derive(Debug)]
pub(super) struct Keys {
    /// The key of the setting `hook_secret`.
    from_setting: Option<hmac::Key>,
    file: Option<PathBuf>,
    from_file: Vec<hmac::Key>,
    /// The file's content when it was read last, or the error. The same content is not parsed again.
    content: Result<Vec<u8>, String>,
}

impl Keys {
    /// Reads all secrets.
    ///
    /// # Errors
    /// When the file can't be read, or is malformed.
    pub(super) fn load(settings: &HookSettings) -> Result<Self, SecretError> {
        let from_setting = settings.secret.as_ref().map(|secret| key(secret.reveal().as_bytes()));
        let mut keys =
            Self { from_setting, file: settings.secret_file.clone(), from_file: Vec::new(), content: Ok(Vec::new()) };
        if let Some(path) = &keys.file {
            keys.content = read(path);
            let parsed = keys.content.as_ref().map_err(String::clone).and_then(|bytes| parse(bytes));
            keys.from_file = parsed.map_err(|reason| SecretError { path: path.clone(), reason })?;
        }
        Ok(keys)
    }

    /// Replaces the keys of the file by those in `content`, the result of [`read`], if it has changed and is valid.
    fn refresh(&mut self, content: Result<Vec<u8>, String>) {
        if self.content == content {
            return;
        }
        match content.as_ref().map_err(String::clone).and_then(|bytes| parse(bytes)) {
            Ok(keys) => {
                info!(secrets = keys.len(), "secrets of the hook changed");
                self.from_file = keys;
            }
            Err(reason) => error!(reason, "secrets of the hook not changed, the old ones stay"),
        }
        self.content = content;
    }

    /// Signs a body at this second since 1970: `t=…,v1=…`, with a `v1` for each secret.
    pub(super) fn sign(&self, second: u64, body: &[u8]) -> String {
        let mut signature = format!("t={second}");
        for key in self.from_setting.iter().chain(&self.from_file) {
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

/// Reads the file of secrets again whenever it changes. Never returns.
pub(super) async fn watch(keys: watch::Sender<Keys>) {
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

/// Reads the file of secrets. Blocks.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    bounded_file::read(path, FILE_BYTES_MAX).map_err(|error| error.to_string())
}

/// Makes a key of each line. Skips empty lines, and a byte order mark at the start.
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
            Keys { from_setting: None, file: None, from_file: parse(bytes).expect("a secret"), content: Ok(Vec::new()) }
                .sign(1, b"")
        };
        assert_eq!(signed(format!("\u{feff}{secret}\n").as_bytes()), signed(secret.as_bytes()));
        for bad in [String::new(), "\n".to_owned(), "x".repeat(31), "x".repeat(1025), format!("{secret}\n").repeat(5)] {
            parse(bad.as_bytes()).expect_err(&bad);
        }
    }

    #[test]
    fn a_file_that_is_not_sound_any_more_changes_nothing() {
        let (old, new) = ("o".repeat(32), "n".repeat(32));
        let from_file = parse(old.as_bytes()).expect("a secret");
        let mut keys = Keys { from_setting: None, file: None, from_file, content: Ok(old.into_bytes()) };
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
        let keys = |from_setting: Option<hmac::Key>, from_file| Keys {
            from_setting,
            file: None,
            from_file,
            content: Ok(Vec::new()),
        };
        let one = key("k".repeat(32).as_bytes());
        let expected = "0b3b35525c10b3757ffa78df69037021fc3168d8390a51a4fcb4a8d56a25b557";
        assert_eq!(keys(Some(one.clone()), vec![]).sign(1_700_000_000, b"{}"), format!("t=1700000000,v1={expected}"));
        let both = keys(Some(key(b"another")), vec![one]).sign(1_700_000_000, b"{}");
        assert!(both.ends_with(&format!(",v1={expected}")) && both.matches("v1=").count() == 2, "{both}");
    }
}
