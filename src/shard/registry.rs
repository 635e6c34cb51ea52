//! A shard's private map from uid to the sessions logged in under it.
//!
//! Owned and touched by the shard's thread only. It never hashes: every look-up brings the hash that
//! was drawn where the uid was read. It removes by session, never by uid alone, so that the end of
//! an older session can't make a newer one unreachable.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::io::SessionKey;
use crate::uid::{Uid, UidHash};

/// Map from uid to sessions; a uid without sessions is not in it.
#[derive(Debug, Default)]
pub struct Registry {
    table: HashTable<User>,
    /// Sessions of all uids.
    sessions: usize,
}

/// A uid that is logged in.
#[derive(Debug)]
struct User {
    hash: UidHash,
    uid: Box<str>,
    sessions: Sessions,
}

/// Sessions of one uid, oldest first; almost always one.
#[derive(Debug)]
enum Sessions {
    One(SessionKey),
    #[expect(clippy::box_collection, reason = "the common case pays for the size of the rare one")]
    Many(Box<Vec<SessionKey>>),
}

/// What became of a uid whose session was removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removed<'a> {
    /// No uid held the session, as after it was replaced.
    Nothing,
    /// The uid has the same oldest session as before.
    Younger,
    /// This uid has another oldest session.
    Oldest(&'a str),
    /// This uid has none any more.
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

    /// Returns the uid with this hash whose oldest session is `session`.
    pub(crate) fn oldest_of(&self, hash: UidHash, session: SessionKey) -> Option<&str> {
        let is_oldest = |user: &User| user.hash == hash && user.sessions.as_slice().first() == Some(&session);
        self.table.find(hash.0, is_oldest).map(|user| &*user.uid)
    }

    /// Adds `session` as the newest of `uid`; says whether it is its first.
    pub fn insert(&mut self, uid: &Uid, session: SessionKey) -> bool {
        self.sessions += 1;
        let hash = uid.hash();
        let same = |user: &User| user.hash == hash && *user.uid == *uid.as_str();
        match self.table.entry(hash.0, same, |user| user.hash.0) {
            Entry::Occupied(mut user) => {
                user.get_mut().sessions.push(session);
                false
            }
            Entry::Vacant(place) => {
                place.insert(User { hash, uid: uid.as_str().into(), sessions: Sessions::One(session) });
                true
            }
        }
    }

    /// Removes `session` from the uid with this hash that holds it.
    pub(crate) fn remove(&mut self, hash: UidHash, session: SessionKey) -> Removed<'_> {
        let holds = |user: &User| user.hash == hash && user.sessions.as_slice().contains(&session);
        let Ok(mut user) = self.table.find_entry(hash.0, holds) else { return Removed::Nothing };
        self.sessions -= 1;
        let is_oldest = user.get().sessions.as_slice().first() == Some(&session);
        if user.get_mut().sessions.remove(session) {
            return Removed::Last(user.remove().0.uid);
        }
        if is_oldest { Removed::Oldest(&user.into_mut().uid) } else { Removed::Younger }
    }

    #[inline]
    fn find_by(&self, hash: UidHash, same: impl FnMut(&User) -> bool) -> &[SessionKey] {
        self.table.find(hash.0, same).map_or(&[], |user| user.sessions.as_slice())
    }
}

impl Sessions {
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
            let (mut registry, mut naive) = (Registry::default(), BTreeMap::<u8, Vec<u32>>::new());
            for (name, session, insert) in steps {
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
                prop_assert_eq!(registry.len(), naive.len());
                prop_assert_eq!(registry.sessions(), naive.values().map(Vec::len).sum::<usize>());
                for name in 0..12 {
                    let text = name.to_string();
                    let found = registry.find(hasher.hash(text.as_bytes()), text.as_bytes());
                    prop_assert_eq!(found, naive.get(&name).map_or(&[][..], |held| &held[..]));
                }
            }
        }
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
                registry.insert(&uid(&hasher, &text), index);
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
