//! Writes the node's counts as Prometheus metrics: sums over the shards, except for metrics that have a label for the shard.
//!
//! Nothing is stored for it. A scrape asks each shard, which answers within its turn. So the message path writes to no cache
//! line that threads share.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::process::Figures;
use crate::frame::close;
use crate::metrics::{FAMILIES, FamilyKind, Histogram, Metric, NodeCounts, Stats};

/// `Content-Type` of the answer.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Reads one count of a shard.
type Read<T> = fn(&Stats) -> T;

/// All that one scrape writes.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    /// The counts of each shard, in order.
    pub(super) shards: Vec<Stats>,
    /// The counts that are not a shard's.
    pub(super) own: NodeCounts,
    /// Connections open now, logged in or not, and their bound.
    pub(super) connections: u64,
    pub(super) connections_max: u64,
    /// Each limit on the connections, and how many it allows.
    pub(super) connection_limits: Vec<(&'static str, u64)>,
    /// The bound of the memory of all sessions.
    pub(super) memory_bytes_max: u64,
    /// The kernel's figures of the process.
    pub(super) process: Figures,
    /// Listeners that can't accept now.
    pub(super) starved_listeners: u64,
    /// Lines of the log that were dropped.
    pub(super) log_lines_dropped: u64,
    /// Each problem of the API, and the number of answers with it.
    pub(super) problems: Vec<(&'static str, u64)>,
    /// Each reason for refusing a connection before it is a session, and the number of such refusals.
    pub(super) refusals: Vec<(&'static str, u64)>,
}

impl Scrape {
    /// Writes all metrics as text.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut answer = String::new();
        text::encode(&mut answer, &registry).expect("a String takes all");
        answer
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("BUILD_REVISION"));
        let build = [("version", version), ("revision", revision), ("features", env!("BUILD_FEATURES"))];
        describe(encoder, "pombo_build")?.encode_info(&build)?;
        self.encode_sums(encoder)?;
        self.encode_closes(encoder)?;
        for (name, label, counts) in
            [("pombo_refusals", "reason", &self.refusals), ("pombo_api_problems", "problem", &self.problems)]
        {
            let mut family = describe(encoder, name)?;
            for (value, count) in counts {
                counter(&mut family.encode_family(&[(label, *value)])?, *count)?;
            }
        }
        let mut limits = describe(encoder, "pombo_connections_limit")?;
        for (limit, connections) in &self.connection_limits {
            limits.encode_family(&[("by", *limit)])?.encode_gauge(connections)?;
        }
        for (name, value) in [
            ("pombo_connections", self.connections),
            ("pombo_connections_max", self.connections_max),
            ("pombo_memory_max_bytes", self.memory_bytes_max),
            ("pombo_starved_listeners", self.starved_listeners),
        ] {
            describe(encoder, name)?.encode_gauge(&value)?;
        }
        counter(&mut describe(encoder, "pombo_log_lines_dropped")?, self.log_lines_dropped)?;
        histogram(&mut describe(encoder, "pombo_push_seconds")?, &self.own.push_time)?;
        self.encode_shards(encoder)?;
        encode_process(encoder, &self.process)
    }
}

impl Scrape {
    fn encode_sums(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sum = Stats::default();
        self.shards.iter().for_each(|stats| sum.add(stats));
        let shards = Stats::ALL.iter().map(|metric| Count::new(metric, &sum));
        let counts: Vec<_> = shards.chain(NodeCounts::ALL.iter().map(|metric| Count::new(metric, &self.own))).collect();
        for (place, first) in counts.iter().enumerate() {
            if counts[..place].iter().any(|earlier| earlier.family == first.family) {
                continue;
            }
            let kind = if first.is_gauge { MetricType::Gauge } else { MetricType::Counter };
            let mut family = encoder.encode_descriptor(first.family, first.help(), None, kind)?;
            for count in counts.iter().filter(|count| count.family == first.family) {
                match count.label {
                    Some(label) => counter(&mut family.encode_family(&[label])?, count.value)?,
                    None if count.is_gauge => family.encode_gauge(&count.value)?,
                    None => counter(&mut family, count.value)?,
                }
            }
        }
        Ok(())
    }

    fn encode_closes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = describe(encoder, "pombo_closes")?;
        let codes = close::ALL.iter().map(|(code, _, _)| code.to_string()).chain(["other".to_owned()]);
        for (place, code) in codes.enumerate() {
            let count: u64 = self.shards.iter().map(|stats| stats.closes[place]).sum();
            counter(&mut family.encode_family(&[("code", code)])?, count)?;
        }
        Ok(())
    }

    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauges: [(_, Read<u64>); 3] = [
            ("pombo_shard_sessions", |stats| stats.sessions),
            ("pombo_shard_mail_bytes", |stats| stats.mail_bytes),
            ("pombo_shard_mailbox_batches", |stats| stats.mailbox_batches),
        ];
        for (name, read) in gauges {
            let mut family = describe(encoder, name)?;
            for (shard, stats) in self.shards.iter().enumerate() {
                family.encode_family(&[("shard", shard)])?.encode_gauge(&read(stats))?;
            }
        }
        let histograms: [(_, Read<Histogram>); 2] = [
            ("pombo_shard_turn_seconds", |stats| stats.turn_time),
            ("pombo_shard_mail_wait_seconds", |stats| stats.mail_wait),
        ];
        for (name, read) in histograms {
            let mut family = describe(encoder, name)?;
            for (shard, stats) in self.shards.iter().enumerate() {
                histogram(&mut family.encode_family(&[("shard", shard)])?, &read(stats))?;
            }
        }
        Ok(())
    }
}

/// The kernel's figures of the process, under the names that all exporters use for them.
fn encode_process(encoder: &mut DescriptorEncoder<'_>, figures: &Figures) -> fmt::Result {
    if let Some(seconds) = figures.cpu_seconds {
        counter(&mut describe(encoder, "process_cpu_seconds")?, seconds)?;
    }
    if let Some(seconds) = figures.start_seconds {
        describe(encoder, "process_start_time_seconds")?.encode_gauge(&seconds)?;
    }
    if let Some(threads) = figures.threads {
        describe(encoder, "process_threads")?.encode_gauge(&threads)?;
    }
    for (name, figure) in [
        ("process_resident_memory_bytes", figures.resident_bytes),
        ("process_virtual_memory_bytes", figures.virtual_bytes),
        ("process_open_fds", figures.open_descriptors),
        ("process_max_fds", figures.descriptors_max),
    ] {
        if let Some(figure) = figure {
            describe(encoder, name)?.encode_gauge(&figure)?;
        }
    }
    Ok(())
}

/// Begins one of [`FAMILIES`].
fn describe<'s>(encoder: &'s mut DescriptorEncoder<'_>, name: &'static str) -> Result<MetricEncoder<'s>, fmt::Error> {
    let family =
        FAMILIES.iter().find(|family| family.name == name).expect("every family that is written is in the table");
    let kind = match family.kind {
        FamilyKind::Counter => MetricType::Counter,
        FamilyKind::Gauge => MetricType::Gauge,
        FamilyKind::Histogram => MetricType::Histogram,
        FamilyKind::Info => MetricType::Info,
    };
    encoder.encode_descriptor(family.name, family.help, None, kind)
}

fn histogram(encoder: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
    let sum = histogram.sum_ns as f64 / 1e9;
    encoder.encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets(histogram), None)
}

fn counter(
    encoder: &mut MetricEncoder<'_>,
    value: impl prometheus_client::encoding::EncodeCounterValue,
) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// A count of the shards or of the node, with what it is now.
struct Count {
    family: &'static str,
    label: Option<(&'static str, &'static str)>,
    help: &'static str,
    is_gauge: bool,
    value: u64,
}

impl Count {
    fn new<C>(metric: &Metric<C>, counts: &C) -> Self {
        let Metric { family, label, help, is_gauge, read, .. } = *metric;
        Self { family, label, help, is_gauge, value: read(counts) }
    }

    /// A family of several counts has a help text of its own.
    fn help(&self) -> &'static str {
        const FAMILIES: &[(&str, &str)] = &[
            ("pombo_logins", "Logins that reached a shard, by outcome"),
            ("pombo_deliveries", "Messages accepted for one session, by how they were sent"),
            ("pombo_broadcasts", "Broadcasts, once each, by who sent them"),
            ("pombo_client_errors", "Messages of clients answered with an error, by reason"),
            ("pombo_shed", "Messages dropped, by reason"),
            ("pombo_hook_events", "Events for the service of the hook, by what became of them"),
            ("pombo_pushes", "Messages of other programs to one uid each, by what became of them"),
        ];
        let of_family = FAMILIES.iter().find(|(family, _)| *family == self.family);
        of_family.map_or(self.help.trim().trim_end_matches('.'), |(_, help)| help)
    }
}

/// Upper bounds in seconds, with how many took up to each and longer than the bound before.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = Histogram::BOUNDS.iter().map(|&ns| ns as f64 / 1e9).chain([f64::INFINITY]);
    bounds.zip(histogram.counts).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::process::Process;

    #[test]
    fn every_count_is_told_with_its_sum() {
        let mut stats = Stats { logins: 2, shed_newest: 3, ..Stats::default() };
        stats.count_close(close::SLOW_CONSUMER);
        stats.turn_time.note(Duration::from_micros(5));
        let own = NodeCounts { pushes_shed: 5, broadcasts_pushed: 6, ..NodeCounts::default() };
        let scrape = Scrape {
            shards: vec![stats, stats],
            own,
            connections: 7,
            refusals: vec![("full", 9)],
            problems: vec![("uid", 8)],
            process: Process::open().figures(),
            log_lines_dropped: 6,
            ..Scrape::default()
        };
        let text = scrape.text();
        for line in [
            "pombo_logins_total{outcome=\"accepted\"} 4",
            "pombo_shed_total{reason=\"newest\"} 6",
            "pombo_closes_total{code=\"4008\"} 2",
            "pombo_closes_total{code=\"other\"} 0",
            "pombo_refusals_total{reason=\"full\"} 9",
            "pombo_api_problems_total{problem=\"uid\"} 8",
            "pombo_pushes_total{outcome=\"shed\"} 5",
            "pombo_broadcasts_total{sender=\"program\"} 6",
            "pombo_broadcasts_total{sender=\"client\"} 0",
            "pombo_connections 7",
            "pombo_log_lines_dropped_total 6",
            "pombo_shard_turn_seconds_count{shard=\"1\"} 1",
            "pombo_shard_turn_seconds_bucket{le=\"0.000016384\",shard=\"0\"} 1",
            "pombo_shard_turn_seconds_bucket{le=\"+Inf\",shard=\"0\"} 1",
            "# TYPE pombo_sessions gauge",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let families = Stats::ALL.iter().map(|metric| metric.family);
        for family in families.chain(NodeCounts::ALL.iter().map(|metric| metric.family)) {
            assert_eq!(text.matches(&format!("# HELP {family} ")).count(), 1, "{family}");
        }
        for family in FAMILIES {
            assert!(text.contains(&format!("# HELP {} ", family.name)), "{}", family.name);
        }
    }

    #[test]
    fn families_of_several_counts_have_a_sentence() {
        let (stats, own) = (Stats::default(), NodeCounts::default());
        let shards = Stats::ALL.iter().map(|metric| Count::new(metric, &stats));
        for count in shards.chain(NodeCounts::ALL.iter().map(|metric| Count::new(metric, &own))) {
            let is_its_own = count.help() == count.help.trim().trim_end_matches('.');
            assert_ne!(is_its_own, count.label.is_some(), "{}", count.family);
        }
    }
}
