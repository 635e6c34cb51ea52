//! The rights of a client: to send to one uid, and to send to everybody.

/// The set of a logged-in client's rights, in one byte.
///
/// Every client may receive. The words are those of the setting `rights` and of a token's claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// To receive, and nothing else.
    pub const RECEIVE: Self = Self(0);
    /// To send to one uid.
    pub const UNICAST: Self = Self(1);
    /// To send to everybody.
    pub const BROADCAST: Self = Self(2);
    /// Every right.
    pub const ALL: Self = Self(3);

    /// Each right with its word, in the order in which they are shown.
    pub const WORDS: &'static [(&'static str, Self)] = &[("unicast", Self::UNICAST), ("broadcast", Self::BROADCAST)];

    /// Returns whether the set holds all of `needed`.
    #[inline]
    pub fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Adds the rights of another set.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the rights that `words` name; other words grant nothing, so that a token may hold words of later versions.
    pub fn granted<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let named = |word| Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, right)| *right);
        words.into_iter().filter_map(named).fold(Self::RECEIVE, Self::and)
    }

    /// Returns the words of the rights in the set.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.iter().filter(move |(_, right)| self.allow(*right)).map(|(word, _)| *word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], unicast: bool, broadcast: bool) {
        let rights = Rights::granted(words.iter().copied());
        assert_eq!(rights.allow(Rights::UNICAST), unicast, "{words:?}");
        assert_eq!(rights.allow(Rights::BROADCAST), broadcast, "{words:?}");
        assert_eq!(rights.allow(Rights::ALL), unicast && broadcast, "{words:?}");
        assert!(rights.allow(Rights::RECEIVE), "everybody may receive");
        assert_eq!(Rights::granted(rights.words()), rights);
    }

    #[test]
    fn words_grant_what_they_name() {
        check(&[], false, false);
        check(&["unicast"], true, false);
        check(&["broadcast"], false, true);
        check(&["broadcast", "unicast", "unicast"], true, true);
        check(&["receive", "Unicast", "", "admin"], false, false);
    }
}
