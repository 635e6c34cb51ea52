//! A caller's bearer token: read from a file or a variable, sent in `Authorization`, and never shown.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;

/// Why a token can't be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("can't read the token in {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// It would not be one header.
    #[error("{} holds no token, expected one line of printable ASCII", .0.display())]
    NoToken(PathBuf),
}

/// Makes the header of the token in `path`.
///
/// # Errors
/// When it can't be read, or sent.
pub(super) fn from_file(path: &Path) -> Result<HeaderValue, TokenError> {
    let token = fs::read_to_string(path);
    let token = token.map_err(|source| TokenError::Unreadable { path: path.to_owned(), source })?;
    bearer(token.trim()).ok_or_else(|| TokenError::NoToken(path.to_owned()))
}

/// Makes the header of `token`; `None` when that can't be sent.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut header = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_one_printable_word() {
        let header = bearer("a.b-c=").expect("a token");
        assert_eq!((header.to_str().ok(), header.is_sensitive()), (Some("Bearer a.b-c="), true));
        for token in ["", "a b", "a\nb", "é", "a\0"] {
            assert_eq!(bearer(token), None, "{token:?}");
        }
    }
}
