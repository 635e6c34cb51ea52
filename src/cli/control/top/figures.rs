//! From samples to figures: totals of a node, and rates from what has changed since the sample before.
//!
//! A rate is a difference over the node's own time, so a pause or a late answer doesn't bend it. A node that was started
//! again has counted anew: what came before is forgotten. A shard that did not answer for a while has rates over that while.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::sample::{Counts, Sample, Shard, ShardCounts};
use crate::metrics::Stats;

/// Changes a second by the names of what changes.
pub(super) type Rates = BTreeMap<String, f64>;

/// What is shown of a node.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) at_ms: u64,
    pub(super) uptime_ms: u64,
    pub(super) version: String,
    pub(super) state: String,
    /// Why the node accepts no connections now; empty if it accepts them.
    pub(super) unready: Vec<String>,
    pub(super) connections: u64,
    pub(super) connections_max: u64,
    /// The least that `connections_max`, open files and memory allow.
    pub(super) connections_ceiling: u64,
    /// Which of them that is; `None` if the node does not tell it.
    pub(super) connections_limited_by: Option<String>,
    /// Sums over the shards that answered.
    pub(super) totals: Counts,
    /// Sums over the shards that have answered before, too; `None` when none has.
    pub(super) rates: Option<Rates>,
    /// Sessions closed, by close code.
    pub(super) closes: Vec<Reason>,
    /// Connections refused, by reason.
    pub(super) refusals: Vec<Reason>,
    pub(super) shards: Vec<ShardFigures>,
}

/// How often something happened, those of which it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Reason {
    pub(super) reason: String,
    pub(super) total: u64,
    pub(super) rate: Option<f64>,
}

/// What is shown of a shard.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum ShardFigures {
    Counted {
        totals: Counts,
        rates: Option<Rates>,
        /// Since the sample before.
        turns: TurnTimes,
    },
    Silent {
        error: String,
    },
}

/// How long turns took; `None` when there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct TurnTimes {
    #[serde(rename = "p50_us", serialize_with = "micros")]
    pub(super) p50: Option<Duration>,
    #[serde(rename = "p99_us", serialize_with = "micros")]
    pub(super) p99: Option<Duration>,
}

fn micros<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_nanos() as f64 / 1e3).serialize(serializer)
}

/// What is remembered from one sample to the next.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    uptime: Duration,
    /// What each shard said last, and when.
    shards: Vec<Option<(Duration, ShardCounts)>>,
    refusals: Option<(Duration, Counts)>,
}

impl Tracker {
    /// Takes a sample in.
    pub(super) fn take(&mut self, sample: Sample) -> Figures {
        let now = sample.uptime();
        if now < self.uptime || self.shards.len() != sample.shards.len() {
            *self = Self { shards: vec![None; sample.shards.len()], ..Self::default() };
        }
        self.uptime = now;
        let (mut totals, mut closes) = (Counts::new(), Counts::new());
        let (mut rates, mut close_rates) = (None, None);
        let mut shards = Vec::with_capacity(sample.shards.len());
        for (shard, last) in sample.shards.into_iter().zip(&mut self.shards) {
            shards.push(match shard {
                Shard::Silent { error } => ShardFigures::Silent { error },
                Shard::Counted(counted) => {
                    add(&mut totals, &counted.counts, |sum, count| *sum += count);
                    add(&mut closes, &counted.closes, |sum, count| *sum += count);
                    let figures = compare(&counted, last.as_ref(), now, &mut rates, &mut close_rates);
                    *last = Some((now, counted));
                    figures
                }
            });
        }
        let refusal_rates =
            self.refusals.as_ref().and_then(|(then, before)| per_second(&sample.refusals, before, now, *then));
        let refusals = reasons(&sample.refusals, refusal_rates.as_ref());
        self.refusals = Some((now, sample.refusals));
        let Sample { at_ms, uptime_ms, version, state, unready, connections, connections_max, .. } = sample;
        let closes = reasons(&closes, close_rates.as_ref());
        Figures {
            at_ms,
            uptime_ms,
            version,
            state,
            unready,
            connections,
            connections_max,
            connections_ceiling: sample.connections_ceiling.unwrap_or(connections_max),
            connections_limited_by: sample.connections_limited_by,
            totals,
            rates,
            closes,
            refusals,
            shards,
        }
    }
}

/// Compares a shard with what it said last, and adds its rates to those of the node.
fn compare(
    counted: &ShardCounts,
    last: Option<&(Duration, ShardCounts)>,
    now: Duration,
    rates: &mut Option<Rates>,
    close_rates: &mut Option<Rates>,
) -> ShardFigures {
    let totals = counted.counts.clone();
    let Some((then, before)) = last else {
        return ShardFigures::Counted { totals, rates: None, turns: TurnTimes::default() };
    };
    let own = per_second(&counted.counts, &before.counts, now, *then).map(|mut own| {
        own.retain(|name, _| !is_gauge(name));
        own
    });
    let closed = per_second(&counted.closes, &before.closes, now, *then);
    for (sum, more) in [(rates, &own), (close_rates, &closed)] {
        if let Some(more) = more {
            add(sum.get_or_insert_default(), more, |sum, rate| *sum += rate);
        }
    }
    let turns = counted.turn_time.since(&before.turn_time);
    let turns = TurnTimes { p50: turns.quantile(0.5), p99: turns.quantile(0.99) };
    ShardFigures::Counted { totals, rates: own, turns }
}

fn add<T: Copy + Default>(sums: &mut BTreeMap<String, T>, more: &BTreeMap<String, T>, add: impl Fn(&mut T, T)) {
    for (name, number) in more {
        add(sums.entry(name.clone()).or_default(), *number);
    }
}

/// Changes a second of what only grows; `None` when no time has passed.
fn per_second(counts: &Counts, before: &Counts, now: Duration, then: Duration) -> Option<Rates> {
    let seconds = now.checked_sub(then).filter(|elapsed| !elapsed.is_zero())?.as_secs_f64();
    let rate =
        |name: &String, count: u64| count.saturating_sub(before.get(name).copied().unwrap_or(0)) as f64 / seconds;
    Some(counts.iter().map(|(name, count)| (name.clone(), rate(name, *count))).collect())
}

/// Tells whether a count is what there is now; one that this program doesn't know only grows.
fn is_gauge(name: &str) -> bool {
    Stats::ALL.iter().any(|metric| metric.field == name && metric.is_gauge)
}

/// What happened at all, the most frequent first.
fn reasons(counts: &Counts, rates: Option<&Rates>) -> Vec<Reason> {
    let rate = |name| rates.map(|rates| rates.get(name).copied().unwrap_or(0.0));
    let happened = counts.iter().filter(|(_, count)| **count > 0);
    let mut reasons: Vec<_> =
        happened.map(|(name, count)| Reason { reason: name.clone(), total: *count, rate: rate(name) }).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.total));
    reasons
}

/// Sums of counts that are shown as one.
pub(super) const DELIVERED: &[&str] = &["delivered", "broadcast_deliveries"];
pub(super) const SHED: &[&str] = &["shed_newest", "shed_oldest", "shed_closed", "shed_shard_gone"];

/// Adds up the counts with these names.
pub(super) fn total(totals: &Counts, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| totals.get(*name)).sum()
}

/// Adds up the rates with these names; `None` when there are no rates yet.
pub(super) fn rate(rates: Option<&Rates>, names: &[&str]) -> Option<f64> {
    rates.map(|rates| names.iter().filter_map(|name| rates.get(*name)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn shard(sessions: u64, delivered: u64) -> Shard {
        let counts = counts(&[("sessions", sessions), ("delivered", delivered)]);
        Shard::Counted(ShardCounts { counts, ..ShardCounts::default() })
    }

    fn silent() -> Shard {
        Shard::Silent { error: "no answer".to_owned() }
    }

    fn sample(uptime_ms: u64, shards: Vec<Shard>, refused: u64) -> Sample {
        Sample {
            at_ms: 0,
            uptime_ms,
            version: "1".to_owned(),
            state: "serving".to_owned(),
            unready: Vec::new(),
            connections: 0,
            connections_max: 0,
            connections_ceiling: None,
            connections_limited_by: None,
            shards,
            refusals: counts(&[("full", refused), ("busy", 0)]),
        }
    }

    /// The node's rate of deliveries, and that of each shard that has one.
    fn delivered(figures: &Figures) -> (Option<f64>, Vec<Option<f64>>) {
        let shards = figures.shards.iter().map(|shard| match shard {
            ShardFigures::Counted { rates, .. } => rate(rates.as_ref(), DELIVERED),
            ShardFigures::Silent { .. } => None,
        });
        (rate(figures.rates.as_ref(), DELIVERED), shards.collect())
    }

    #[test]
    fn rates_are_differences_over_the_nodes_time() {
        let mut tracker = Tracker::default();
        let first = tracker.take(sample(1000, vec![shard(1, 100), shard(2, 0)], 3));
        assert_eq!(delivered(&first), (None, vec![None, None]));
        assert_eq!((total(&first.totals, &["sessions"]), total(&first.totals, DELIVERED)), (3, 100));
        assert_eq!(first.refusals, [Reason { reason: "full".to_owned(), total: 3, rate: None }]);
        let second = tracker.take(sample(1500, vec![shard(9, 110), shard(2, 5)], 4));
        assert_eq!(delivered(&second), (Some(30.0), vec![Some(20.0), Some(10.0)]));
        assert_eq!(second.refusals, [Reason { reason: "full".to_owned(), total: 4, rate: Some(2.0) }]);
        assert_eq!(rate(second.rates.as_ref(), &["sessions"]), Some(0.0), "what there is has no rate");
        let at_once = tracker.take(sample(1500, vec![shard(9, 110), shard(2, 5)], 4));
        assert_eq!(delivered(&at_once), (None, vec![None, None]));
    }

    #[test]
    fn node_that_starts_again_counts_anew() {
        let mut tracker = Tracker::default();
        tracker.take(sample(5000, vec![shard(1, 100)], 0));
        assert_eq!(delivered(&tracker.take(sample(400, vec![shard(1, 7)], 0))), (None, vec![None]));
        assert_eq!(delivered(&tracker.take(sample(1400, vec![shard(1, 9)], 0))), (Some(2.0), vec![Some(2.0)]));
        let wider = vec![shard(1, 9), shard(1, 9)];
        assert_eq!(delivered(&tracker.take(sample(2400, wider, 0))), (None, vec![None, None]));
    }

    #[test]
    fn silent_shard_is_left_out_and_comes_back() {
        let mut tracker = Tracker::default();
        tracker.take(sample(1000, vec![shard(1, 0), shard(1, 0)], 0));
        let without = tracker.take(sample(2000, vec![shard(1, 10), silent()], 0));
        assert_eq!(delivered(&without), (Some(10.0), vec![Some(10.0), None]));
        assert_eq!(total(&without.totals, &["sessions"]), 1);
        let back = tracker.take(sample(3000, vec![shard(1, 20), shard(1, 40)], 0));
        assert_eq!(delivered(&back), (Some(30.0), vec![Some(10.0), Some(20.0)]));
    }
}
