//! A shard's private map from uid to the sessions logged in under it.
//!
//! Only the shard's thread touches it. It never hashes: each look-up is given the hash, which is computed where the uid
//! is read. It removes by session, never by uid alone, so that the end of an older session can't make a newer one
//! unreachable.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::recipient::LastRecipient;
use super::sessions::SessionKey;
use crate::uid::{Uid, UidHash};

/// Map from uid to sessions; a uid without sessions is not in it.
#[derive(Debug, Default)]
pub struct Registry {
    table: HashTable<User>,
    /// Sessions of all uids.
    sessions: usize,
    /// Cleared with every change of the table.
    last_recipient: LastRecipient,
}

/// A uid that is logged in.
#[derive(Debug)]
struct User {
    hash: UidHash,
    uid: Box<str>,
    sessions: SessionKeys,
}

/// Sessions of one uid, oldest first; almost always one.
#[derive(Debug)]
enum SessionKeys {
    One(SessionKey),
    #[expect(clippy::box_collection, reason = "the common case pays for the size of the rare one")]
    Many(Box<Vec<SessionKey>>),
}

/// The effect on a uid of removing one of its sessions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed<'a> {
    /// The session was not registered: its login was refused, or failed.
    Nothing,
    /// The uid has the same oldest session as before.
    Younger,
    /// This uid has another oldest session now.
    Oldest(&'a str),
    /// This uid has no session any more.
    Last(Box<str>),
}

impl Registry {
    /// Returns how many uids are logged in.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns how many sessions all uids have.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    /// Returns the sessions of `uid`, oldest first; empty when it is offline.
    #[inline]
    pub fn find(&self, hash: UidHash, uid: &[u8]) -> &[SessionKey] {
        self.find_by(hash, |user| user.hash == hash && user.uid.as_bytes() == uid)
    }

    /// Returns the only session of `uid`, if it is the one that [`Registry::find_only`] has cached last.
    #[inline]
    pub(crate) fn last_recipient(&self, uid: &[u8]) -> Option<SessionKey> {
        self.last_recipient.find(uid)
    }

    /// Returns the session of `uid` if it has exactly one, and caches it for [`Registry::last_recipient`].
    #[inline]
    pub(crate) fn find_only(&mut self, hash: UidHash, uid: &[u8]) -> Option<SessionKey> {
        let [session] = *self.find(hash, uid) else { return None };
        self.last_recipient.set(uid, session);
        Some(session)
    }

    /// Returns the uid with this hash whose oldest session is `session`.
    pub(crate) fn oldest_of(&self, hash: UidHash, session: SessionKey) -> Option<&str> {
        let is_oldest = |user: &User| user.hash == hash && user.sessions.as_slice().first() == Some(&session);
        self.table.find(hash.0, is_oldest).map(|user| &*user.uid)
    }

    /// Adds `session` as the newest of `uid`; returns whether it is the only one.
    pub fn insert(&mut self, uid: &Uid, session: SessionKey) -> bool {
        self.sessions += 1;
        self.last_recipient.clear();
        let hash = uid.hash();
        let same = |user: &User| user.hash == hash && *user.uid == *uid.as_str();
        match self.table.entry(hash.0, same, |user| user.hash.0) {
            Entry::Occupied(mut user) => {
                user.get_mut().sessions.push(session);
                false
            }
            Entry::Vacant(entry) => {
                entry.insert(User { hash, uid: uid.as_str().into(), sessions: SessionKeys::One(session) });
                true
            }
        }
    }

    /// Removes `session` from the uid with this hash that has it.
    pub(crate) fn remove(&mut self, hash: UidHash, session: SessionKey) -> Removed<'_> {
        let holds = |user: &User| user.hash == hash && user.sessions.as_slice().contains(&session);
        // Before the look-up, which borrows the table.
        self.shrink();
        let Ok(mut user) = self.table.find_entry(hash.0, holds) else { return Removed::Nothing };
        self.sessions -= 1;
        self.last_recipient.clear();
        let is_oldest = user.get().sessions.as_slice().first() == Some(&session);
        if user.get_mut().sessions.remove(session) {
            return Removed::Last(user.remove().0.uid);
        }
        if is_oldest { Removed::Oldest(&user.into_mut().uid) } else { Removed::Younger }
    }

    /// Frees the memory that the table needed at a peak that is over. It moves all uids each time that their number has
    /// fallen to an eighth.
    fn shrink(&mut self) {
        if self.table.capacity() > 64 && self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(2 * self.table.len(), |user| user.hash.0);
            // The uids are copied close together, too: each that stayed would keep a page of the allocator's.
            self.table.iter_mut().for_each(|user| user.uid = user.uid.clone());
        }
    }

    /// Returns the memory of the table, in bytes, without that of long uids' names.
    #[cfg(test)]
    pub(crate) fn table_bytes(&self) -> usize {
        self.table.allocation_size()
    }

    /// Whether `session` is registered for a uid with this hash.
    #[cfg(test)]
    pub(crate) fn holds(&self, hash: UidHash, session: SessionKey) -> bool {
        self.table.find(hash.0, |user| user.hash == hash && user.sessions.as_slice().contains(&session)).is_some()
    }

    /// Asserts the invariants of the registry.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.table.iter().map(|user| user.sessions.as_slice().len()).sum::<usize>(), self.sessions);
        for user in &self.table {
            let sessions = user.sessions.as_slice();
            assert!(!sessions.is_empty(), "{} has no session", user.uid);
            assert!(
                (1..sessions.len()).all(|at| !sessions[..at].contains(&sessions[at])),
                "{} has one twice",
                user.uid
            );
            if let Some(last) = self.last_recipient(user.uid.as_bytes()) {
                assert_eq!(sessions, [last], "{} is cached with another session", user.uid);
            }
        }
    }

    #[inline]
    fn find_by(&self, hash: UidHash, same: impl FnMut(&User) -> bool) -> &[SessionKey] {
        self.table.find(hash.0, same).map_or(&[], |user| user.sessions.as_slice())
    }
}

impl SessionKeys {
    fn as_slice(&self) -> &[SessionKey] {
        match self {
            Self::One(session) => std::slice::from_ref(session),
            Self::Many(sessions) => sessions,
        }
    }

    fn push(&mut self, session: SessionKey) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, session])),
            Self::Many(sessions) => sessions.push(session),
        }
    }

    /// Removes `session`, which is held; says whether none is left.
    fn remove(&mut self, session: SessionKey) -> bool {
        match self {
            Self::One(_) => true,
            Self::Many(sessions) => {
                sessions.retain(|&held| held != session);
                match sessions[..] {
                    [] => true,
                    [last] => {
                        *self = Self::One(last);
                        false
                    }
                    _ => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::router::shard_of;
    use crate::uid::UidHasher;

    fn uid(hasher: &UidHasher, text: &str) -> Uid {
        Uid::new(text.as_bytes(), 256, hasher).expect("the text is a uid")
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_map(steps in proptest::collection::vec((0_u8..12, 0_u32..20, any::<bool>()), 0..200)) {
            let hasher = UidHasher::fixed(5);
            let (mut registry, mut naive) = (Registry::default(), BTreeMap::<u8, Vec<SessionKey>>::new());
            for (name, place, insert) in steps {
                let session = SessionKey::new(place, place);
                let uid = uid(&hasher, &name.to_string());
                let held = naive.entry(name).or_default();
                if insert && !held.contains(&session) {
                    prop_assert_eq!(registry.insert(&uid, session), held.is_empty());
                    held.push(session);
                } else if !insert {
                    let place = held.iter().position(|&key| key == session);
                    let expected = match place {
                        None => Removed::Nothing,
                        Some(_) if held.len() == 1 => Removed::Last(uid.as_str().into()),
                        Some(0) => Removed::Oldest(uid.as_str()),
                        Some(_) => Removed::Younger,
                    };
                    prop_assert_eq!(registry.remove(uid.hash(), session), expected);
                    held.retain(|&other| other != session);
                }
                naive.retain(|_, held| !held.is_empty());
                registry.check();
                prop_assert_eq!(registry.len(), naive.len());
                prop_assert_eq!(registry.sessions(), naive.values().map(Vec::len).sum::<usize>());
                for name in 0..12 {
                    let text = name.to_string();
                    let (hash, expected) = (hasher.hash(text.as_bytes()), naive.get(&name).map_or(&[][..], |held| &held[..]));
                    prop_assert_eq!(registry.find(hash, text.as_bytes()), expected);
                    let only = if let [only] = *expected { Some(only) } else { None };
                    prop_assert!(registry.last_recipient(text.as_bytes()).is_none_or(|last| only == Some(last)));
                    prop_assert_eq!(registry.find_only(hash, text.as_bytes()), only);
                    prop_assert_eq!(registry.last_recipient(text.as_bytes()), only);
                }
            }
        }
    }

    #[test]
    fn a_peak_gives_its_memory_back() {
        let hasher = UidHasher::fixed(5);
        let mut registry = Registry::default();
        let uids: Vec<_> = (0..18_000).map(|index: u32| (uid(&hasher, &index.to_string()), index)).collect();
        let peak = |registry: &mut Registry| {
            uids.iter().for_each(|(uid, index)| {
                registry.insert(uid, SessionKey::new(*index, *index));
            });
            registry.table_bytes()
        };
        let full = peak(&mut registry);
        uids[100..].iter().for_each(|(uid, index)| {
            registry.remove(uid.hash(), SessionKey::new(*index, *index));
        });
        assert!(registry.table_bytes() < full / 16, "{} of {full} bytes", registry.table_bytes());
        assert_eq!(registry.find(uids[7].0.hash(), b"7"), [SessionKey::new(7, 7)]);
        registry.check();
    }

    /// The router's and the table's bits of the hash must not overlap: when they did, one shard of 64
    /// compared 60 keys per look-up.
    #[test]
    fn a_lookup_at_64_shards_compares_about_one_key() {
        let hasher = UidHasher::fixed(9);
        let mut registry = Registry::default();
        let mut held = Vec::new();
        for index in 0_u32..640_000 {
            let text = format!("user-{index}");
            if shard_of(hasher.hash(text.as_bytes()), 64) == 11 {
                registry.insert(&uid(&hasher, &text), SessionKey::new(index, index));
                held.push(text);
            }
        }
        let mut compares = 0;
        for text in &held {
            let hash = hasher.hash(text.as_bytes());
            let found = registry.find_by(hash, |user| {
                compares += 1;
                user.uid.as_bytes() == text.as_bytes()
            });
            assert_eq!(found.len(), 1);
        }
        let per_lookup = f64::from(compares) / held.len() as f64;
        assert!(per_lookup < 1.2, "{per_lookup} compares per look-up over {} uids", held.len());
    }
}
