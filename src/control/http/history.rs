//! The totals of the node over the last hours, as JSON.

use axum::extract::{Extension, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::access::Right;
use super::parameters::{Pairs, Parameters};
use super::reply::Reply;
use crate::control::history::{INTERVAL, Sample};
use crate::control::problem::Failure;
use crate::control::tokens::Caller;

/// The node over the last three hours: lists of the same length, oldest first.
///
/// Counts are since the start; null where the kernel does not report the figure.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Totals {
    /// Time between two samples. A sample is missing where a shard did not answer.
    interval_ms: u64,
    /// When each sample was taken, in milliseconds since the node started: it always grows. A restart begins it anew.
    uptime_ms: Vec<u64>,
    /// When each sample was taken, by the node's clock, in milliseconds since 1970. This clock may be set.
    at_ms: Vec<u64>,
    sessions: Vec<u64>,
    connections: Vec<u64>,
    frames_in: Vec<u64>,
    /// Messages accepted for sessions, by unicast and by broadcast.
    deliveries: Vec<u64>,
    bytes_in: Vec<u64>,
    bytes_out: Vec<u64>,
    /// Messages that were dropped.
    dropped: Vec<u64>,
    /// Connections refused before they were sessions.
    refused: Vec<u64>,
    /// Processor time of the process.
    cpu_ms: Vec<Option<u64>>,
    /// Resident memory of the process.
    resident_bytes: Vec<Option<u64>>,
}

impl From<&[Sample]> for Totals {
    fn from(samples: &[Sample]) -> Self {
        fn column<T>(samples: &[Sample], read: fn(&Sample) -> T) -> Vec<T> {
            samples.iter().map(read).collect()
        }
        Self {
            interval_ms: INTERVAL.as_millis() as u64,
            uptime_ms: column(samples, |sample| sample.uptime_ms),
            at_ms: column(samples, |sample| sample.at_ms),
            sessions: column(samples, |sample| sample.sessions),
            connections: column(samples, |sample| sample.connections),
            frames_in: column(samples, |sample| sample.frames_in),
            deliveries: column(samples, |sample| sample.deliveries),
            bytes_in: column(samples, |sample| sample.bytes_in),
            bytes_out: column(samples, |sample| sample.bytes_out),
            dropped: column(samples, |sample| sample.dropped),
            refused: column(samples, |sample| sample.refused),
            cpu_ms: column(samples, |sample| sample.cpu_ms),
            resident_bytes: column(samples, |sample| sample.resident_bytes),
        }
    }
}

/// Returns the node's totals over the last three hours, each ten seconds.
#[utoipa::path(
    get,
    path = "/v1/history",
    tag = "query",
    params(("since" = Option<u64>, Query, description = "Only samples after this `uptime_ms`")),
    responses((status = 200, description = "The totals, sample by sample", body = Totals)),
)]
pub(super) async fn history(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    pairs: Pairs,
) -> Result<Reply, Failure> {
    caller.require(Right::Query)?;
    let since = Parameters::read(pairs, &["since"])?.number("since", 0, usize::MAX)?.unwrap_or(0);
    let samples = api.control.history.since(since as u64);
    Ok(Reply::json(&Totals::from(&samples[..])))
}
