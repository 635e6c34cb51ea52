//! Close codes by name: those of RFC 6455, section 7.4.1, that pombo sends, and pombo's own.
//!
//! The range 4000 to 4999 is for private use (RFC 6455, section 7.4.2). A code says to the client what
//! to do next; the reason beside it says to a person why. Flat data, no state.

/// Both sides are done.
pub const NORMAL: u16 = 1000;
/// The server is draining; connect again, here or elsewhere.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke RFC 6455.
pub const PROTOCOL_ERROR: u16 = 1002;
/// The peer sent a kind of data that this server does not accept.
pub const UNSUPPORTED: u16 = 1003;
/// The peer sent text that is not UTF-8.
pub const NOT_UTF8: u16 = 1007;
/// The peer broke a rule of this server: a refused login, a time-out.
pub const POLICY: u16 = 1008;
/// The peer announced a message longer than `message_bytes_max`.
pub const TOO_BIG: u16 = 1009;
/// The server failed in this session.
pub const INTERNAL_ERROR: u16 = 1011;
/// The server restarts; connect again after a random delay.
pub const SERVICE_RESTART: u16 = 1012;
/// The server can't authenticate now; connect again after a random delay.
pub const TRY_AGAIN_LATER: u16 = 1013;
/// A newer login took the uid; connecting again at once would take it back.
pub const REPLACED: u16 = 4001;
/// The uid is logged in already and `duplicate_login` says `reject`.
pub const UID_TAKEN: u16 = 4002;
/// The uid has `uid_sessions_max` sessions already.
pub const UID_FULL: u16 = 4003;
/// Nothing was heard from the peer for two heartbeat intervals.
pub const HEARTBEAT: u16 = 4005;
/// The peer reads too slowly and its outbox is full.
pub const SLOW_CONSUMER: u16 = 4008;
/// The shard's part of the memory budget is used up, and this session held most of it; connect again after a delay.
pub const MEMORY: u16 = 4009;
/// The credential has expired, at login or later; connect again with another.
pub const EXPIRED: u16 = 4010;
/// The credential was refused; another one might be accepted.
pub const UNAUTHORIZED: u16 = 4011;

/// Every code that pombo sends: code, name, and meaning, which is also the default reason.
///
/// Ascending by code.
pub const ALL: &[(u16, &str, &str)] = &[
    (NORMAL, "NORMAL", "closed normally"),
    (GOING_AWAY, "GOING_AWAY", "server is going away"),
    (PROTOCOL_ERROR, "PROTOCOL_ERROR", "websocket protocol broken"),
    (UNSUPPORTED, "UNSUPPORTED", "kind of data not supported"),
    (NOT_UTF8, "NOT_UTF8", "text is not valid utf-8"),
    (POLICY, "POLICY", "refused by a rule of this server"),
    (TOO_BIG, "TOO_BIG", "message too large"),
    (INTERNAL_ERROR, "INTERNAL_ERROR", "internal error"),
    (SERVICE_RESTART, "SERVICE_RESTART", "server is restarting"),
    (TRY_AGAIN_LATER, "TRY_AGAIN_LATER", "try again later"),
    (REPLACED, "REPLACED", "replaced by a newer login"),
    (UID_TAKEN, "UID_TAKEN", "uid is logged in already"),
    (UID_FULL, "UID_FULL", "uid has too many sessions"),
    (HEARTBEAT, "HEARTBEAT", "no sign of life"),
    (SLOW_CONSUMER, "SLOW_CONSUMER", "reads too slowly"),
    (MEMORY, "MEMORY", "server is short of memory"),
    (EXPIRED, "EXPIRED", "credential has expired"),
    (UNAUTHORIZED, "UNAUTHORIZED", "credential is not taken"),
];

/// Returns the meaning of one of [`ALL`]'s codes.
pub fn meaning(code: u16) -> Option<&'static str> {
    ALL.iter().find(|(known, _, _)| *known == code).map(|(_, _, meaning)| *meaning)
}

/// Returns whether a peer may send `code` in a close frame.
///
/// Valid are the codes that RFC 6455, section 7.4, and its IANA registry define for the wire,
/// and 3000 to 4999. Not valid are 1004, which has no meaning, and the codes that an endpoint reports when no close frame
/// came: 1005, 1006, 1015.
pub fn is_valid_from_peer(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(codes: std::ops::RangeInclusive<u16>, expected: bool) {
        for code in codes {
            assert_eq!(is_valid_from_peer(code), expected, "close code {code}");
        }
    }

    #[test]
    fn peer_may_send_what_is_defined_for_the_wire() {
        check(1000..=1003, true);
        check(1007..=1014, true);
        check(3000..=4999, true);
    }

    #[test]
    fn peer_may_not_send_the_rest() {
        check(0..=999, false);
        check(1004..=1006, false);
        check(1015..=2999, false);
        check(5000..=u16::MAX, false);
    }

    #[test]
    fn every_code_of_ours_is_sendable_unique_and_says_something() {
        assert!(ALL.is_sorted_by(|a, b| a.0 < b.0), "codes ascend");
        for &(code, name, text) in ALL {
            assert!(is_valid_from_peer(code), "{name} {code}");
            assert!(!text.is_empty() && text.len() <= 123, "{name}: {text}");
            assert_eq!(meaning(code), Some(text));
        }
        assert_eq!(meaning(1005), None);
    }
}
