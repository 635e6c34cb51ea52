//! Log lines about refused clients that may guess credentials, or that come too often.
//!
//! Every line has the same form, with the client's address: `deploy/fail2ban` reads it. The gateway and control have a log
//! each, so that a flood of logins can't hide wrong tokens. Each log writes at most [`LINES_PER_SECOND`] lines in a second for
//! each [`Suspicion`], so that refusals that honest clients cause can't hide guesses; the number of those that were left out
//! is written when the second is over. No line has text of the client.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{field, warn};

/// Most lines of one suspicion in a second; docs/security.md names the number.
const LINES_PER_SECOND: usize = 10;

/// The target of the lines, which `deploy/fail2ban` expects.
const TARGET: &str = "pombo::refused";

const SECOND: Duration = Duration::from_secs(1);

/// How suspicious a refused client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// It may guess credentials: `deploy/fail2ban` looks for it.
    Guess,
    /// Honest clients are refused for this reason, too: `deploy/fail2ban` must leave it out.
    Honest,
}

/// Logs refused clients; clones share the bounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedClients(Arc<Budgets>);

/// The lines of the current second, for each [`Suspicion`].
#[derive(Debug, Default)]
struct Budgets {
    guess: Mutex<Budget>,
    honest: Mutex<Budget>,
}

/// The lines of the current second.
#[derive(Debug, Default)]
struct Budget {
    /// When the second began; `None` before the first line.
    began: Option<Instant>,
    lines: usize,
    /// Lines that were left out and not reported yet.
    left_out: u64,
}

/// What to do about one refusal.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Log,
    LeaveOut,
    /// As `LeaveOut`, and report the number of those that were left out at this time.
    ReportAt(Instant),
}

impl RefusedClients {
    /// Logs that a client was refused for `reason`; must be called in a tokio runtime.
    ///
    /// `client` is `None` for a peer on a Unix socket.
    pub(crate) fn log(&self, client: Option<IpAddr>, suspicion: Suspicion, reason: &'static str) {
        let verdict = self.budget(suspicion, |budget| budget.take(Instant::now()));
        match verdict {
            // Without parent: spans would stand in front of the target.
            Verdict::Log => {
                warn!(target: TARGET, parent: None, client = client.map(field::display), reason, "client refused");
            }
            Verdict::LeaveOut => {}
            Verdict::ReportAt(time) => {
                let this = self.clone();
                tokio::spawn(async move {
                    sleep_until(time).await;
                    let left_out = this.budget(suspicion, |budget| std::mem::take(&mut budget.left_out));
                    warn!(target: TARGET, parent: None, left_out, "more clients were refused than are logged");
                });
            }
        }
    }

    fn budget<T>(&self, suspicion: Suspicion, act: impl FnOnce(&mut Budget) -> T) -> T {
        let budget = match suspicion {
            Suspicion::Guess => &self.0.guess,
            Suspicion::Honest => &self.0.honest,
        };
        // Nothing under this lock can panic half-way.
        act(&mut budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> Verdict {
        let began = match self.began {
            Some(began) if now < began + SECOND => began,
            _ => {
                self.lines = 0;
                *self.began.insert(now)
            }
        };
        if self.lines < LINES_PER_SECOND {
            self.lines += 1;
            return Verdict::Log;
        }
        self.left_out += 1;
        if self.left_out == 1 { Verdict::ReportAt(began + SECOND) } else { Verdict::LeaveOut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One flood of cheap refusals, such as of requests without a credential, hid the guesses of others.
    #[test]
    fn refusals_of_honest_clients_take_no_lines_of_guesses() {
        let (refused, start) = (RefusedClients::default(), Instant::now());
        let take = |suspicion| refused.budget(suspicion, |budget| budget.take(start));
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(take(Suspicion::Honest), Verdict::Log);
        }
        assert_eq!(take(Suspicion::Honest), Verdict::ReportAt(start + SECOND));
        assert_eq!(take(Suspicion::Guess), Verdict::Log);
    }

    #[test]
    fn lines_are_bounded_and_the_rest_is_reported_once() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(budget.take(start), Verdict::Log);
        }
        assert_eq!(budget.take(start + SECOND / 2), Verdict::ReportAt(start + SECOND));
        assert_eq!(budget.take(start + SECOND / 2), Verdict::LeaveOut);
        assert_eq!(budget.left_out, 2);
        // The next second has lines of its own, even if the report is late.
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(budget.take(start + SECOND), Verdict::Log);
        }
        assert_eq!(budget.take(start + SECOND), Verdict::LeaveOut);
        budget.left_out = 0;
        assert_eq!(budget.take(start + SECOND), Verdict::ReportAt(start + 2 * SECOND));
    }
}
