//! All counts of each shard as JSON, for the console and `pombo top`.
//!
//! Totals since the start, and current numbers. Callers compute rates from two answers. Nothing is stored for it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Extension, State};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::Api;
use super::access::Right;
use super::parameters::{Pairs, Parameters};
use super::reply::Reply;
use crate::clock;
use crate::control::problem::Failure;
use crate::control::tokens::Caller;
use crate::dispatcher::Unanswered;
use crate::frame::close;
use crate::gateway::Reason;
use crate::metrics::{Histogram, NodeCounts, Stats};

/// Time for each shard to answer, unless `control_answer_timeout` is shorter. A caller that watches asks again soon.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// What a node and each of its shards have counted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeStats {
    /// The node's clock, in milliseconds since 1970.
    at_ms: u64,
    /// Since the node started. All counts began then: a smaller value than before means that the node restarted.
    uptime_ms: u64,
    /// Version that runs.
    version: &'static str,
    state: NodeState,
    /// Why it accepts no connections now, as `/readyz` says it; empty if it accepts them.
    unready: Vec<String>,
    /// Connections open now, logged in or not.
    connections: usize,
    /// Most connections that are let in, by the setting.
    connections_max: usize,
    /// Most connections that the node can have: the least that the setting, the limit of open files, and half of the memory
    /// allow. The last of them is a plan, and refuses no connection.
    connections_ceiling: u64,
    /// Which of them that is: `connections_max`, `descriptors` or `memory`.
    connections_limited_by: &'static str,
    /// Bound of the memory that sessions hold, which each shard counts as `memory_held`.
    memory_bytes_max: usize,
    /// What the process uses.
    process: ProcessUsage,
    /// Address of the page for trying the node, where it is served over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    /// Each shard, in order.
    shards: Vec<ShardStats>,
    /// Each plain count that no shard has, by the name that docs/metrics.md has beside it.
    #[schema(value_type = BTreeMap<String, u64>)]
    counts: BTreeMap<&'static str, u64>,
    /// How long pushes of other programs took, from when control had them to their answer.
    push_time: Durations,
    /// Connections refused before they were sessions, by reason.
    #[schema(value_type = BTreeMap<String, u64>)]
    refusals: BTreeMap<&'static str, u64>,
}

/// What the process uses, as far as the kernel reports it.
#[derive(Debug, Serialize, ToSchema)]
struct ProcessUsage {
    /// Processor time since it started, in seconds.
    cpu_seconds: Option<f64>,
    /// Resident memory.
    resident_bytes: Option<u64>,
}

/// What a node does.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum NodeState {
    /// It does not drain; whether it accepts connections, `unready` says.
    Serving,
    /// It lets nobody in, and closes all sessions.
    Draining,
}

/// A shard's counts, or why there are none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum ShardStats {
    Counted(Box<ShardCounts>),
    Unanswered {
        /// Why the shard has not answered.
        error: &'static str,
    },
}

/// What a shard has counted.
#[derive(Debug, Serialize, ToSchema)]
struct ShardCounts {
    /// Each plain count, by the name that docs/metrics.md has beside it.
    #[schema(value_type = BTreeMap<String, u64>)]
    counts: BTreeMap<&'static str, u64>,
    /// Sessions closed, by close code, without codes that have no count yet; `other` has the codes that are not pombo's.
    closes: BTreeMap<String, u64>,
    /// How long turns took, without the wait in front of each.
    turn_time: Durations,
    /// How long batches of mail waited for the shard, from when they were posted.
    mail_wait: Durations,
}

/// How often something took how long.
#[derive(Debug, Serialize, ToSchema)]
struct Durations {
    /// Upper bounds, in nanoseconds.
    bounds_ns: Vec<u64>,
    /// One count per bucket: over the previous bound, up to this one; the last bucket is above all bounds.
    counts: Vec<u64>,
    /// The sum of all, in nanoseconds.
    sum_ns: u64,
}

impl From<&Histogram> for Durations {
    fn from(histogram: &Histogram) -> Self {
        let Histogram { counts, sum_ns } = histogram;
        Self { bounds_ns: Histogram::BOUNDS.to_vec(), counts: counts.to_vec(), sum_ns: *sum_ns }
    }
}

impl From<&Stats> for ShardCounts {
    fn from(stats: &Stats) -> Self {
        let codes = close::ALL.iter().map(|(code, _, _)| code.to_string()).chain(["other".to_owned()]);
        Self {
            counts: Stats::ALL.iter().map(|metric| (metric.field, (metric.read)(stats))).collect(),
            closes: codes.zip(stats.closes).filter(|(_, count)| *count > 0).collect(),
            turn_time: (&stats.turn_time).into(),
            mail_wait: (&stats.mail_wait).into(),
        }
    }
}

impl From<Result<Stats, Unanswered>> for ShardStats {
    fn from(answer: Result<Stats, Unanswered>) -> Self {
        let error = match answer {
            Ok(stats) => return Self::Counted(Box::new((&stats).into())),
            Err(Unanswered::Drained) => "the shard has drained",
            Err(Unanswered::Busy) => "the shard had no room for the question in time",
            Err(Unanswered::Silent) => "the shard did not answer in time",
        };
        Self::Unanswered { error }
    }
}

/// Returns the counts of each shard.
///
/// It is answered during a drain, too.
#[utoipa::path(get, path = "/v1/stats", tag = "query",
    responses((status = 200, description = "The counts, shard by shard", body = NodeStats)))]
pub(super) async fn stats(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    caller.require(Right::Query)?;
    Parameters::read(pairs, &[])?;
    let (control, settings) = (&api.control, api.settings());
    let asked = control.dispatcher.by(Instant::now() + settings.answer_timeout.min(ANSWER_TIME));
    let shards = asked.stats().await.into_iter().map(ShardStats::from).collect();
    let own = control.counts.of_node(&control.dispatcher);
    let is_draining = control.draining.borrow().is_some();
    let (limit, ceiling) = control.ceiling();
    let usage = control.process.usage();
    Ok(Reply::json(&NodeStats {
        at_ms: milliseconds(clock::since_1970()),
        uptime_ms: milliseconds(control.started.elapsed()),
        version: env!("CARGO_PKG_VERSION"),
        state: if is_draining { NodeState::Draining } else { NodeState::Serving },
        unready: control.unready_reasons(),
        connections: control.admission.count(),
        connections_max: settings.node_connections_max,
        connections_ceiling: ceiling,
        connections_limited_by: limit.name(),
        memory_bytes_max: settings.memory_bytes_max,
        process: ProcessUsage { cpu_seconds: usage.cpu_seconds, resident_bytes: usage.resident_bytes },
        page: control.page_address.as_ref().filter(|_| settings.page).map(ToString::to_string),
        shards,
        counts: NodeCounts::ALL.iter().map(|metric| (metric.field, (metric.read)(&own))).collect(),
        push_time: (&own.push_time).into(),
        refusals: Reason::ALL.iter().map(|reason| (reason.name(), control.refusals.count(*reason))).collect(),
    }))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_are_not_ours_are_told_as_others() {
        let mut stats = Stats::default();
        for code in [close::NORMAL, close::NORMAL, 4999] {
            stats.count_close(code);
        }
        let closes: Vec<_> = ShardCounts::from(&stats).closes.into_iter().collect();
        assert_eq!(closes, [("1000".to_owned(), 2), ("other".to_owned(), 1)]);
    }

    #[test]
    fn shard_without_an_answer_says_so_in_its_place() {
        for unanswered in [Unanswered::Drained, Unanswered::Busy, Unanswered::Silent] {
            let failure = serde_json::to_value(ShardStats::from(Err(unanswered))).expect("it is JSON");
            assert!(failure["error"].as_str().is_some_and(|error| error.starts_with("the shard ")), "{failure}");
            assert_eq!(failure.as_object().map(serde_json::Map::len), Some(1), "{failure}");
        }
    }
}
