//! Why a credential does not let its bearer in, and how that is told before and after the upgrade.
//!
//! Every text is constant: no byte of a credential gets into an answer, a header or a log line.

use hyper::StatusCode;

use crate::frame::close;

/// Why a credential is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// There is none where one may stand, and none can follow.
    #[error("no credential, expected one where the setting auth_sources says")]
    Missing,
    /// There are several, which may say different things.
    #[error("several credentials, expected one")]
    Several,
    /// It is no JWS, in its compact form, of a kind that can be checked.
    #[error("token is malformed, expected a signed JWT")]
    Malformed,
    /// No key of this node has signed it, by the one algorithm that the key is for.
    #[error("token is not signed with a key of this server")]
    Signature,
    /// Its time is over.
    #[error("credential has expired")]
    Expired,
    /// It is for ever, or its end can't be read.
    #[error("token has no time in exp, expected one")]
    Endless,
    /// Its time has not come.
    #[error("token is not valid yet, see its nbf")]
    Early,
    /// Somebody else issued it.
    #[error("token has another iss than expected")]
    Issuer,
    /// It is meant for somebody else.
    #[error("token has another aud than expected")]
    Audience,
    /// Its subject can't log in.
    #[error("token has a sub that can't be a uid, expected 1 to uid_bytes_max bytes, no colon, and not all")]
    Subject,
    /// What its bearer may do can't be read.
    #[error("token has a claim of rights that is no list of words")]
    Rights,
    /// The service says no.
    #[error("credential was refused")]
    ByService,
    /// The service can't be asked, or its answer can't be read.
    #[error("authentication is not available, try again later")]
    Unavailable,
}

impl Denied {
    /// Every reason, for the docs and the tests that hold them.
    pub(crate) const ALL: &[Self] = &[
        Self::Missing,
        Self::Several,
        Self::Malformed,
        Self::Signature,
        Self::Expired,
        Self::Endless,
        Self::Early,
        Self::Issuer,
        Self::Audience,
        Self::Subject,
        Self::Rights,
        Self::ByService,
        Self::Unavailable,
    ];

    /// Returns the status that answers an upgrade.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Several => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Returns the challenge that goes with a 401 (RFC 6750, section 3).
    pub(crate) fn challenge(self) -> Option<&'static str> {
        match self {
            Self::Several | Self::Unavailable => None,
            Self::Missing => Some("Bearer"),
            _ => Some("Bearer error=\"invalid_token\""),
        }
    }

    /// Returns the code that closes a connection whose first frame it was.
    pub(crate) fn close_code(self) -> u16 {
        match self {
            Self::Expired => close::EXPIRED,
            Self::Unavailable => close::TRY_AGAIN_LATER,
            _ => close::UNAUTHORIZED,
        }
    }

    /// Returns its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Missing => "credential_missing",
            Self::Several => "credentials_several",
            Self::Malformed => "token_malformed",
            Self::Signature => "token_signature",
            Self::Expired => "credential_expired",
            Self::Endless => "token_endless",
            Self::Early => "token_early",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Subject => "token_subject",
            Self::Rights => "token_rights",
            Self::ByService => "auth_service_refused",
            Self::Unavailable => "auth_service_unavailable",
        }
    }
}
