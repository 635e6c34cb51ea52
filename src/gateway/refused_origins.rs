//! Log lines about web pages that were refused for their origin, so that an operator sees what to add to `origins`.
//!
//! Clients choose the origins, so everything is bounded: the length of what is shown, a line a minute for each origin, and
//! the number of origins that are remembered. Further origins share one line a minute. The subscriber escapes the text.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{field, warn};

use crate::peer::Peer;

/// Least time between two lines about an origin.
const PAUSE: Duration = Duration::from_secs(60);

/// Most origins that have lines of their own in [`PAUSE`].
const ORIGINS_MAX: usize = 256;

/// Most characters of an origin that are shown.
const CHARACTERS_MAX: usize = 200;

/// Logs refused origins; the gateway's tasks share it.
#[derive(Debug, Default)]
pub(crate) struct RefusedOrigins(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// When each origin was last logged.
    logged: HashMap<String, Instant, ahash::RandomState>,
    /// When further origins were last logged; `None` if never.
    others_logged: Option<Instant>,
    /// Refusals of further origins since then.
    others: u64,
}

/// What to log about one refusal.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A line about the origin.
    Name,
    /// A line about so many refusals of origins without a line of their own.
    Others(u64),
    Nothing,
}

impl RefusedOrigins {
    /// Logs that a page was refused, unless its origin was logged in the last minute.
    pub(super) fn log(&self, origin: &[u8], peer: Option<Peer>) {
        let origin = shown(origin);
        let verdict = {
            // Nothing under this lock can panic half-way.
            let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            table.note(&origin, Instant::now())
        };
        match verdict {
            Verdict::Name => {
                warn!(
                    peer = peer.map(field::display),
                    origin, "web page refused, add its origin to the setting origins to let it in"
                );
            }
            Verdict::Others(refusals) => {
                warn!(refusals, "web pages of further origins refused, too many to name, see the setting origins");
            }
            Verdict::Nothing => {}
        }
    }
}

impl Table {
    fn note(&mut self, origin: &str, now: Instant) -> Verdict {
        let is_recent = |logged: Instant| now < logged + PAUSE;
        if let Some(logged) = self.logged.get_mut(origin) {
            if is_recent(*logged) {
                return Verdict::Nothing;
            }
            *logged = now;
            return Verdict::Name;
        }
        if self.logged.len() == ORIGINS_MAX {
            self.logged.retain(|_, logged| is_recent(*logged));
        }
        if self.logged.len() < ORIGINS_MAX {
            self.logged.insert(origin.to_owned(), now);
            return Verdict::Name;
        }
        self.others += 1;
        if self.others_logged.is_some_and(is_recent) {
            return Verdict::Nothing;
        }
        self.others_logged = Some(now);
        Verdict::Others(std::mem::take(&mut self.others))
    }
}

/// Returns the text of a header's value, cut.
fn shown(origin: &[u8]) -> String {
    let text = String::from_utf8_lossy(origin);
    let mut shown: String = text.chars().take(CHARACTERS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_a_line_a_minute() {
        let (mut table, start) = (Table::default(), Instant::now());
        assert_eq!(table.note("https://a", start), Verdict::Name);
        assert_eq!(table.note("https://b", start), Verdict::Name);
        assert_eq!(table.note("https://a", start + PAUSE / 2), Verdict::Nothing);
        assert_eq!(table.note("https://a", start + PAUSE), Verdict::Name);
        assert_eq!(table.note("https://a", start + PAUSE), Verdict::Nothing);
    }

    #[test]
    fn further_origins_share_a_line() {
        let (mut table, start) = (Table::default(), Instant::now());
        for number in 0..ORIGINS_MAX {
            assert_eq!(table.note(&format!("https://{number}"), start), Verdict::Name);
        }
        assert_eq!(table.note("https://x", start), Verdict::Others(1));
        for number in 0..1000 {
            assert_eq!(table.note(&format!("https://x{number}"), start), Verdict::Nothing);
        }
        assert_eq!(table.note("https://0", start), Verdict::Nothing);
        assert_eq!(table.logged.len(), ORIGINS_MAX);
        assert_eq!(table.others, 1000);
        assert_eq!(table.note("https://x", start + PAUSE), Verdict::Name, "the old ones are forgotten");
        assert_eq!(table.logged.len(), 1);
    }

    #[test]
    fn a_long_origin_is_cut() {
        assert_eq!(shown(b"https://a"), "https://a");
        let long = shown(&[b'x'; 10_000]);
        assert_eq!((long.chars().count(), long.ends_with("x…")), (CHARACTERS_MAX + 1, true));
        assert_eq!(shown(b"a\xff"), "a\u{fffd}");
    }
}
