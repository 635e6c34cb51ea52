//! What control counts itself: what became of pushes, how long they took, and why requests were not done.
//!
//! All on the thread of control, so that the lock is never waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::http::Problem;
use crate::dispatcher::{Broadcast, Dispatcher, Push, Unanswered};
use crate::message::{Delivery, Kind};
use crate::metrics::Stats;

/// Counts of all connections of control.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    stats: Stats,
    /// How often each of [`Problem::ALL`] was the answer.
    problems: [u64; Problem::ALL.len()],
}

impl Counts {
    /// Has a message delivered.
    pub(super) async fn push(&self, dispatcher: &Dispatcher, push: Push) -> Result<Delivery, Unanswered> {
        let begun = Instant::now();
        let delivery = dispatcher.push(push).await;
        self.note_pushes(begun, &[delivery]);
        delivery
    }

    /// Has messages delivered; they count as one wait.
    pub(super) async fn push_all(
        &self,
        dispatcher: &Dispatcher,
        pushes: Vec<Push>,
    ) -> Vec<Result<Delivery, Unanswered>> {
        if pushes.is_empty() {
            return Vec::new();
        }
        let begun = Instant::now();
        let deliveries = dispatcher.push_all(pushes).await;
        self.note_pushes(begun, &deliveries);
        deliveries
    }

    /// Has a message delivered to everybody.
    pub(super) async fn broadcast(
        &self,
        dispatcher: &Dispatcher,
        (kind, payload): (Kind, bytes::Bytes),
        except: Vec<Box<str>>,
    ) -> Broadcast {
        let begun = Instant::now();
        let broadcast = dispatcher.broadcast(kind, payload, except).await;
        self.note_pushes(begun, &[]);
        broadcast
    }

    /// Counts messages that something was wrong with.
    pub(super) fn note_refused(&self, messages: usize) {
        self.lock().stats.pushes_refused += messages as u64;
    }

    /// Counts lines of the text port that go nowhere.
    pub(super) fn note_text_refused(&self, lines: usize) {
        self.lock().stats.text_refused += lines as u64;
    }

    /// Counts a request that was not done.
    pub(super) fn note_problem(&self, problem: Problem) {
        let place = Problem::ALL.iter().position(|known| *known == problem);
        self.lock().problems[place.expect("every problem is in the table")] += 1;
    }

    /// Returns what was counted of pushes.
    pub(super) fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Returns every problem, and how often it was the answer.
    pub(super) fn problems(&self) -> Vec<(&'static str, u64)> {
        let counts = self.lock().problems;
        Problem::ALL.iter().map(|problem| problem.name()).zip(counts).collect()
    }

    fn note_pushes(&self, begun: Instant, deliveries: &[Result<Delivery, Unanswered>]) {
        let mut counted = self.lock();
        let stats = &mut counted.stats;
        stats.push_time.note(begun.elapsed());
        for delivery in deliveries {
            *match delivery {
                Ok(Delivery::Delivered { .. }) => &mut stats.pushes_delivered,
                Ok(Delivery::Offline) => &mut stats.pushes_offline,
                Ok(Delivery::Shed(_)) => &mut stats.pushes_shed,
                Err(Unanswered::Drained | Unanswered::Busy) => &mut stats.pushes_refused,
                Err(Unanswered::Silent) => &mut stats.pushes_unknown,
            } += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
