//! What the node counts, in the form that Prometheus scrapes: summed over the shards, but for what tells shards apart.
//!
//! Nothing is kept for it. A scrape asks each shard, which answers amid its turn; the message path writes no shared line.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::frame::close;
use crate::metrics::{Histogram, Metric, Stats};

/// How the answer is marked.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a scrape found.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    /// What each shard has counted, in their order.
    pub(super) shards: Vec<Stats>,
    /// What the hook has counted.
    pub(super) hook: Stats,
    /// Connections open now, logged in or not.
    pub(super) connections: u64,
    /// Each reason to refuse a connection before it is a session, and how often it was.
    pub(super) refusals: Vec<(&'static str, u64)>,
}

impl Scrape {
    /// Writes it all.
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
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        describe(encoder, "pombo_build", "Version that runs", MetricType::Info)?.encode_info(&version)?;
        self.encode_sums(encoder)?;
        self.encode_closes(encoder)?;
        let mut refusals =
            describe(encoder, "pombo_refusals", "Connections refused before they were sessions", MetricType::Counter)?;
        for (reason, count) in &self.refusals {
            counter(&mut refusals.encode_family(&[("reason", *reason)])?, *count)?;
        }
        describe(encoder, "pombo_connections", "Connections open now, logged in or not", MetricType::Gauge)?
            .encode_gauge(&self.connections)?;
        self.encode_shards(encoder)?;
        encode_process(encoder)
    }
}

impl Scrape {
    fn encode_sums(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sum = self.hook;
        self.shards.iter().for_each(|stats| sum.add(stats));
        for (place, first) in Stats::ALL.iter().enumerate() {
            if Stats::ALL[..place].iter().any(|earlier| earlier.family == first.family) {
                continue;
            }
            let kind = if first.is_gauge { MetricType::Gauge } else { MetricType::Counter };
            let mut family = describe(encoder, first.family, help(first), kind)?;
            for metric in Stats::ALL.iter().filter(|metric| metric.family == first.family) {
                let value = (metric.read)(&sum);
                match metric.label {
                    Some(label) => counter(&mut family.encode_family(&[label])?, value)?,
                    None if metric.is_gauge => family.encode_gauge(&value)?,
                    None => counter(&mut family, value)?,
                }
            }
        }
        Ok(())
    }

    fn encode_closes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = describe(encoder, "pombo_closes", "Sessions closed, by close code", MetricType::Counter)?;
        let codes = close::ALL.iter().map(|(code, _, _)| code.to_string()).chain(["other".to_owned()]);
        for (place, code) in codes.enumerate() {
            let count: u64 = self.shards.iter().map(|stats| stats.closes[place]).sum();
            counter(&mut family.encode_family(&[("code", code)])?, count)?;
        }
        Ok(())
    }

    fn encode_shards(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = describe(encoder, "pombo_shard_sessions", "Sessions of a shard now", MetricType::Gauge)?;
        for (shard, stats) in self.shards.iter().enumerate() {
            family.encode_family(&[("shard", shard)])?.encode_gauge(&stats.sessions)?;
        }
        let help = "Bytes of mail that a shard has in hand for others now";
        let mut family = describe(encoder, "pombo_shard_mail_bytes", help, MetricType::Gauge)?;
        for (shard, stats) in self.shards.iter().enumerate() {
            family.encode_family(&[("shard", shard)])?.encode_gauge(&stats.mail_bytes)?;
        }
        let help = "How long the turns of a shard took, without the wait in front of each";
        let mut family = describe(encoder, "pombo_shard_turn_seconds", help, MetricType::Histogram)?;
        for (shard, Stats { turn_time, .. }) in self.shards.iter().enumerate() {
            let labels = [("shard", shard)];
            let mut histogram = family.encode_family(&labels)?;
            let sum = turn_time.sum_ns as f64 / 1e9;
            histogram.encode_histogram::<NoLabelSet>(sum, turn_time.count(), &buckets(turn_time), None)?;
        }
        Ok(())
    }
}

/// The kernel's figures of the process, under the names that all exporters use for them.
#[cfg(target_os = "linux")]
fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    // Not there in a container without /proc: then they are absent, and the rest is told.
    let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
    if let Ok(stat) = process.stat() {
        let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        counter(&mut describe(encoder, "process_cpu_seconds", "CPU time used", MetricType::Counter)?, seconds)?;
        let resident = stat.rss * procfs::page_size();
        describe(encoder, "process_resident_memory_bytes", "Resident memory", MetricType::Gauge)?
            .encode_gauge(&resident)?;
        let threads = stat.num_threads;
        describe(encoder, "process_threads", "Threads", MetricType::Gauge)?.encode_gauge(&threads)?;
    }
    if let Ok(open) = process.fd_count() {
        describe(encoder, "process_open_fds", "Open file descriptors", MetricType::Gauge)?.encode_gauge(&open)?;
    }
    if let Some(most) = descriptors_max() {
        describe(encoder, "process_max_fds", "Most open file descriptors", MetricType::Gauge)?.encode_gauge(&most)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn encode_process(_: &mut DescriptorEncoder<'_>) -> fmt::Result {
    Ok(())
}

/// Returns how many descriptors the process may have; `None` when there is no bound.
fn descriptors_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn describe<'s>(
    encoder: &'s mut DescriptorEncoder<'_>,
    name: &'s str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn counter(
    encoder: &mut MetricEncoder<'_>,
    value: impl prometheus_client::encoding::EncodeCounterValue,
) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// A family of several counts is told by its own sentence.
fn help(metric: &Metric) -> &'static str {
    const FAMILIES: &[(&str, &str)] = &[
        ("pombo_logins", "Logins that reached a shard, by outcome"),
        ("pombo_deliveries", "Messages accepted for one session, by how they were sent"),
        ("pombo_client_errors", "Messages of clients answered with an error, by reason"),
        ("pombo_shed", "Messages dropped, by reason"),
        ("pombo_hook_events", "Events for the service of the hook, by what became of them"),
    ];
    let of_family = FAMILIES.iter().find(|(family, _)| *family == metric.family);
    of_family.map_or(metric.help.trim().trim_end_matches('.'), |(_, help)| help)
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

    #[test]
    fn every_count_is_told_with_its_sum() {
        let mut stats = Stats { logins: 2, shed_newest: 3, ..Stats::default() };
        stats.count_close(close::SLOW_CONSUMER);
        stats.turn_time.note(Duration::from_micros(5));
        let scrape =
            Scrape { shards: vec![stats, stats], hook: Stats::default(), connections: 7, refusals: vec![("full", 9)] };
        let text = scrape.text();
        for line in [
            "pombo_logins_total{outcome=\"accepted\"} 4",
            "pombo_shed_total{reason=\"newest\"} 6",
            "pombo_closes_total{code=\"4008\"} 2",
            "pombo_closes_total{code=\"other\"} 0",
            "pombo_refusals_total{reason=\"full\"} 9",
            "pombo_connections 7",
            "pombo_shard_turn_seconds_count{shard=\"1\"} 1",
            "pombo_shard_turn_seconds_bucket{le=\"0.000016384\",shard=\"0\"} 1",
            "pombo_shard_turn_seconds_bucket{le=\"+Inf\",shard=\"0\"} 1",
            "# TYPE pombo_sessions gauge",
            "# EOF",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
        }
        for metric in Stats::ALL {
            assert!(text.contains(&format!("# HELP {} ", metric.family)), "{}", metric.family);
        }
    }

    #[test]
    fn families_of_several_counts_have_a_sentence() {
        for metric in Stats::ALL.iter().filter(|metric| metric.label.is_some()) {
            assert_ne!(help(metric), metric.help.trim().trim_end_matches('.'), "{}", metric.family);
        }
    }
}
