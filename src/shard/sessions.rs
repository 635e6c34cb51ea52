//! The table of a shard's sessions: who is where, and a key for each that never names another.
//!
//! Owned and touched by the shard's thread only. A place is used again at once, a key never: its serial number is new with
//! each session. Whoever holds a key across other work, on a list, on the timing wheel, in the poller, may find that its
//! session has ended, and never finds somebody else's.
//!
//! ```text
//!   groups   ┌ taken: 0b…1011 ─▶ [ session, session, –, session, … ]     64 places each
//!            ├ taken: 0       ─▶ nothing
//!            └ taken: 0b…0100 ─▶ [ –, –, session, … ]
//! ```
//! Sessions never move, so that the registry, lists, and pages of uids can go by place. New ones take the lowest free place, and
//! a group without sessions gives its memory back: after a peak, memory and every walk are those of who stays.

use std::fmt;

use super::session::Session;

/// Places in a group: as many as a word has bits.
const GROUP: usize = u64::BITS as usize;

/// Names one session of a shard, and no other ever: one that outlives its session names none.
///
/// Serial numbers start anew after 2³² log-ins on a shard; no key waits anywhere for as long as those take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    place: u32,
    serial: u32,
}

impl SessionKey {
    /// Returns the key of the session with this serial number, if it is at this place.
    pub fn new(place: u32, serial: u32) -> Self {
        Self { place, serial }
    }

    /// Returns the place in the table; a later session may have it.
    pub fn place(self) -> u32 {
        self.place
    }

    /// Returns the key as one number, as a poller keeps it; see [`SessionKey::from_bits`].
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.place)
    }

    /// Returns the key that was made one number.
    pub fn from_bits(bits: u64) -> Self {
        Self { place: bits as u32, serial: (bits >> 32) as u32 }
    }
}

/// Shows the serial number, which no other session of the shard has.
impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serial.fmt(f)
    }
}

/// A shard's sessions by key.
#[derive(Debug)]
pub(crate) struct Sessions<S> {
    groups: Vec<Group<S>>,
    /// Every group in front of this one is full.
    free_from: usize,
    /// The serial number of the next session.
    next_serial: u32,
    count: usize,
}

/// Places that follow each other; bit `n` of `taken` says that place `n` has a session.
#[derive(Debug)]
struct Group<S> {
    taken: u64,
    /// Absent while none is taken.
    places: Option<Box<[Place<S>; GROUP]>>,
}

/// Where a session is, or may be.
type Place<S> = Option<Box<Session<S>>>;

impl<S> Sessions<S> {
    pub(crate) fn new() -> Self {
        Self { groups: Vec::new(), free_from: 0, next_serial: 0, count: 0 }
    }

    /// Returns how many sessions there are, closing ones included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the number above every place in use.
    pub(crate) fn places_end(&self) -> u32 {
        let unused = self.groups.last().map_or(0, |group| group.taken.leading_zeros());
        (self.groups.len() * GROUP) as u32 - unused
    }

    /// Returns the session with this key, if it has not ended.
    ///
    /// For whoever has held the key across other work; [`Sessions::present`] is for whoever knows that it is there.
    #[inline]
    pub(crate) fn get(&mut self, key: SessionKey) -> Option<&mut Session<S>> {
        let group = self.groups.get_mut(key.place as usize / GROUP)?;
        let session = group.places.as_deref_mut()?[key.place as usize % GROUP].as_deref_mut()?;
        (session.serial == key.serial).then_some(session)
    }

    /// Returns the session with this key, which can't have ended: its caller has just had it.
    #[inline]
    #[track_caller]
    pub(crate) fn present(&mut self, key: SessionKey) -> Option<&mut Session<S>> {
        let session = self.get(key);
        debug_assert!(session.is_some(), "session {key} has ended, and its key is used");
        session
    }

    /// Returns the key of the first session at `place` or behind it.
    #[inline]
    pub(crate) fn next(&self, place: u32) -> Option<SessionKey> {
        let first = place as usize / GROUP;
        // Of the first group only what is not in front of `place`.
        let mut mask = u64::MAX << (place as usize % GROUP);
        for (index, group) in self.groups.iter().enumerate().skip(first) {
            let taken = group.taken & mask;
            if taken != 0 {
                let within = taken.trailing_zeros() as usize;
                let session = group.places.as_deref().and_then(|places| places[within].as_deref())?;
                return Some(SessionKey { place: (index * GROUP + within) as u32, serial: session.serial });
            }
            mask = u64::MAX;
        }
        None
    }

    /// Returns the first session at `place` or behind it, with its key.
    #[inline]
    pub(crate) fn next_session(&mut self, place: u32) -> Option<(SessionKey, &mut Session<S>)> {
        let key = self.next(place)?;
        self.get(key).map(|session| (key, session))
    }

    /// Puts a session at the lowest free place; returns its key.
    pub(crate) fn insert(&mut self, mut session: Box<Session<S>>) -> SessionKey {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        session.serial = serial;
        while self.groups.get(self.free_from).is_some_and(|group| group.taken == u64::MAX) {
            self.free_from += 1;
        }
        if self.free_from == self.groups.len() {
            self.groups.push(Group { taken: 0, places: None });
        }
        let group = &mut self.groups[self.free_from];
        let within = group.taken.trailing_ones() as usize;
        let places = group.places.get_or_insert_with(|| Box::new([const { None }; GROUP]));
        debug_assert!(places[within].is_none(), "a free place has a session");
        places[within] = Some(session);
        group.taken |= 1 << within;
        self.count += 1;
        SessionKey { place: (self.free_from * GROUP + within) as u32, serial }
    }

    /// Takes a session out, if it has not ended; its memory and that of an empty group is given back.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Box<Session<S>>> {
        self.get(key)?;
        let index = key.place as usize / GROUP;
        let group = &mut self.groups[index];
        let within = key.place as usize % GROUP;
        let session = group.places.as_deref_mut().and_then(|places| places[within].take());
        group.taken &= !(1 << within);
        self.count -= 1;
        self.free_from = self.free_from.min(index);
        if group.taken == 0 {
            group.places = None;
            while self.groups.last().is_some_and(|group| group.taken == 0) {
                self.groups.pop();
            }
            self.free_from = self.free_from.min(self.groups.len());
            if self.groups.capacity() > 64 && self.groups.capacity() > 4 * self.groups.len() {
                self.groups.shrink_to(2 * self.groups.len());
            }
        }
        session
    }

    /// Returns the memory of the table, in bytes, without that of the sessions.
    #[cfg(test)]
    pub(crate) fn table_bytes(&self) -> usize {
        let groups = self.groups.iter().filter(|group| group.places.is_some()).count();
        self.groups.capacity() * size_of::<Group<S>>() + groups * GROUP * size_of::<Place<S>>()
    }

    /// Asserts what must always hold of the table.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut count = 0;
        for (index, group) in self.groups.iter().enumerate() {
            assert_eq!(group.places.is_some(), group.taken != 0, "an empty group has no places");
            assert!(index >= self.free_from || group.taken == u64::MAX, "a free place in front of the first free one");
            for (within, place) in group.places.iter().flat_map(|places| places.iter()).enumerate() {
                assert_eq!(place.is_some(), group.taken >> within & 1 == 1, "what is taken has a session");
            }
            count += group.taken.count_ones() as usize;
        }
        assert_eq!(count, self.count, "sessions are counted");
        assert!(self.groups.last().is_none_or(|group| group.taken != 0), "the last group has a session");
    }
}
