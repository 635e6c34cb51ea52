//! A report for a terminal: rows of a name and its figures.

use std::fmt::{self, Write as _};

use super::super::numbers::{time, whole};
use super::{Cpu, GeneratorCost, Latency, Messages, Placement, Report, ServerCost, Soak, Tally};

impl fmt::Display for Report {
    /// Writes an aligned table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().into_iter().try_for_each(|(name, value)| writeln!(f, "{name:<24}{value}"))
    }
}

impl Report {
    /// Each row's name and text.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut table = Table::default();
        table.row("scenario", self.scenario_text());
        table.row("server", self.server.clone());
        table.row("uids", format!("{} and a number", self.uid_prefix));
        let logins = &self.logins;
        let rate = format!(
            "{} in {:.2} s, {} a second",
            whole(self.parameters.connections.into()),
            logins.seconds,
            whole(logins.per_second as u64)
        );
        table.row("logins", rate);
        table.latency("login latency", &logins.latency);
        if let Some(cpu) = &logins.server_cpu_us {
            table.cpu("server CPU per login", cpu);
        }
        if let Some(messages) = &self.messages {
            messages.rows(&mut table);
        }
        if let Some(cost) = &self.server_cost {
            cost.rows(&mut table);
        }
        if let Some(soak) = &self.soak {
            soak.rows(&mut table);
        }
        table.row("generator", self.generator.text(self.messages.is_some()));
        if let Some(tally) = &self.tally {
            let (sent, owed, made) = (whole(tally.sent), whole(tally.owed), whole(tally.delivered));
            table.row("messages", format!("{sent} sent, {owed} deliveries owed, {made} made"));
            table.row("faults", tally.faults_text());
        }
        if self.generator.bottleneck {
            table.row("note", "the generator was the bottleneck: the server could have done more".into());
        }
        for failure in &self.failures {
            table.row("FAILED", failure.clone());
        }
        table.rows
    }
}

impl Report {
    fn scenario_text(&self) -> String {
        let parameters = &self.parameters;
        let mut text = format!("{}, {} connections", self.scenario, whole(parameters.connections.into()));
        if let Some((active, idle)) = parameters.active.zip(parameters.idle) {
            let _ = write!(text, ", {} active, {} idle", whole(active.into()), whole(idle.into()));
        }
        if let Some(visitors) = parameters.visitors {
            let _ = write!(text, ", {} come and go", whole(visitors.into()));
        }
        if let Some(broadcasts) = parameters.broadcasts_per_second {
            let _ = write!(text, ", {} broadcasts a second", whole(broadcasts.into()));
        }
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
        if let Some(shards) = parameters.in_process {
            let _ = write!(text, ", {shards} shards in this process");
        }
        match parameters.placement {
            Some(Placement::Same) => text.push_str(", pairs on the same shard"),
            Some(Placement::Cross) => text.push_str(", pairs across shards"),
            None => {}
        }
        if let Some(fan_out) = parameters.fan_out {
            let _ = write!(text, ", fan-out {fan_out}");
        }
        text
    }
}

impl Messages {
    fn rows(&self, table: &mut Table) {
        let rate = whole(self.delivered_per_second as u64);
        table.row("delivered", format!("{} in {:.2} s, {rate} a second", whole(self.delivered), self.seconds));
        table.latency(if self.broadcasts.is_some() { "latency of unicasts" } else { "latency" }, &self.latency);
        if let Some(late) = &self.late {
            table.latency("of it in the generator", late);
        }
        if let Some(latency) = &self.broadcasts {
            table.latency("latency of broadcasts", latency);
        }
        if let Some(latency) = &self.to_last_receiver {
            table.latency("to the last receiver", latency);
        }
        let mut frames = format!("{:.1} per read of a client", self.delivered_per_read);
        if let Some(per_segment) = self.delivered_per_segment {
            let _ = write!(frames, ", {per_segment:.1} per segment that the server sent");
        }
        table.row("deliveries", frames);
    }
}

impl Soak {
    fn rows(&self, table: &mut Table) {
        table.row("came back", format!("{} times", whole(self.visits)));
        let growth = self.growth_bytes_per_hour.map_or_else(
            || {
                let is_watched = self.descriptors_before.is_some();
                let why = if is_watched { "the run was too short to tell" } else { "it needs --pid" };
                format!("not known: {why}")
            },
            |growth| {
                let (sign, size) = (if growth < 0.0 { "−" } else { "" }, whole(growth.abs() as u64));
                format!("{sign}{size} bytes an hour, at most {}", whole(self.growth_bytes_per_hour_max))
            },
        );
        table.row("private memory's growth", growth);
        let last = self.lines.last().and_then(|line| line.descriptors);
        if let Some((before, last)) = self.descriptors_before.zip(last) {
            table.row("descriptors", format!("{} with all logged in, {} at the end", whole(before), whole(last)));
        }
    }
}

impl ServerCost {
    fn rows(&self, table: &mut Table) {
        if let Some(cpu) = &self.cpu_per_delivery {
            table.cpu("server CPU per delivery", cpu);
        }
        if let Some(cores) = self.cores {
            table.row("server's cores in use", format!("{cores:.2}"));
        }
        let switches =
            format!("{} voluntary, {} involuntary", whole(self.voluntary_switches), whole(self.involuntary_switches));
        table.row("context switches", switches);
        let mut memory = self
            .private_bytes_per_connection
            .map_or_else(String::new, |bytes| format!("{} bytes a connection: ", whole(bytes.max(0.0).round() as u64)));
        let [before, idle] = [self.private_bytes_before, self.private_bytes_idle].map(|bytes| whole(bytes / 1024));
        let _ = write!(memory, "{before} KiB before, {idle} KiB idle");
        table.row("private memory", memory);
        if let Some((slab, tcp)) = self.kernel_slab_bytes_per_connection.zip(self.kernel_tcp_bytes_per_connection) {
            let memory = format!(
                "{slab:.0} bytes of slab a connection, {tcp:.0} of TCP's buffers: of the whole machine, both ends"
            );
            table.row("kernel's memory", memory);
        }
        if let Some(after) = self.private_bytes_after {
            table.row("", format!("{} KiB after the messages", whole(after / 1024)));
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
    pub(in super::super) fn faults_text(&self) -> String {
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
    rows: Vec<(&'static str, String)>,
}

impl Table {
    fn row(&mut self, name: &'static str, value: String) {
        self.rows.push((name, value));
    }

    fn latency(&mut self, name: &'static str, latency: &Latency) {
        let Latency { p50_us, p90_us, p99_us, p99_9_us, max_us } = latency;
        let value = format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            time(*p50_us),
            time(*p90_us),
            time(*p99_us),
            time(*p99_9_us),
            time(*max_us)
        );
        self.row(name, value);
    }

    fn cpu(&mut self, name: &'static str, cpu: &Cpu) {
        let Cpu { user_us, system_us, total_us } = cpu;
        let mut text = format!("{total_us:.3} µs");
        if let Some((user, system)) = user_us.zip(*system_us) {
            let _ = write!(text, ": user {user:.3}, system {system:.3}");
        }
        self.row(name, text);
    }
}
