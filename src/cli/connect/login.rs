//! Who the client logs in as: a uid, or whoever a token says.

use std::fs;
use std::io;
use std::path::PathBuf;

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};

/// How the client logs in.
#[derive(Debug)]
pub(super) enum Login {
    /// By its first message.
    Uid(String),
    /// By the token in a file, which is read for every connection: by then it may hold a newer one.
    TokenFile(PathBuf),
}

/// Why there is no token to send.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("can't read the token in {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// It would not be one header.
    #[error("{} holds no token, expected one line of printable ASCII", .0.display())]
    NoToken(PathBuf),
}

impl Login {
    /// Makes the request that opens the WebSocket.
    ///
    /// # Errors
    /// When the token can't be sent.
    pub(super) fn request(&self, uri: &Uri) -> Result<Request, TokenError> {
        let mut request = uri.into_client_request().expect("a target's address makes a request");
        if let Self::TokenFile(path) = self {
            let token =
                fs::read_to_string(path).map_err(|source| TokenError::Unreadable { path: path.clone(), source })?;
            let token = token.trim();
            let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            let header = is_token.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
            let mut header = header.ok_or_else(|| TokenError::NoToken(path.clone()))?;
            header.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        Ok(request)
    }

    /// Returns the message that logs in, unless the request has done that.
    pub(super) fn message(&self) -> Option<&str> {
        match self {
            Self::Uid(uid) => Some(uid),
            Self::TokenFile(_) => None,
        }
    }
}

/// Tells whether an answer to the upgrade means that this login is not wanted.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
