//! The tokens of other programs: from the settings and from a file, read again when either changes.
//!
//! Only hashes of the tokens are in memory. If the file is not valid after a change, the old tokens stay in use, and an error
//! is logged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, Digest};
use tokio::sync::watch;
use tracing::{error, info};

use crate::bounded_file;
use crate::config::{ControlRights, ControlSettings, ControlToken, ControlTokenError};
use crate::watched_files::{Stamps, WatchedFiles};

/// Most bytes of the file, and most tokens: a request is compared with each.
const FILE_BYTES_MAX: u64 = 1 << 20;
const TOKENS_MAX: usize = 1000;

/// Why the tokens can't be used; the operator has to correct it. Never quotes a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlTokensError {
    /// The file can't be read, or is too large.
    #[error("cannot read control_tokens_file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: String,
    },
    /// A line of the file is no token.
    #[error("control_tokens_file {}, line {line}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: ControlTokenError,
    },
    /// The file has no token. Using it would let everybody in.
    #[error("control_tokens_file {} has no token", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Two tokens have the same name or the same secret.
    #[error("control token {name} stands there twice, by its name or by its secret")]
    Twice {
        /// The name of the second.
        name: String,
    },
    /// There are too many.
    #[error("there are {count} control tokens, expected at most {TOKENS_MAX}")]
    Many {
        /// How many.
        count: usize,
    },
}

/// The sender of a request, with its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The token's name; `None` on a node without tokens.
    pub(super) name: Option<Arc<str>>,
    pub(super) rights: ControlRights,
}

/// All tokens, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenSet(Vec<(Digest, Caller)>);

impl TokenSet {
    /// Reads the tokens of the settings and of their file. Blocks.
    ///
    /// # Errors
    /// See [`ControlTokensError`].
    pub(crate) fn load(settings: &ControlSettings) -> Result<Self, ControlTokensError> {
        let mut tokens = settings.tokens.clone();
        if let Some(path) = &settings.tokens_file {
            tokens.extend(read(path)?);
        }
        if tokens.len() > TOKENS_MAX {
            return Err(ControlTokensError::Many { count: tokens.len() });
        }
        let mut set = Self::default();
        for token in tokens {
            let hash = hash(token.secret.reveal());
            let is_known = |(known, caller): &(Digest, Caller)| {
                known.as_ref() == hash.as_ref() || caller.name.as_deref() == Some(token.name.as_str())
            };
            if set.0.iter().any(is_known) {
                return Err(ControlTokensError::Twice { name: token.name });
            }
            set.0.push((hash, Caller { name: Some(token.name.into()), rights: token.rights }));
        }
        Ok(set)
    }

    /// Returns whether requests need no token.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the owner of a token, in a time that doesn't depend on whether there is one.
    pub(super) fn caller(&self, token: &str) -> Option<&Caller> {
        let sent = hash(token);
        let mut found = None;
        for (known, caller) in &self.0 {
            if verify_slices_are_equal(known.as_ref(), sent.as_ref()).is_ok() {
                found = Some(caller);
            }
        }
        found
    }
}

fn hash(token: &str) -> Digest {
    digest::digest(&digest::SHA256, token.as_bytes())
}

/// Reads the tokens again whenever the settings or the file change. Never returns.
///
/// A change of the settings has the file read at once, too.
pub(super) async fn watch_files(
    mut settings: watch::Receiver<Arc<ControlSettings>>,
    in_force: watch::Sender<Arc<TokenSet>>,
) {
    let mut watched = WatchedFiles::new(Stamps::default());
    loop {
        tokio::select! {
            Ok(()) = settings.changed() => watched.ask(),
            () = watched.next_look() => {}
        }
        let now = Arc::clone(&settings.borrow_and_update());
        let paths = now.tokens_file.iter().cloned().collect();
        match watched.look(paths, move || TokenSet::load(&now)).await {
            Ok(Some(Ok(tokens))) => replace_if_changed(&in_force, tokens),
            Ok(None) => {}
            Ok(Some(Err(error))) => error!(error = %error, "control tokens not changed, the old ones stay"),
            Err(error) => error!(error = %error, "control tokens not changed, the old ones stay"),
        }
    }
}

fn replace_if_changed(in_force: &watch::Sender<Arc<TokenSet>>, tokens: TokenSet) {
    let is_same = {
        let old = in_force.borrow();
        old.0.len() == tokens.0.len()
            && old.0.iter().zip(&tokens.0).all(|(one, other)| one.0.as_ref() == other.0.as_ref() && one.1 == other.1)
    };
    if !is_same {
        info!(tokens = tokens.0.len(), "control tokens changed");
        in_force.send_replace(Arc::new(tokens));
    }
}

fn read(path: &Path) -> Result<Vec<ControlToken>, ControlTokensError> {
    let text = bounded_file::read_text(path, FILE_BYTES_MAX)
        .map_err(|error| ControlTokensError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut tokens = Vec::new();
    for (line, text) in lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')) {
        let token = text.parse();
        tokens.push(token.map_err(|reason| ControlTokensError::Malformed { path: path.to_owned(), line, reason })?);
    }
    if tokens.is_empty() { Err(ControlTokensError::Empty { path: path.to_owned() }) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    const ONE: &str = "one push 0123456789abcdef0123456789abcdef";
    const TWO: &str = "two query+admin fedcba9876543210fedcba9876543210";

    /// Loads a file with this content, and these tokens of the settings; returns the names, or the error without the file.
    #[track_caller]
    fn check(content: Option<&str>, settings: &[&str], expected: Result<&[&str], &str>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        if let Some(content) = content {
            fs::write(&path, content).expect("it can be written");
        }
        let config = Config {
            control_tokens: settings.iter().map(|text| text.parse().expect("a token")).collect(),
            control_tokens_file: content.is_some().then(|| path.clone()),
            ..Config::default()
        };
        let loaded = TokenSet::load(&config.control_settings());
        let names = |set: TokenSet| set.0.into_iter().filter_map(|(_, caller)| caller.name).collect::<Vec<_>>();
        let path = path.display().to_string();
        let found = loaded.map(names).map_err(|error| error.to_string().replace(&path, "FILE"));
        match (found, expected) {
            (Ok(names), Ok(expected)) => assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), expected),
            (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn tokens_of_settings_and_file_hold_together() {
        check(None, &[], Ok(&[]));
        check(None, &[ONE, TWO], Ok(&["one", "two"]));
        check(Some(&format!("# ours\n\n  {TWO}  \r\n")), &[ONE], Ok(&["one", "two"]));
    }

    #[test]
    fn files_that_would_let_in_everybody_or_somebody_else_are_refused() {
        check(Some(""), &[], Err("control_tokens_file FILE has no token"));
        check(Some("# none\n"), &[ONE], Err("control_tokens_file FILE has no token"));
        let short =
            "control_tokens_file FILE, line 2: the third word, the token, has 5 characters, expected 32 to 1024";
        check(Some(&format!("{ONE}\ntwo push short\n")), &[], Err(short));
        let rights =
            "control_tokens_file FILE, line 1: the second word is no list of rights, expected push, query or admin";
        check(Some(&ONE.replace("push", "send")), &[], Err(rights));
        check(Some("two push"), &[], Err("control_tokens_file FILE, line 1: there are 2 words, expected three: NAME"));
        check(Some(ONE), &[ONE], Err("control token one stands there twice"));
        check(Some(&ONE.replace("one", "other")), &[ONE], Err("control token other stands there twice"));
        check(Some(&"x".repeat((1 << 20) + 1)), &[], Err("cannot read control_tokens_file FILE: longer than"));
        let many: String = (0..1001).map(|index| format!("n{index} push {index:032}\n")).collect();
        check(Some(&many), &[], Err("there are 1001 control tokens, expected at most 1000"));
    }

    #[test]
    fn only_the_whole_token_is_somebodys() {
        let tokens = [ONE, TWO].map(|text| text.parse().expect("a token")).to_vec();
        let set = TokenSet::load(&Config { control_tokens: tokens, ..Config::default() }.control_settings());
        let set = set.expect("sound tokens");
        let name = |token: &str| set.caller(token).and_then(|caller| caller.name.as_deref());
        assert_eq!(name("0123456789abcdef0123456789abcdef"), Some("one"));
        assert_eq!(name("fedcba9876543210fedcba9876543210"), Some("two"));
        for token in ["", "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdef ", "one"] {
            assert_eq!(name(token), None, "{token}");
        }
    }
}
