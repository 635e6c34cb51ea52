//! What a run found, as a table for people and as one JSON object.
//!
//! Times are in microseconds and sizes in bytes, named so. Nothing here measures.

use std::fmt::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ledger::Tally;
use super::process::Spent;
use super::progress::Sample;
use super::traffic::Targets;

/// What a run found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// `connect`, `unicast` or `broadcast`.
    pub scenario: &'static str,
    /// The server's address.
    pub server: String,
    /// What was asked for.
    pub parameters: Parameters,
    /// How the connections came in.
    pub logins: Logins,
    /// What became of the messages, warm-up included; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tally: Option<Tally>,
    /// What was measured of the messages, warm-up apart; none in `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// The server's cost, if its process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cost: Option<ServerCost>,
    /// The generator's own cost.
    pub generator: GeneratorCost,
    /// Why the run failed, one sentence each; empty if it did not.
    pub failures: Vec<String>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// Connections opened.
    pub connections: u32,
    /// Connections that were under way at the same time while logging in.
    pub connecting: u32,
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

/// What was measured of the messages.
#[derive(Clone, Debug, Serialize)]
pub struct Messages {
    /// How long it was measured.
    pub seconds: f64,
    /// Deliveries in that time.
    pub delivered: u64,
    /// Deliveries a second.
    pub delivered_per_second: f64,
    /// From when a message was due to its delivery.
    pub latency: Latency,
    /// From when a message was due to when the generator took it up: part of `latency`; at a fixed rate only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Latency>,
    /// From when a broadcast was due to its last delivery; in `broadcast` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_last_receiver: Option<Latency>,
    /// Deliveries per read of a client: how well the server coalesces.
    pub delivered_per_read: f64,
    /// For the plot of the latency: how many nines of the deliveries took at most how many microseconds.
    #[serde(skip)]
    pub(super) latency_curve: Vec<(f64, f64)>,
    /// The rate in the course of time: at most 600 pieces of equal length.
    pub over_time: Vec<Sample>,
}

/// A distribution of times, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// The median.
    pub p50_us: f64,
    /// 90 % are below.
    pub p90_us: f64,
    /// 99 % are below.
    pub p99_us: f64,
    /// 99.9 % are below.
    pub p99_9_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// CPU time, in microseconds per something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cpu {
    /// In user space; the split from the kernel's 10 ms ticks.
    pub user_us: f64,
    /// In the kernel.
    pub system_us: f64,
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
    /// The difference, per connection.
    pub private_bytes_per_connection: f64,
    /// What the kernel's objects grew by from before the first connection until all were idle, on the whole machine and
    /// with both ends if the server is on it, per connection; none where the kernel does not tell.
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

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let us = |nanos: u64| nanos as f64 / 1000.0;
        Self {
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p99_9_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        }
    }
}

/// Points of a latency's distribution, at tenths of a nine: 1 is 90 %, 2 is 99 %; no further than there are values for.
pub(super) fn latency_curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let nines_max = (histogram.len().max(1) as f64).log10().min(4.0);
    (0..=40)
        .map(|tenths| f64::from(tenths) / 10.0)
        .take_while(|nines| *nines <= nines_max)
        .filter(|_| !histogram.is_empty())
        .map(|nines| (nines, histogram.value_at_quantile(1.0 - 0.1_f64.powf(nines)) as f64 / 1000.0))
        .collect()
}

impl Cpu {
    pub(super) fn per(spent: &Spent, count: u64) -> Self {
        let total_us = micros_per(spent.cpu, count);
        Self { user_us: total_us * spent.user_share, system_us: total_us * (1.0 - spent.user_share), total_us }
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

impl fmt::Display for Report {
    /// Writes an aligned table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        table.row("scenario", &self.scenario_text());
        table.row("server", &self.server);
        let logins = &self.logins;
        let rate = format!(
            "{} in {:.2} s, {} a second",
            whole(self.parameters.connections.into()),
            logins.seconds,
            whole(logins.per_second as u64)
        );
        table.row("logins", &rate);
        table.latency("login latency", &logins.latency);
        if let Some(cpu) = &logins.server_cpu_us {
            table.cpu("server CPU per login", cpu);
        }
        if let Some(messages) = &self.messages {
            let rate = format!(
                "{} in {:.2} s, {} a second",
                whole(messages.delivered),
                messages.seconds,
                whole(messages.delivered_per_second as u64)
            );
            table.row("delivered", &rate);
            table.latency("latency", &messages.latency);
            if let Some(late) = &messages.late {
                table.latency("of it in the generator", late);
            }
            if let Some(latency) = &messages.to_last_receiver {
                table.latency("to the last receiver", latency);
            }
            table.row("deliveries per read", &format!("{:.1}", messages.delivered_per_read));
        }
        if let Some(cost) = &self.server_cost {
            cost.rows(&mut table);
        }
        table.row("generator", &self.generator.text(self.messages.is_some()));
        if let Some(tally) = &self.tally {
            table.row(
                "messages",
                &format!(
                    "{} sent, {} deliveries owed, {} made",
                    whole(tally.sent),
                    whole(tally.owed),
                    whole(tally.delivered)
                ),
            );
            table.row("faults", &tally.faults_text());
        }
        if self.generator.bottleneck {
            table.row("note", "the generator was the bottleneck: the server could have done more");
        }
        for failure in &self.failures {
            table.row("FAILED", failure);
        }
        f.write_str(&table.text)
    }
}

impl Report {
    fn scenario_text(&self) -> String {
        let parameters = &self.parameters;
        let mut text = format!("{}, {} connections", self.scenario, whole(parameters.connections.into()));
        if let Some(window) = parameters.window {
            let _ = write!(text, ", window {window}");
        }
        if let Some(rate) = parameters.rate {
            let _ = write!(text, ", {} messages a second", whole(rate.into()));
        }
        if let (Some(size), Some(kind)) = (parameters.size, parameters.kind) {
            let _ = write!(text, ", {size} bytes {kind}");
        }
        if let Some(targets) = parameters.targets {
            let name = clap::ValueEnum::to_possible_value(&targets).map(|value| value.get_name().to_owned());
            let _ = write!(text, ", targets {}", name.unwrap_or_default());
        }
        text
    }
}

impl ServerCost {
    fn rows(&self, table: &mut Table) {
        if let Some(cpu) = &self.cpu_per_delivery {
            table.cpu("server CPU per delivery", cpu);
        }
        if let Some(cores) = self.cores {
            table.row("server's cores in use", &format!("{cores:.2}"));
        }
        let switches =
            format!("{} voluntary, {} involuntary", whole(self.voluntary_switches), whole(self.involuntary_switches));
        table.row("context switches", &switches);
        let memory = format!(
            "{} bytes a connection: {} KiB before, {} KiB idle",
            whole(self.private_bytes_per_connection.max(0.0).round() as u64),
            whole(self.private_bytes_before / 1024),
            whole(self.private_bytes_idle / 1024)
        );
        table.row("private memory", &memory);
        if let Some((slab, tcp)) = self.kernel_slab_bytes_per_connection.zip(self.kernel_tcp_bytes_per_connection) {
            let memory = format!(
                "{slab:.0} bytes of slab a connection, {tcp:.0} of TCP's buffers: of the whole machine, both ends"
            );
            table.row("kernel's memory", &memory);
        }
        if let Some(after) = self.private_bytes_after {
            table.row("", &format!("{} KiB after the messages", whole(after / 1024)));
        }
    }
}

impl GeneratorCost {
    fn text(&self, messages: bool) -> String {
        let of = if messages { "delivery" } else { "login" };
        format!(
            "{:.2} µs CPU per {of}, busy {:.0} % of the time, without a processor {:.0} %",
            self.cpu_us,
            self.busy * 100.0,
            self.waiting * 100.0
        )
    }
}

impl Tally {
    pub(super) fn faults_text(&self) -> String {
        if self.faults() == 0 {
            return "none: nothing lost, duplicated, misdelivered, reordered or damaged".into();
        }
        format!(
            "{} lost, {} duplicated, {} misdelivered, {} reordered, {} damaged, {} connections ended",
            self.lost, self.duplicated, self.misdelivered, self.reordered, self.damaged, self.closed
        )
    }
}

/// Rows of a name and what belongs to it, in two columns.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "{name:<24}{value}");
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        let Latency { p50_us, p90_us, p99_us, p99_9_us, max_us } = latency;
        let value = format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            time(*p50_us),
            time(*p90_us),
            time(*p99_us),
            time(*p99_9_us),
            time(*max_us)
        );
        self.row(name, &value);
    }

    fn cpu(&mut self, name: &str, cpu: &Cpu) {
        let Cpu { user_us, system_us, total_us } = cpu;
        self.row(name, &format!("{total_us:.3} µs: user {user_us:.3}, system {system_us:.3}"));
    }
}

/// A time in the unit that suits it.
pub(super) fn time(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us:.1} µs"),
        ..1_000_000.0 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A whole number, its thousands apart.
pub(super) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567"), (100000, "100,000")] {
            assert_eq!(whole(number), text);
        }
        for (us, text) in [(0.0, "0.0 µs"), (999.94, "999.9 µs"), (1500.0, "1.50 ms"), (2_500_000.0, "2.50 s")] {
            assert_eq!(time(us), text);
        }
    }

    #[test]
    fn costs_per_message() {
        let spent = Spent { cpu: Duration::from_micros(800), user_share: 0.25, ..Spent::default() };
        let cpu = Cpu::per(&spent, 400);
        assert_eq!((cpu.user_us, cpu.system_us, cpu.total_us), (0.5, 1.5, 2.0));
        assert_eq!(Cpu::per(&spent, 0).total_us, 0.0);
    }
}
