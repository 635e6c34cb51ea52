//! One-entry cache of the last recipient that was looked up: clients write to the same user again and again.
//!
//! Owned by the registry, which forgets it whenever it changes: what is remembered is what a look-up would find. It saves the
//! hash and the look-up, at 64 connections with 16 messages under way 8 % of all CPU.

use super::sessions::SessionKey;

/// Longest uid that is remembered, in bytes.
const UID_BYTES_MAX: usize = 32;

/// A uid with exactly one session, and that session.
#[derive(Debug, Default)]
pub(super) struct LastRecipient {
    uid: [u8; UID_BYTES_MAX],
    /// Of the uid; 0 when nothing is remembered.
    length: usize,
    session: SessionKey,
}

impl LastRecipient {
    /// Remembers nothing from here on.
    pub(super) fn forget(&mut self) {
        self.length = 0;
    }

    /// Returns the only session of `uid`, if that was looked up last.
    #[inline]
    pub(super) fn find(&self, uid: &[u8]) -> Option<SessionKey> {
        (self.length == uid.len() && self.length > 0 && self.uid[..self.length] == *uid).then_some(self.session)
    }

    /// Remembers the only session of `uid`, unless that is long.
    #[inline]
    pub(super) fn set(&mut self, uid: &[u8], session: SessionKey) {
        if let Some(place) = self.uid.get_mut(..uid.len()) {
            place.copy_from_slice(uid);
            (self.length, self.session) = (uid.len(), session);
        }
    }
}
