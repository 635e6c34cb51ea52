//! What a node's `/v1/stats` says, at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// Numbers by their names.
pub(super) type Counts = BTreeMap<String, u64>;

/// A node at one moment. What else it tells is no matter.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Sample {
    pub(super) at_ms: u64,
    pub(super) uptime_ms: u64,
    pub(super) version: String,
    pub(super) state: String,
    /// Why it accepts no connections; a node of an earlier build does not tell it.
    #[serde(default)]
    pub(super) unready: Vec<String>,
    pub(super) connections: u64,
    pub(super) connections_max: u64,
    /// Most connections that the node can have; a node of an earlier build does not tell it.
    pub(super) connections_ceiling: Option<u64>,
    /// The limit that the ceiling comes from.
    pub(super) connections_limited_by: Option<String>,
    pub(super) shards: Vec<Shard>,
    pub(super) refusals: Counts,
}

/// What a shard has counted.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Shard {
    Counted(ShardCounts),
    /// It gave no answer, for this reason.
    Silent {
        error: String,
    },
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct ShardCounts {
    /// By the names of the fields of `Stats`.
    pub(super) counts: Counts,
    /// By close code, those that were.
    pub(super) closes: Counts,
    pub(super) turn_time: Turns,
}

/// How often a turn took how long.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Turns {
    /// Upper bounds, ascending.
    pub(super) bounds_ns: Vec<u64>,
    /// One more than there are bounds.
    pub(super) counts: Vec<u64>,
}

impl Sample {
    pub(super) fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime_ms)
    }
}

impl Turns {
    /// Returns the turns since `before`; none if they can't be compared.
    pub(super) fn since(&self, before: &Self) -> Self {
        if self.bounds_ns != before.bounds_ns || self.counts.len() != before.counts.len() {
            return Self::default();
        }
        let counts = self.counts.iter().zip(&before.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { bounds_ns: self.bounds_ns.clone(), counts }
    }

    /// Estimates how long the turns up to `part` of them took: evenly between the bounds, and beyond the last one the
    /// last one. `None` if there were no turns.
    pub(super) fn quantile(&self, part: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().sum();
        let mut left = total as f64 * part;
        let mut lower = 0;
        for (count, upper) in self.counts.iter().zip(&self.bounds_ns) {
            let count = *count as f64;
            if count > 0.0 && left <= count {
                let ns = lower as f64 + (upper - lower.min(*upper)) as f64 * (left / count);
                return Some(Duration::from_nanos(ns as u64));
            }
            left -= count;
            lower = *upper;
        }
        (total > 0).then(|| Duration::from_nanos(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counts: &[u64], part: f64, expected: Option<u64>) {
        let turns = Turns { bounds_ns: vec![100, 200, 400], counts: counts.to_vec() };
        assert_eq!(turns.quantile(part), expected.map(Duration::from_nanos), "{part} of {counts:?}");
    }

    #[test]
    fn quantiles_lie_between_the_bounds() {
        check(&[0, 0, 0, 0], 0.5, None);
        check(&[10, 0, 0, 0], 0.5, Some(50));
        check(&[10, 10, 0, 0], 0.5, Some(100));
        check(&[10, 10, 0, 0], 0.75, Some(150));
        check(&[0, 0, 10, 0], 0.99, Some(398));
        check(&[0, 0, 10, 0], 1.0, Some(400));
        check(&[0, 0, 0, 3], 0.5, Some(400));
        check(&[], 0.5, None);
    }

    #[test]
    fn turns_are_those_since() {
        let turns = |counts: &[u64]| Turns { bounds_ns: vec![100, 200], counts: counts.to_vec() };
        assert_eq!(turns(&[3, 4, 5]).since(&turns(&[1, 4, 0])), turns(&[2, 0, 5]));
        assert_eq!(turns(&[3, 4, 5]).since(&Turns::default()), Turns::default());
    }

    #[test]
    fn answers_are_understood() {
        let answer = r#"{"at_ms": 1, "uptime_ms": 2, "version": "0.1.0", "state": "serving", "connections": 3,
            "connections_max": 4, "connections_ceiling": 2, "unready": ["full"], "more": [], "refusals": {"full": 0},
            "shards": [{"counts": {"sessions": 5}, "closes": {"1000": 6}, "more": 1,
                        "turn_time": {"bounds_ns": [1], "counts": [7, 8], "sum_ns": 9}}, {"error": "no answer"}]}"#;
        let sample: Sample = serde_json::from_str(answer).expect("an answer");
        let turn_time = Turns { bounds_ns: vec![1], counts: vec![7, 8] };
        let pair = |name: &str, count| Counts::from([(name.to_owned(), count)]);
        let first = ShardCounts { counts: pair("sessions", 5), closes: pair("1000", 6), turn_time };
        assert_eq!(sample.shards, [Shard::Counted(first), Shard::Silent { error: "no answer".to_owned() }]);
        assert_eq!((&sample.unready[..], &sample.connections_limited_by), (&["full".to_owned()][..], &None));
        assert_eq!((sample.connections_max, sample.connections_ceiling), (4, Some(2)));
        assert_eq!((sample.uptime(), sample.refusals), (Duration::from_millis(2), pair("full", 0)));
        for bad in ["{}", "[]", r#"{"shards": []}"#] {
            assert!(serde_json::from_str::<Sample>(bad).is_err(), "{bad}");
        }
    }
}
