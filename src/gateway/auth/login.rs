//! Logs one connection in: by the credential in its upgrade request, or by its first message.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderMap;

use super::credential::{self, RequestFacts};
use super::{Authenticator, IdentifyError, Identity, UidRules};
use crate::config::{AuthSource, GatewaySettings};
use crate::gateway::Reason;
use crate::rights::Rights;
use crate::shard::{LoginNumber, LoginNumbers};
use crate::uid::{self, Uid, UidHasher};

/// Logs connections in; clones share the authenticator and the count of logins.
#[derive(Clone, Debug)]
pub(crate) struct LoginService {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) hasher: UidHasher,
    pub(crate) login_numbers: LoginNumbers,
}

/// A login: its identity, and a number that orders it among all logins by the time at which the credential was read.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) identity: Identity,
    pub(crate) number: LoginNumber,
}

/// How far the authentication of a connection is when its upgrade is answered.
#[derive(Debug)]
pub(crate) enum Authentication {
    /// The request held a valid credential, or a header that logs in without one.
    LoggedIn(Login),
    /// The credential comes with the first message. The facts of the request are kept for checking it.
    AwaitsFirstMessage(RequestFacts),
}

impl LoginService {
    /// Returns whether the node runs without authentication: a client's uid is then taken from its first message, unchecked.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        self.authenticator.is_disabled()
    }

    /// Checks the credential of a request from `address`, or its headers `auth_url_login_headers`, if it has any of these.
    ///
    /// # Errors
    /// When the request must be refused; within `auth_url_timeout` in any case.
    pub(crate) async fn authenticate_request(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        address: Option<IpAddr>,
        settings: &GatewaySettings,
    ) -> Result<Authentication, Reason> {
        if self.is_unauthenticated() {
            return Ok(Authentication::AwaitsFirstMessage(RequestFacts::default()));
        }
        let facts = match self.authenticator.needs_facts() {
            true => RequestFacts::of(headers, uri, address, &settings.auth),
            false => RequestFacts::default(),
        };
        let credential = credential::find(headers, uri, &settings.auth)?;
        if credential.is_none() && !facts.can_log_in(&settings.auth) {
            return match settings.auth.takes_from(AuthSource::FirstFrame) {
                true => Ok(Authentication::AwaitsFirstMessage(facts)),
                false => Err(Reason::CredentialMissing),
            };
        }
        match self.log_in(credential.as_deref(), &facts, settings).await {
            Ok(login) => Ok(Authentication::LoggedIn(login)),
            Err(IdentifyError::Denied(reason)) => Err(reason),
            // Only without authentication, where this function has returned above.
            Err(IdentifyError::Uid(_)) => Err(Reason::TokenSubject),
        }
    }

    /// Logs in a client that has no uid of its own and may send to nobody: [`Protocol::Echo`](crate::protocol::Protocol::Echo).
    ///
    /// # Errors
    /// Never: every login number is a valid uid.
    pub(crate) fn log_in_anonymously(&self) -> Result<Login, IdentifyError> {
        let number = self.login_numbers.draw();
        let uid = Uid::new(number.to_string().as_bytes(), uid::BYTES_MAX, &self.hasher)?;
        Ok(Login { identity: Identity { uid, rights: Rights::RECEIVE, expires: None }, number })
    }

    /// Identifies the owner of a credential that has just been read, or of a request that logs in without one.
    ///
    /// # Errors
    /// See [`IdentifyError`].
    pub(crate) async fn log_in(
        &self,
        credential: Option<&[u8]>,
        facts: &RequestFacts,
        settings: &GatewaySettings,
    ) -> Result<Login, IdentifyError> {
        // Drawn before the credential is checked: checks take unequal times, and two logins must stay in the order of their reading.
        let number = self.login_numbers.draw();
        let rules = UidRules { bytes_max: settings.uid_bytes_max, hasher: &self.hasher };
        let identity = self.authenticator.identify(credential, facts, &settings.auth, rules).await?;
        Ok(Login { identity, number })
    }
}

#[cfg(test)]
impl LoginService {
    /// A service without authentication.
    pub(crate) fn unauthenticated() -> Self {
        let settings = crate::config::Config::default().gateway();
        Self {
            authenticator: Arc::new(Authenticator::new(&settings.auth).expect("it needs no keys")),
            hasher: UidHasher::fixed(1),
            login_numbers: LoginNumbers::default(),
        }
    }
}
