//! The messages of a batch from one shard to another, in one arena that is reused for ever.

use bytes::Bytes;

use crate::message::{Kind, Payload};
use crate::uid::UidHash;

/// Payloads from this size on are shared between threads and sessions; smaller ones are copied.
///
/// Sharing costs an allocation and two atomic operations, copying costs the bytes.
pub const SHARE_FROM: usize = 4096;

/// In place of a uid's length: the message is to everybody.
const EVERYBODY: u16 = u16::MAX;

/// An arena of messages, in the order they were sent.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    records: Vec<Record>,
    /// Uids and small payloads, back to back in the order of `records`.
    bytes: Vec<u8>,
    /// Bytes of memory for all records, uids and payloads, shared payloads included. The mailbox's bound applies to it.
    weight: usize,
    /// The read position: index of the next record, and of its first byte in `bytes`.
    next: (usize, usize),
}

/// A message as it comes out of a mailbox.
#[derive(Debug)]
pub enum Letter<'a> {
    /// To the sessions of one uid.
    Unicast {
        /// The uid's hash, computed where the uid was first read.
        hash: UidHash,
        /// The uid as the sender wrote it; it need not be a valid one.
        uid: &'a [u8],
        /// Text or binary.
        kind: Kind,
        /// The message.
        payload: Payload<'a>,
    },
    /// To every session of the shard.
    Broadcast {
        /// Text or binary.
        kind: Kind,
        /// The message.
        payload: Payload<'a>,
    },
}

#[derive(Debug)]
struct Record {
    hash: UidHash,
    body: Body,
    uid_length: u16,
    kind: Kind,
}

#[derive(Debug)]
enum Body {
    Inline(u32),
    Shared(Bytes),
}

impl Mail {
    pub(crate) fn is_empty(&self) -> bool {
        self.next.0 == self.records.len()
    }

    /// Returns how many messages were not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.records.len() - self.next.0
    }

    /// Returns the weight of all messages, taken or not, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Appends a message to one uid. The caller drops uids longer than [`crate::uid::BYTES_MAX`]: no user has one.
    ///
    /// Returns the weight that the message adds, in bytes.
    pub(crate) fn unicast(&mut self, hash: UidHash, uid: &[u8], kind: Kind, payload: &Payload<'_>) -> usize {
        debug_assert!(uid.len() <= crate::uid::BYTES_MAX);
        self.bytes.extend_from_slice(uid);
        self.push(hash, uid.len() as u16, kind, payload)
    }

    /// Appends a message to everybody; returns the weight that it adds, in bytes.
    pub(crate) fn broadcast(&mut self, kind: Kind, payload: &Payload<'_>) -> usize {
        self.push(UidHash(0), EVERYBODY, kind, payload)
    }

    /// Takes the next message, oldest first; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<Letter<'_>> {
        let (index, start) = self.next;
        let record = self.records.get(index)?;
        let body_start = start + record.uid_bytes();
        let (payload, end) = match &record.body {
            Body::Inline(length) => {
                let end = body_start + *length as usize;
                (Payload::Borrowed(&self.bytes[body_start..end]), end)
            }
            Body::Shared(bytes) => (Payload::Shared(bytes.clone()), body_start),
        };
        self.next = (index + 1, end);
        Some(match record.uid_length {
            EVERYBODY => Letter::Broadcast { kind: record.kind, payload },
            _ => Letter::Unicast { hash: record.hash, uid: &self.bytes[start..body_start], kind: record.kind, payload },
        })
    }

    /// Empties the arena for its next use; keeps at most about `retained_max` bytes of memory.
    pub(crate) fn clear(&mut self, retained_max: usize) {
        self.records.clear();
        self.records.shrink_to(retained_max / 2 / size_of::<Record>());
        self.bytes.clear();
        self.bytes.shrink_to(retained_max / 2);
        self.weight = 0;
        self.next = (0, 0);
    }

    /// Fails unless the weight is the sum over the records, and the read position is the start of a record or the end.
    ///
    /// Looks at every record.
    pub(crate) fn check(&self) {
        let at = |index: usize| self.records[..index].iter().map(Record::inline_bytes).sum::<usize>();
        debug_assert_eq!(self.weight, self.records.iter().map(Record::weight).sum::<usize>());
        debug_assert_eq!(self.bytes.len(), at(self.records.len()));
        debug_assert!(self.next.0 <= self.records.len());
        debug_assert_eq!(self.next.1, at(self.next.0));
    }

    /// Returns the weight without the last `count` messages, in bytes.
    pub(crate) fn weight_without_last(&self, count: usize) -> usize {
        let last = self.records.iter().rev().take(count).map(Record::weight);
        self.weight - last.sum::<usize>()
    }

    fn push(&mut self, hash: UidHash, uid_length: u16, kind: Kind, payload: &Payload<'_>) -> usize {
        let body = match payload {
            Payload::Shared(bytes) if bytes.len() >= SHARE_FROM => Body::Shared(bytes.clone()),
            other => {
                let bytes = other.as_slice();
                self.bytes.extend_from_slice(bytes);
                Body::Inline(u32::try_from(bytes.len()).expect("message_bytes_max is below 4 GiB"))
            }
        };
        let uid_bytes = if uid_length == EVERYBODY { 0 } else { usize::from(uid_length) };
        // The same sum as `Record::weight`, without another look at the body.
        let weight = size_of::<Record>() + uid_bytes + payload.as_slice().len();
        self.weight += weight;
        self.records.push(Record { hash, body, uid_length, kind });
        weight
    }
}

impl Record {
    /// Returns how many bytes of the arena hold this message's uid.
    fn uid_bytes(&self) -> usize {
        if self.uid_length == EVERYBODY { 0 } else { usize::from(self.uid_length) }
    }

    /// Returns how many bytes of the arena hold this message's uid and payload.
    fn inline_bytes(&self) -> usize {
        self.uid_bytes() + if let Body::Inline(length) = self.body { length as usize } else { 0 }
    }

    /// Returns the memory of this message, in bytes: its record, uid and payload.
    fn weight(&self) -> usize {
        let payload = match &self.body {
            Body::Inline(length) => *length as usize,
            Body::Shared(bytes) => bytes.len(),
        };
        size_of::<Self>() + self.uid_bytes() + payload
    }
}

#[cfg(all(test, not(pombo_loom)))]
mod tests {
    use super::*;

    fn read(mail: &mut Mail) -> Vec<(Option<String>, Kind, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(letter) = mail.take() {
            all.push(match letter {
                Letter::Unicast { uid, kind, payload, .. } => {
                    (Some(String::from_utf8_lossy(uid).into_owned()), kind, payload.as_slice().to_vec())
                }
                Letter::Broadcast { kind, payload } => (None, kind, payload.as_slice().to_vec()),
            });
        }
        all
    }

    #[test]
    fn comes_out_as_it_went_in() {
        let large = Bytes::from(vec![7; SHARE_FROM]);
        let mut mail = Mail::default();
        for _ in 0..2 {
            mail.unicast(UidHash(1), b"bob", Kind::Text, &Payload::Borrowed(b"hi"));
            mail.broadcast(Kind::Binary, &Payload::Shared(large.clone()));
            mail.unicast(UidHash(2), b"", Kind::Text, &Payload::Borrowed(b""));
            mail.broadcast(Kind::Text, &Payload::Borrowed(b"all"));
            assert!(mail.weight() > SHARE_FROM);
            assert_eq!(
                read(&mut mail),
                [
                    (Some("bob".into()), Kind::Text, b"hi".to_vec()),
                    (None, Kind::Binary, large.to_vec()),
                    (Some(String::new()), Kind::Text, Vec::new()),
                    (None, Kind::Text, b"all".to_vec()),
                ]
            );
            assert!(mail.is_empty());
            mail.clear(0);
            assert_eq!((mail.weight(), mail.bytes.capacity(), mail.records.capacity()), (0, 0, 0));
        }
    }
}
