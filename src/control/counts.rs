//! Control's own counts: outcomes and times of pushes, and the problems of requests.
//!
//! Only the control thread counts, and the program around the node reads now and then, so the lock is hardly ever contended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::problem::Problem;
use crate::dispatcher::{Broadcast, Dispatcher, Push, Unanswered};
use crate::message::{Delivery, Kind};
use crate::metrics::NodeCounts;

/// The counts of all control connections; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    counts: NodeCounts,
    /// Number of answers with each of [`Problem::ALL`].
    problems: [u64; Problem::ALL.len()],
}

impl Counts {
    /// Pushes a message, and counts its outcome and time.
    pub(super) async fn push(&self, dispatcher: &Dispatcher, push: Push) -> Result<Delivery, Unanswered> {
        let begun = Instant::now();
        let delivery = dispatcher.push(push).await;
        self.note_pushes(begun, &[delivery]);
        delivery
    }

    /// Pushes messages, and counts their outcomes; their time counts once.
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

    /// Broadcasts a message, and counts its time.
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

    /// Counts messages that were refused before they reached a shard.
    pub(super) fn note_refused(&self, messages: usize) {
        self.lock().counts.pushes_refused += messages as u64;
    }

    /// Counts lines of the text port that were not pushed.
    pub(super) fn note_text_refused(&self, lines: usize) {
        self.lock().counts.text_refused += lines as u64;
    }

    /// Counts a connection that was closed because another needed its slot.
    pub(super) fn note_evicted(&self) {
        self.lock().counts.gave_way += 1;
    }

    /// Counts a request that was answered with a problem.
    pub(super) fn note_problem(&self, problem: Problem) {
        let place = Problem::ALL.iter().position(|known| *known == problem);
        self.lock().problems[place.expect("every problem is in the table")] += 1;
    }

    /// Returns all counts that are not a shard's, with those of `dispatcher` and the hook.
    pub(crate) fn of_node(&self, dispatcher: &Dispatcher) -> NodeCounts {
        let mut counts = self.lock().counts;
        dispatcher.add_counts(&mut counts);
        counts
    }

    /// Returns the name of every problem, and the number of answers with it.
    pub(super) fn problems(&self) -> Vec<(&'static str, u64)> {
        let counts = self.lock().problems;
        Problem::ALL.iter().map(|problem| problem.name()).zip(counts).collect()
    }

    fn note_pushes(&self, begun: Instant, deliveries: &[Result<Delivery, Unanswered>]) {
        let mut counted = self.lock();
        let counts = &mut counted.counts;
        counts.push_time.note(begun.elapsed());
        for delivery in deliveries {
            *match delivery {
                Ok(Delivery::Delivered { .. }) => &mut counts.pushes_delivered,
                Ok(Delivery::Offline) => &mut counts.pushes_offline,
                Ok(Delivery::Shed(_)) => &mut counts.pushes_shed,
                Err(Unanswered::Drained | Unanswered::Busy) => &mut counts.pushes_refused,
                Err(Unanswered::Silent) => &mut counts.pushes_unknown,
            } += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
