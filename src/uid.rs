//! The user identifier, and the keyed hash that decides which shard owns it.
//!
//! A uid is hashed once, where it is first read; the hash travels with it through the router, the
//! mailbox and the registry, so no other place hashes it again. The key is drawn at start, so a
//! client cannot choose uids that all fall onto one shard or into one table bucket.

use ahash::RandomState;

/// The recipient that means everybody; no user can have this uid.
pub const BROADCAST: &str = "all";

/// Upper end of the range that `uid_bytes_max` may be set to, in bytes.
pub const BYTES_MAX: usize = 1024;

/// A checked user identifier with its hash.
///
/// Valid UTF-8, 1 to `uid_bytes_max` bytes, without a colon, and not [`BROADCAST`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uid {
    text: Box<str>,
    hash: UidHash,
}

/// Hash of a uid under the node's key.
///
/// All 64 bits are meaningful; [`crate::router`] and [`crate::shard`] use disjoint parts of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidHash(pub u64);

/// The node's hash key; cheap to copy, so every thread keeps its own.
#[derive(Clone, Debug)]
pub struct UidHasher(RandomState);

/// Why a text can't be a uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UidError {
    /// The text is empty.
    #[error("uid is empty, expected 1 to {max} bytes")]
    Empty {
        /// The longest uid allowed, in bytes.
        max: usize,
    },
    /// The text is longer than `uid_bytes_max`.
    #[error("uid has {length} bytes, expected 1 to {max}")]
    TooLong {
        /// The text's length in bytes.
        length: usize,
        /// The longest uid allowed, in bytes.
        max: usize,
    },
    /// The text contains a colon, so `uid:message` could never address it.
    #[error("uid contains a colon, expected a name without one")]
    Colon,
    /// The text is [`BROADCAST`].
    #[error("uid \"all\" addresses everybody, expected another name")]
    Broadcast,
    /// The bytes are not UTF-8 (possible in a binary frame only).
    #[error("uid is not valid UTF-8, expected text")]
    NotUtf8,
}

impl Uid {
    /// Checks `bytes` and hashes them.
    ///
    /// # Errors
    /// See [`UidError`]; the first rule broken is reported, length before content.
    pub fn new(bytes: &[u8], bytes_max: usize, hasher: &UidHasher) -> Result<Self, UidError> {
        let text = Self::check(bytes, bytes_max)?;
        Ok(Self { text: text.into(), hash: hasher.hash(bytes) })
    }

    /// Checks `bytes`; returns them as text.
    ///
    /// # Errors
    /// As for [`Uid::new`].
    pub fn check(bytes: &[u8], bytes_max: usize) -> Result<&str, UidError> {
        if bytes.is_empty() {
            return Err(UidError::Empty { max: bytes_max });
        }
        if bytes.len() > bytes_max {
            return Err(UidError::TooLong { length: bytes.len(), max: bytes_max });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| UidError::NotUtf8)?;
        if memchr::memchr(b':', bytes).is_some() {
            return Err(UidError::Colon);
        }
        if text == BROADCAST {
            return Err(UidError::Broadcast);
        }
        Ok(text)
    }

    /// Returns the uid's text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the hash drawn when the uid was checked.
    pub fn hash(&self) -> UidHash {
        self.hash
    }
}

impl UidHasher {
    /// Draws a key from the operating system's randomness.
    pub fn random() -> Self {
        Self(RandomState::new())
    }

    /// Uses a fixed key, so that a test or a benchmark can choose uids by shard.
    pub fn fixed(seed: u64) -> Self {
        Self(RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x9E37_79B9_7F4A_7C15))
    }

    /// Hashes the bytes of a uid, which may be an unchecked one.
    pub fn hash(&self, uid: &[u8]) -> UidHash {
        UidHash(self.0.hash_one(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<&str, UidError>) {
        let uid = Uid::new(bytes, 8, &UidHasher::fixed(1));
        assert_eq!(uid.as_ref().map(Uid::as_str).map_err(|e| *e), expected);
    }

    #[test]
    fn accepts_what_can_be_addressed() {
        check(b"a", Ok("a"));
        check(b"ALL", Ok("ALL"));
        check(b" all", Ok(" all"));
        check("joão".as_bytes(), Ok("joão"));
        check(b"12345678", Ok("12345678"));
        check(b"a\0\n", Ok("a\0\n"));
    }

    #[test]
    fn refuses_what_cannot() {
        check(b"", Err(UidError::Empty { max: 8 }));
        check(b"123456789", Err(UidError::TooLong { length: 9, max: 8 }));
        check(b"all", Err(UidError::Broadcast));
        check(b"a:b", Err(UidError::Colon));
        check(b":", Err(UidError::Colon));
        check(b"\xff\xfe", Err(UidError::NotUtf8));
    }

    #[test]
    fn hash_depends_on_the_key_and_on_the_bytes() {
        let (one, two) = (UidHasher::fixed(1), UidHasher::fixed(2));
        assert_eq!(one.hash(b"alice"), one.hash(b"alice"));
        assert_ne!(one.hash(b"alice"), one.hash(b"bob"));
        assert_ne!(one.hash(b"alice"), two.hash(b"alice"));
        assert_ne!(UidHasher::random().hash(b"alice"), UidHasher::random().hash(b"alice"));
    }
}
