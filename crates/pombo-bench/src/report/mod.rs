//! The report of a run: its figures, and their form as one JSON object.
//!
//! Times are in microseconds and sizes in bytes; the names say so. Nothing here measures. `text` formats the figures for a
//! terminal, `plots` for a page.

pub(super) mod plots;
mod text;

use std::time::Duration;

use serde::Serialize;

use super::inside::Placement;
use super::latency::Latency;
use super::ledger::Tally;
use super::process::Spent;
use super::progress::Sample;
use super::soak::Soak;
use super::traffic::Targets;

/// The report of a run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// `connect`, `unicast`, `broadcast`, `mixed` or `soak`.
    pub scenario: &'static str,
    /// The server's address.
    pub server: String,
    /// What the uids of the connections began with.
    pub uid_prefix: String,
    /// What was asked for.
    pub parameters: Parameters,
    /// The logins.
    pub logins: Logins,
    /// The outcomes of the messages, warm-up included; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
    /// The measurements of the messages, without the warm-up; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// The server's cost, if its process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cost: Option<ServerCost>,
    /// The generator's own cost.
    pub generator: GeneratorCost,
    /// The lines of a soak; none in other scenarios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
    /// Why the run failed, one sentence each; empty if it did not.
    pub failures: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Parameters {
    /// Connections opened.
    pub connections: u32,
    /// Connections that were under way at the same time while logging in.
    pub connecting: u32,
    /// Of them: those that write to each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<u32>,
    /// Of them: those that receive broadcasts only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<u32>,
    /// Of them: those that leave and come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitors: Option<u32>,
    /// Broadcasts a second beside the unicasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcasts_per_second: Option<u32>,
    /// Messages in flight: per connection, or of the one that broadcasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Messages a second asked for, of all connections together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Payload bytes behind `uid:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// `text` or `binary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Who sent to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// Shards of the server inside of the generator's process, if it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_process: Option<u16>,
    /// On which shards the two of a pair were, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How many receivers each sender had in turn, if more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<u32>,
}

/// How the connections came in.
#[derive(Clone, Debug, Serialize)]
pub struct Logins {
    /// From the first connection's start to the last login.
    pub seconds: f64,
    /// Logins a second.
    pub per_second: f64,
    /// From a connection's start to its login reply.
    pub latency: Latency,
    /// CPU of the server per login, if its process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us: Option<Cpu>,
}

/// The measurements of the messages.
#[derive(Clone, Debug, Serialize)]
pub struct Messages {
    /// How long it was measured.
    pub seconds: f64,
    /// Deliveries in that time.
    pub delivered: u64,
    /// Deliveries a second.
    pub delivered_per_second: f64,
    /// From when a message was due to its delivery; in `mixed` and `soak` of the unicasts.
    pub latency: Latency,
    /// From when a message was due to when the generator took it up: part of `latency`; at a fixed rate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Latency>,
    /// From when a broadcast was due to each of its deliveries; in `mixed` and `soak`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcasts: Option<Latency>,
    /// From when a broadcast was due to its last delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_last_receiver: Option<Latency>,
    /// Deliveries per read of a client.
    pub delivered_per_read: f64,
    /// Deliveries per TCP segment with data that the server sent: how well it coalesces, since on loopback a send of up to
    /// 64 KiB is one segment. Counted on the whole machine, less the generator's own; none of a server elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_per_segment: Option<f64>,
    /// For the plot of the latency: how many nines of the deliveries took at most how many microseconds.
    #[serde(skip)]
    pub(super) latency_curve: Vec<(f64, f64)>,
    /// The same of `broadcasts`.
    #[serde(skip)]
    pub(super) broadcasts_curve: Vec<(f64, f64)>,
    /// The rate in the course of time: at most 600 pieces of equal length.
    pub over_time: Vec<Sample>,
}

/// CPU time, in microseconds per something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// In user space, by the kernel's 10 ms ticks; none of a time that is too short for ticks to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_us: Option<f64>,
    /// In the kernel; none where `user_us` is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_us: Option<f64>,
    /// Both, to the nanosecond.
    pub total_us: f64,
}

/// What the server used.
#[derive(Clone, Debug, Serialize)]
pub struct ServerCost {
    /// CPU per delivered message; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_per_delivery: Option<Cpu>,
    /// Processors kept busy while messages were measured; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Voluntary context switches while messages were measured, or in `connect` during the logins.
    pub voluntary_switches: u64,
    /// The same, involuntary.
    pub involuntary_switches: u64,
    /// Private memory before the first connection.
    pub private_bytes_before: u64,
    /// Private memory with all logged in and idle.
    pub private_bytes_idle: u64,
    /// The difference, per connection; none of less than 1,000 connections, where the fixed part outweighs theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_bytes_per_connection: Option<f64>,
    /// What the kernel's objects grew by from before the first connection until all were idle, on the whole machine and
    /// with both ends if the server is on it, per connection; none where the kernel does not tell, and of
    /// less than 1,000 connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_slab_bytes_per_connection: Option<f64>,
    /// The same for TCP's buffers, part of which lies in those objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_tcp_bytes_per_connection: Option<f64>,
    /// Private memory after the messages; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_bytes_after: Option<u64>,
}

/// What the generator used while messages were measured, or while logging in.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratorCost {
    /// Its CPU per delivery or login.
    pub cpu_us: f64,
    /// Part of the time that it was on a processor.
    pub busy: f64,
    /// Part of the time that it wanted a processor and had none.
    pub waiting: f64,
    /// Whether it, not the server, set the pace.
    pub bottleneck: bool,
}

impl Cpu {
    pub(super) fn per(spent: &Spent, count: u64) -> Self {
        let total_us = micros_per(spent.cpu, count);
        Self {
            user_us: spent.user_share.map(|share| total_us * share),
            system_us: spent.user_share.map(|share| total_us * (1.0 - share)),
            total_us,
        }
    }
}

/// Microseconds of `time` per one of `count`; zero of none.
pub(super) fn micros_per(time: Duration, count: u64) -> f64 {
    if count == 0 { 0.0 } else { time.as_secs_f64() * 1e6 / count as f64 }
}

impl Report {
    /// Whether everything asked for happened, once and in order.
    pub fn is_sound(&self) -> bool {
        self.failures.is_empty()
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and structs with named fields always serialize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_per_message() {
        let spent = Spent { cpu: Duration::from_micros(800), user_share: Some(0.25), ..Spent::default() };
        let cpu = Cpu::per(&spent, 400);
        assert_eq!((cpu.user_us, cpu.system_us, cpu.total_us), (Some(0.5), Some(1.5), 2.0));
        let cpu = Cpu::per(&Spent { user_share: None, ..spent }, 400);
        assert_eq!((cpu.user_us, cpu.system_us, cpu.total_us), (None, None, 2.0));
        assert_eq!(Cpu::per(&spent, 0).total_us, 0.0);
    }
}
