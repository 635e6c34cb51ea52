//! Authentication: turns a credential into an identity, by the method in the setting `auth`.
//!
//! ```text
//!   the request ─ find ─▶ credential ─┐
//!                                     ├─ identify ─▶ Identity: uid, rights, end
//!   the first message ────────────────┘      └─────▶ IdentifyError
//! ```
//! Runs on the gateway's threads. A token is checked at once, without waiting; a request to an authentication service delays
//! only its own connection. A credential is never logged, echoed, or stored.

mod cache;
mod credential;
mod http;
mod jwk;
mod key;
mod keys;
mod login;
mod token;

use std::time::{Duration, SystemTime};

pub(crate) use credential::{RequestFacts, challenge, offered};
pub(crate) use login::{Authentication, Login, LoginService};

use self::http::Service;
use self::keys::{ChangedKeys, KeyError, Keys};
use super::Reason;
use crate::clock;
use crate::config::{Auth, AuthSettings};
use crate::rights::Rights;
use crate::roots::RootsError;
use crate::uid::{Uid, UidError, UidHasher};

/// The uid of a session, its rights, and its end.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) uid: Uid,
    pub(crate) rights: Rights,
    /// When the session ends, by the wall clock; `None` if it may last.
    pub(crate) expires: Option<SystemTime>,
}

/// Why a credential leads to no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentifyError {
    #[error("{}", .0.text())]
    Denied(Reason),
    /// Without authentication the credential is the uid; this one is not valid.
    #[error(transparent)]
    Uid(#[from] UidError),
}

impl From<Reason> for IdentifyError {
    fn from(reason: Reason) -> Self {
        Self::Denied(reason)
    }
}

/// The claims of a valid credential; the uid is not checked yet.
#[derive(Clone, Debug, PartialEq)]
struct Claims {
    uid: String,
    /// `None` if the credential doesn't state rights.
    rights: Option<Rights>,
    /// By the wall clock.
    expires: Option<SystemTime>,
}

/// The bounds of a uid, and the key of its hash.
#[derive(Clone, Copy)]
pub(crate) struct UidRules<'a> {
    pub(crate) bytes_max: usize,
    pub(crate) hasher: &'a UidHasher,
}

/// Why the authenticator can't be made with these settings; the operator has to correct them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthenticatorError {
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Roots(#[from] RootsError),
}

/// Identifies the owners of credentials; the gateway's tasks share it.
#[derive(Debug)]
pub(crate) struct Authenticator {
    method: Method,
}

#[derive(Debug)]
enum Method {
    None,
    Jwt(Keys),
    Http(Box<Service>),
}

impl Authenticator {
    /// Makes an authenticator for the method in the settings, with its keys.
    ///
    /// # Errors
    /// When keys, or the root certificates for the service, can't be read.
    pub(crate) fn new(settings: &AuthSettings) -> Result<Self, AuthenticatorError> {
        let method = match settings.auth {
            Auth::None => Method::None,
            Auth::Jwt => Method::Jwt(Keys::load(settings)?),
            Auth::Http => Method::Http(Box::new(Service::new(settings)?)),
        };
        Ok(Self { method })
    }

    /// Returns whether there is no authentication: the first message is the uid.
    pub(crate) fn is_disabled(&self) -> bool {
        matches!(self.method, Method::None)
    }

    /// Returns whether checking a credential also needs the facts of its request.
    pub(crate) fn needs_facts(&self) -> bool {
        matches!(self.method, Method::Http(_))
    }

    /// Returns whether tokens are checked with keys, which may change.
    pub(crate) fn has_keys(&self) -> bool {
        matches!(self.method, Method::Jwt(_))
    }

    /// Reads the keys again; returns them for [`Authenticator::replace_keys`], or `None` if they have not changed.
    ///
    /// Blocks while it reads files.
    pub(crate) fn reread_keys(&self, settings: &AuthSettings) -> Option<ChangedKeys> {
        if let Method::Jwt(keys) = &self.method { keys.reread(settings) } else { None }
    }

    /// Replaces the keys by those that were read again; if these are not valid, the old ones stay in use.
    pub(crate) fn replace_keys(&self, changed: ChangedKeys) {
        if let Method::Jwt(keys) = &self.method {
            keys.replace(changed);
        }
    }

    /// Identifies the owner of `credential`; without one, an authentication service finds the owner by the facts. Takes
    /// `auth_url_timeout` at most.
    ///
    /// # Errors
    /// See [`IdentifyError`].
    pub(crate) async fn identify(
        &self,
        credential: Option<&[u8]>,
        facts: &RequestFacts,
        settings: &AuthSettings,
        rules: UidRules<'_>,
    ) -> Result<Identity, IdentifyError> {
        let claims = match &self.method {
            Method::None => {
                let uid = Uid::new(credential.unwrap_or_default(), rules.bytes_max, rules.hasher)?;
                return Ok(Identity { uid, rights: settings.rights, expires: None });
            }
            Method::Jwt(keys) => {
                let token = credential.ok_or(Reason::CredentialMissing)?;
                token::verify(token, &keys.current(), settings)?
            }
            Method::Http(service) => match service.ask(credential, facts, settings).await {
                // No guess of a client: a browser sends the cookie of a login that has ended, too.
                Err(Reason::AuthRefused) if credential.is_none() => return Err(Reason::LoginHeaderRefused.into()),
                answer => answer?,
            },
        };
        let uid = Uid::new(claims.uid.as_bytes(), rules.bytes_max, rules.hasher);
        let uid = match (&self.method, uid) {
            (_, Ok(uid)) => uid,
            (Method::Http(service), Err(error)) => {
                return Err(service.refuse_uid(&error.to_string()).into());
            }
            (_, Err(_)) => return Err(Reason::TokenSubject.into()),
        };
        let expires = claims.expires.map(check_expiry).transpose()?;
        Ok(Identity { uid, rights: claims.rights.unwrap_or(settings.rights), expires })
    }
}

/// Refuses a credential that expired at `end`; returns `end` otherwise.
fn check_expiry(end: SystemTime) -> Result<SystemTime, Reason> {
    if end > clock::now() { Ok(end) } else { Err(Reason::CredentialExpired) }
}

/// Reads a JSON number as a time in seconds since 1970; `None` if the value is no such time.
fn seconds(value: &serde_json::Value) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
    // A time that the clock can't represent is as good as never: some 272 years from now.
    Some(clock::after_1970(since).unwrap_or_else(|| clock::now() + Duration::from_secs(1 << 33)))
}

/// Reads a JSON list of rights; `None` if the value is no list of words.
fn rights(value: &serde_json::Value) -> Option<Rights> {
    let words: Option<Vec<&str>> = value.as_array()?.iter().map(serde_json::Value::as_str).collect();
    words.map(Rights::granted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_times() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
        assert_eq!(seconds(&json!(0)), at(0.0));
        assert_eq!(seconds(&json!(1.5)), at(1.5));
        assert!(seconds(&json!(1e18)) > at(4e9), "a time beyond all clocks is late");
        for no_time in [json!(-1), json!("1"), json!(null), json!([1]), json!(1e300)] {
            assert_eq!(seconds(&no_time), None, "{no_time}");
        }
    }

    #[test]
    fn reads_rights() {
        assert_eq!(rights(&json!(["unicast", "other"])), Some(Rights::UNICAST));
        assert_eq!(rights(&json!([])), Some(Rights::RECEIVE));
        for no_list in [json!("unicast"), json!(null), json!([1]), json!({"unicast": true})] {
            assert_eq!(rights(&no_list), None, "{no_list}");
        }
    }

    #[test]
    fn an_end_is_ahead() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        assert_eq!(check_expiry(now - hour), Err(Reason::CredentialExpired));
        assert_eq!(check_expiry(now), Err(Reason::CredentialExpired));
        assert_eq!(check_expiry(now + hour), Ok(now + hour));
    }
}
