//! The login of the client: by a uid, or by a token.

use std::path::PathBuf;

use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};

use crate::cli::token::{self, TokenError};

/// How the client logs in.
#[derive(Debug)]
pub(super) enum Login {
    /// By its first message.
    Uid(String),
    /// By the token in a file, which is read for every connection, because it may hold a newer token then.
    TokenFile(PathBuf),
}

impl Login {
    /// Makes the request that opens the WebSocket.
    ///
    /// # Errors
    /// When the token can't be sent.
    pub(super) fn request(&self, uri: &Uri) -> Result<Request, TokenError> {
        let mut request = uri.into_client_request().expect("a target's address makes a request");
        if let Self::TokenFile(path) = self {
            request.headers_mut().insert(AUTHORIZATION, token::from_file(path)?);
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

/// Returns whether an answer to the upgrade means that the login was refused.
pub(super) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
