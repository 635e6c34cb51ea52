//! The place where one connection is asked who it is: with its upgrade request, or by its first message.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderMap;

use super::credential::{self, Facts};
use super::{Authenticator, Identity, UidRules, Unidentified};
use crate::config::{AuthSource, GatewaySettings};
use crate::gateway::Reason;
use crate::rights::Rights;
use crate::shard::{LoginNumber, LoginNumbers};
use crate::uid::{self, Uid, UidHasher};

/// What a connection is let in by.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) hasher: UidHasher,
    pub(crate) logins: LoginNumbers,
}

/// Who logs in, and when that was read, relative to others.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) identity: Identity,
    pub(crate) number: LoginNumber,
}

/// What is known of a connection whose request may be upgraded.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// It has logged in.
    LoggedIn(Login),
    /// Its first message will tell; the rest is known already.
    Stranger(Facts),
}

impl Entrance {
    /// Tells whether whoever connects is believed, and a request needs no judging.
    pub(crate) fn is_open(&self) -> bool {
        self.authenticator.is_none()
    }

    /// Judges the credential of a request from `address`, if it has one.
    ///
    /// # Errors
    /// When the request must be refused; within `auth_url_timeout` in any case.
    pub(crate) async fn judge(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        address: Option<IpAddr>,
        settings: &GatewaySettings,
    ) -> Result<Admitted, Reason> {
        if self.is_open() {
            return Ok(Admitted::Stranger(Facts::default()));
        }
        let facts = match self.authenticator.wants_facts() {
            true => Facts::of(headers, uri, address, &settings.auth),
            false => Facts::default(),
        };
        match credential::find(headers, uri, &settings.auth)? {
            Some(credential) => match self.log_in(&credential, &facts, settings).await {
                Ok(login) => Ok(Admitted::LoggedIn(login)),
                Err(Unidentified::Denied(reason)) => Err(reason),
                // Only where everybody is believed.
                Err(Unidentified::Uid(_)) => Err(Reason::TokenSubject),
            },
            None if settings.auth.takes_from(AuthSource::FirstFrame) => Ok(Admitted::Stranger(facts)),
            None => Err(Reason::CredentialMissing),
        }
    }

    /// Lets somebody in who has no name, and may send to nobody: [`Protocol::Echo`](crate::protocol::Protocol::Echo).
    ///
    /// # Errors
    /// When a number makes no uid, and that is never.
    pub(crate) fn let_in(&self) -> Result<Login, Unidentified> {
        let number = self.logins.draw();
        let uid = Uid::new(number.to_string().as_bytes(), uid::BYTES_MAX, &self.hasher)?;
        Ok(Login { identity: Identity { uid, rights: Rights::RECEIVE, expires: None }, number })
    }

    /// Finds out whose credential this is, which has just been read.
    ///
    /// # Errors
    /// See [`Unidentified`].
    pub(crate) async fn log_in(
        &self,
        credential: &[u8],
        facts: &Facts,
        settings: &GatewaySettings,
    ) -> Result<Login, Unidentified> {
        // Before it is known whose it is: two logins stay in the order in which they were read.
        let number = self.logins.draw();
        let rules = UidRules { bytes_max: settings.uid_bytes_max, hasher: &self.hasher };
        let identity = self.authenticator.identify(credential, facts, &settings.auth, rules).await?;
        Ok(Login { identity, number })
    }
}

#[cfg(test)]
impl Entrance {
    /// One that believes everybody.
    pub(crate) fn open() -> Self {
        let settings = crate::config::Config::default().gateway();
        Self {
            authenticator: Arc::new(Authenticator::new(&settings.auth).expect("it needs no keys")),
            hasher: UidHasher::fixed(1),
            logins: LoginNumbers::default(),
        }
    }
}
