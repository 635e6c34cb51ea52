//! The totals of the node over the last three hours, for the console: one sample each ten seconds, the oldest makes room.
//!
//! Control asks the shards for their counts, as a scrape does: nothing is added to the path of a message. A sample that
//! some shard does not answer in time is left out, because sums without its counts would look like a fall.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Control;
use crate::clock;
use crate::gateway::Reason;
use crate::metrics::Stats;

/// Time between two samples.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// Most samples: three hours of them, some 100 KiB.
const SAMPLES_MAX: usize = 3 * 60 * 60 / INTERVAL.as_secs() as usize;

/// The node at one moment. Counts are since its start, so that any two samples give a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Since the node started, in milliseconds: no two samples have the same, and it never goes back.
    pub(super) uptime_ms: u64,
    /// By the node's clock, in milliseconds since 1970, which may be set back.
    pub(super) at_ms: u64,
    pub(super) sessions: u64,
    pub(super) connections: u64,
    pub(super) frames_in: u64,
    /// Messages accepted for sessions, by unicast and by broadcast.
    pub(super) deliveries: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) dropped: u64,
    pub(super) refused: u64,
    /// Processor time of the process; `None` where the kernel does not report it.
    pub(super) cpu_ms: Option<u64>,
    /// Resident memory of the process; `None` as for `cpu_ms`.
    pub(super) resident_bytes: Option<u64>,
}

/// The samples, oldest first; clones share them.
///
/// Only the control thread takes the lock, to add a sample and to copy the samples for an answer.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<VecDeque<Sample>>>);

impl History {
    /// Returns the samples that were taken after `uptime_ms`.
    pub(super) fn since(&self, uptime_ms: u64) -> Vec<Sample> {
        self.lock().iter().filter(|sample| sample.uptime_ms > uptime_ms).copied().collect()
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.lock();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a sample each [`INTERVAL`], for as long as the runtime lasts.
pub(super) async fn record(control: Control) {
    let mut ticks = interval(INTERVAL);
    // After a stall one sample is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Some(sample) = take(&control).await {
            control.history.add(sample);
        }
    }
}

/// Takes a sample; `None` if a shard did not answer.
async fn take(control: &Control) -> Option<Sample> {
    let mut sum = Stats::default();
    for stats in control.dispatcher_in_time().stats().await {
        sum.add(&stats.ok()?);
    }
    let usage = control.process.usage();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(Sample {
        // The first sample may be taken in the node's first millisecond, and a `since` of 0 asks for all.
        uptime_ms: milliseconds(control.started.elapsed()).max(1),
        at_ms: milliseconds(clock::since_1970()),
        sessions: sum.sessions,
        connections: control.admission.count() as u64,
        frames_in: sum.frames_in,
        deliveries: sum.delivered + sum.broadcast_deliveries,
        bytes_in: sum.bytes_in,
        bytes_out: sum.bytes_out,
        dropped: sum.shed_newest + sum.shed_oldest + sum.shed_closed + sum.shed_shard_gone,
        refused: Reason::ALL.iter().map(|reason| control.refusals.count(*reason)).sum(),
        cpu_ms: usage.cpu_seconds.map(|seconds| (seconds * 1e3) as u64),
        resident_bytes: usage.resident_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_sample_makes_room() {
        let history = History::default();
        for uptime_ms in 1..=SAMPLES_MAX as u64 + 2 {
            history.add(Sample { uptime_ms, ..Sample::default() });
        }
        let samples = history.since(0);
        assert_eq!((samples.len(), samples[0].uptime_ms), (SAMPLES_MAX, 3));
        assert!(size_of::<Sample>() * SAMPLES_MAX < 128 << 10);
    }

    #[test]
    fn those_after_a_moment_are_returned() {
        let history = History::default();
        // The wall clock is set back: that hid later samples for as long as it lagged.
        for (uptime_ms, at_ms) in [(10, 7_010), (20, 7_020), (30, 1_030)] {
            history.add(Sample { uptime_ms, at_ms, ..Sample::default() });
        }
        let at = |since| history.since(since).iter().map(|sample| sample.uptime_ms).collect::<Vec<_>>();
        assert_eq!((at(0), at(10), at(29), at(30)), (vec![10, 20, 30], vec![20, 30], vec![30], vec![]));
    }
}
