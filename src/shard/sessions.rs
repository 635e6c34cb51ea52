//! The table of a shard's sessions: a slot for each, and a key that never names another session.
//!
//! Only the shard's thread touches it. A slot is reused at once, a key never is: its serial number is new with each
//! session. Lists, the timing wheel and the poller hold keys; a key of a session that has ended finds nothing, never
//! another session.
//!
//! ```text
//!   groups   ┌ taken: 0b…1011 ─▶ [ session, session, –, session, … ]     64 slots each
//!            ├ taken: 0       ─▶ nothing
//!            └ taken: 0b…0100 ─▶ [ –, –, session, … ]
//! ```
//! A session never changes its slot, so that pages of uids can be read in the order of slots. A new session takes the
//! lowest free slot, and a group without sessions frees its memory: after a peak, memory and the cost of a walk shrink
//! with the sessions.

use std::fmt;

use super::session::Session;

/// Slots in a group: as many as a word has bits.
const GROUP: usize = u64::BITS as usize;

/// After a peak of fewer sessions than this none are packed: the allocator keeps little memory for them.
const PEAK_MIN: usize = if cfg!(test) { 64 } else { 1024 };

/// Names one session of a shard, and never another: after its session has ended it names none.
///
/// Serial numbers wrap around after 2³² logins on a shard; no key is held for as long as those take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    slot: u32,
    serial: u32,
}

impl SessionKey {
    /// Makes the key of the session with this slot and serial number.
    pub fn new(slot: u32, serial: u32) -> Self {
        Self { slot, serial }
    }

    /// Returns the slot in the table, which a later session may have.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Returns the key as one number, for a poller; see [`SessionKey::from_bits`].
    pub fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.slot)
    }

    /// Returns the key that [`SessionKey::to_bits`] has made a number of.
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, serial: (bits >> 32) as u32 }
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
    /// Index of the first group that may have a free slot: every group before it is full.
    free_from: usize,
    /// The serial number of the next session.
    next_serial: u32,
    count: usize,
    /// Most sessions at a time since they were last packed.
    peak: usize,
    /// While sessions are packed: the first slot that was not packed yet.
    unpacked: Option<u32>,
}

/// 64 slots in a row; bit `n` of `taken` is set if slot `n` has a session.
#[derive(Debug)]
struct Group<S> {
    taken: u64,
    /// Absent while none of them is taken.
    slots: Option<Box<[Slot<S>; GROUP]>>,
}

/// A session, or room for one.
type Slot<S> = Option<Box<Session<S>>>;

impl<S> Sessions<S> {
    pub(crate) fn new() -> Self {
        Self { groups: Vec::new(), free_from: 0, next_serial: 0, count: 0, peak: 0, unpacked: None }
    }

    /// Returns the number of sessions, closing ones included.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the end of the slots in use: one more than the highest.
    pub(crate) fn slots_end(&self) -> u32 {
        let unused = self.groups.last().map_or(0, |group| group.taken.leading_zeros());
        (self.groups.len() * GROUP) as u32 - unused
    }

    /// Returns the session with this key, if it has not ended.
    ///
    /// For a key that was held across other work; see also [`Sessions::present`].
    #[inline]
    pub(crate) fn get(&mut self, key: SessionKey) -> Option<&mut Session<S>> {
        let group = self.groups.get_mut(key.slot as usize / GROUP)?;
        let session = group.slots.as_deref_mut()?[key.slot as usize % GROUP].as_deref_mut()?;
        (session.serial == key.serial).then_some(session)
    }

    /// Returns the session with this key, which its caller knows not to have ended; asserts that in debug builds.
    #[inline]
    #[track_caller]
    pub(crate) fn present(&mut self, key: SessionKey) -> Option<&mut Session<S>> {
        let session = self.get(key);
        debug_assert!(session.is_some(), "session {key} has ended, and its key is used");
        session
    }

    /// Returns the key of the first session at `slot` or a higher one.
    #[inline]
    pub(crate) fn next_key(&self, slot: u32) -> Option<SessionKey> {
        let (index, within) = self.next_taken(slot)?;
        let session = self.groups[index].slots.as_deref()?[within].as_deref()?;
        Some(SessionKey { slot: (index * GROUP + within) as u32, serial: session.serial })
    }

    /// Returns every session with its key, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session<S>)> {
        let mut slot = 0;
        std::iter::from_fn(move || {
            let (index, within) = self.next_taken(slot)?;
            let session = self.groups[index].slots.as_deref()?[within].as_deref()?;
            let key = SessionKey { slot: (index * GROUP + within) as u32, serial: session.serial };
            slot = key.slot + 1;
            Some((key, session))
        })
    }

    /// Returns the first session at `slot` or a higher one, with its key.
    #[inline]
    pub(crate) fn next_session(&mut self, slot: u32) -> Option<(SessionKey, &mut Session<S>)> {
        let (index, within) = self.next_taken(slot)?;
        let session = self.groups[index].slots.as_deref_mut()?[within].as_deref_mut()?;
        Some((SessionKey { slot: (index * GROUP + within) as u32, serial: session.serial }, session))
    }

    /// Returns the first taken slot, from `slot` on: the index of its group, and its index in that.
    #[inline]
    fn next_taken(&self, slot: u32) -> Option<(usize, usize)> {
        let index = slot as usize / GROUP;
        // The bits of this group without those below `slot`.
        let taken = self.groups.get(index)?.taken & u64::MAX << (slot as usize % GROUP);
        if taken != 0 {
            return Some((index, taken.trailing_zeros() as usize));
        }
        let behind = self.groups[index + 1..].iter().position(|group| group.taken != 0)?;
        let index = index + 1 + behind;
        Some((index, self.groups[index].taken.trailing_zeros() as usize))
    }

    /// Puts a session into the lowest free slot; returns its key.
    pub(crate) fn insert(&mut self, mut session: Box<Session<S>>) -> SessionKey {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        session.serial = serial;
        while self.groups.get(self.free_from).is_some_and(|group| group.taken == u64::MAX) {
            self.free_from += 1;
        }
        if self.free_from == self.groups.len() {
            self.groups.push(Group { taken: 0, slots: None });
        }
        let group = &mut self.groups[self.free_from];
        let within = group.taken.trailing_ones() as usize;
        let slots = group.slots.get_or_insert_with(|| Box::new([const { None }; GROUP]));
        debug_assert!(slots[within].is_none(), "a free slot has a session");
        slots[within] = Some(session);
        group.taken |= 1 << within;
        self.count += 1;
        self.peak = self.peak.max(self.count);
        SessionKey { slot: (self.free_from * GROUP + within) as u32, serial }
    }

    /// Takes a session out, if it has not ended; frees the memory of its group if that is empty now.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Box<Session<S>>> {
        self.get(key)?;
        let index = key.slot as usize / GROUP;
        let group = &mut self.groups[index];
        let within = key.slot as usize % GROUP;
        let session = group.slots.as_deref_mut().and_then(|slots| slots[within].take());
        group.taken &= !(1 << within);
        self.count -= 1;
        self.free_from = self.free_from.min(index);
        if group.taken == 0 {
            group.slots = None;
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

    /// Moves sessions close together in memory when few of a peak are left, at most `most` of them per call.
    ///
    /// The allocator returns memory in pages of some hundred sessions, and one session keeps a whole page. Slots and
    /// keys do not change.
    pub(crate) fn pack(&mut self, most: usize) {
        if self.peak > PEAK_MIN && self.count < self.peak / 8 {
            self.peak = self.count;
            self.unpacked = Some(0);
        }
        for _ in 0..most {
            let Some(next) = self.unpacked.and_then(|slot| self.next_taken(slot)) else {
                self.unpacked = None;
                return;
            };
            let (index, within) = next;
            if let Some(slots) = self.groups[index].slots.as_deref_mut() {
                slots[within] = slots[within].take().map(|session| Box::new(*session));
            }
            self.unpacked = Some((index * GROUP + within) as u32 + 1);
        }
    }

    /// Returns the memory of the table, in bytes, without that of the sessions.
    #[cfg(test)]
    pub(crate) fn table_bytes(&self) -> usize {
        let groups = self.groups.iter().filter(|group| group.slots.is_some()).count();
        self.groups.capacity() * size_of::<Group<S>>() + groups * GROUP * size_of::<Slot<S>>()
    }

    /// Asserts the invariants of the table.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut count = 0;
        for (index, group) in self.groups.iter().enumerate() {
            assert_eq!(group.slots.is_some(), group.taken != 0, "an empty group has no slots");
            assert!(index >= self.free_from || group.taken == u64::MAX, "a free slot in front of the first free one");
            for (within, slot) in group.slots.iter().flat_map(|slots| slots.iter()).enumerate() {
                assert_eq!(slot.is_some(), group.taken >> within & 1 == 1, "a slot is taken if it has a session");
            }
            count += group.taken.count_ones() as usize;
        }
        assert_eq!(count, self.count, "sessions are counted");
        assert!(self.groups.last().is_none_or(|group| group.taken != 0), "the last group has a session");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;

    use super::*;
    use crate::clock::WallTime;
    use crate::protocol::Protocol;
    use crate::rights::Rights;
    use crate::shard::expiry::Expiry;
    use crate::shard::lists::Listed;
    use crate::shard::memory::Counted;
    use crate::shard::session::{Flags, Phase};
    use crate::shard::wheel::Tick;
    use crate::shard::{Admission, LoginNumbers};
    use crate::uid::UidHash;

    fn session() -> Session<()> {
        Session {
            socket: (),
            reader: Default::default(),
            unread: None,
            meter: None,
            outbox: None,
            log_from: 0,
            hash: UidHash(0),
            login: LoginNumbers::default().draw(),
            peer: None,
            _permit: Admission::default().admit(1).expect("there is room"),
            since: WallTime::default(),
            heard: Tick(0),
            message_since: Tick(0),
            close_by: Tick(0),
            timer: Tick::NEVER,
            held: Counted::default(),
            serial: 0,
            expires: Expiry::NEVER,
            discarded: 0,
            phase: Phase::Open,
            protocol: Protocol::Plain,
            rights: Rights::ALL,
            flags: Flags::default(),
            listed: Listed::default(),
        }
    }

    /// Against a map from slots to serial numbers, with thousands that come and go.
    #[test]
    fn agrees_with_a_naive_table() {
        let mut random = Rng::with_seed(3);
        let (mut sessions, mut naive, mut ended) = (Sessions::new(), BTreeMap::new(), Vec::new());
        for step in 0..6_000_u32 {
            // It fills, and empties, in turns.
            let is_filling = step / 600 % 2 == 0;
            if random.u32(..4) == 0 || is_filling {
                let key = sessions.insert(Box::new(session()));
                let lowest = (0..).find(|slot| !naive.contains_key(slot)).expect("there is a free slot");
                assert_eq!((key.slot(), naive.insert(key.slot(), key)), (lowest, None));
            } else if let Some(&key) = naive.values().nth(random.usize(..naive.len().max(1))) {
                assert!(sessions.remove(key).is_some());
                naive.remove(&key.slot());
                ended.push(key);
            }
            let slot = random.u32(..800);
            let next = naive.range(slot..).next().map(|(_, key)| *key);
            assert_eq!(sessions.next_key(slot), next);
            assert_eq!(sessions.next_session(slot).map(|(key, _)| key), next);
            assert_eq!(sessions.len(), naive.len());
            assert_eq!(sessions.slots_end(), naive.last_key_value().map_or(0, |(slot, _)| slot + 1));
            sessions.pack(random.usize(..3));
            if step % 100 == 0 {
                sessions.check();
                assert!(naive.values().all(|key| sessions.get(*key).is_some()));
                assert!(ended.iter().all(|key| sessions.get(*key).is_none()), "a key names another session");
            }
        }
    }

    #[test]
    fn keys_come_back_from_the_poller() {
        for (slot, serial) in [(0, 0), (7, u32::MAX), (u32::MAX, 7)] {
            let key = SessionKey::new(slot, serial);
            assert_eq!(SessionKey::from_bits(key.to_bits()), key);
        }
    }
}
