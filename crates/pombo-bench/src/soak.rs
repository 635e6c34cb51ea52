//! The lines that a soak writes, and its verdict on the server's memory and descriptors.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::latency::Latency;
use super::ledger::Tally;
use super::numbers::{time, whole};
use super::process::Process;

/// Growth of memory below this does not count: buffers come and go.
const NOISE_BYTES: f64 = (1 << 20) as f64;

/// Readings that a slope is made of: at least, and at most, spread over all of them.
const READINGS: std::ops::RangeInclusive<usize> = 4..=300;

/// Files that a server may open beside its connections.
const SPARE_DESCRIPTORS: u64 = 16;

/// A soak's findings over time.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Soak {
    /// Connections that left and came back.
    pub visitors: u32,
    /// How often they did.
    pub visits: u64,
    /// One for each `--every`.
    pub lines: Vec<Minute>,
    /// What the server's private memory grows by in an hour; none without `--pid`, or if the run was too short to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_hour: Option<f64>,
    /// What it may grow by.
    pub growth_bytes_per_hour_max: u64,
    /// Files and sockets that the server had open once all were logged in; none without `--pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors_before: Option<u64>,
}

/// One line of a soak.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Minute {
    /// Its end, in seconds from where measuring began.
    pub at_seconds: f64,
    /// Deliveries a second in it.
    pub per_second: f64,
    /// Latency of the unicasts in it.
    pub latency: Latency,
    /// Faults so far.
    pub faults: u64,
    /// How often connections came back so far.
    pub visits: u64,
    /// The server's private memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_bytes: Option<u64>,
    /// Files and sockets that the server has open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
}

/// Writes the lines of one soak.
pub(super) struct Watch {
    every: Duration,
    /// When measuring began, and when the next line is due.
    began: Instant,
    next: Instant,
    /// Time and deliveries at the last line.
    last: (Instant, u64),
    soak: Soak,
}

impl Watch {
    pub(super) fn new(visitors: u32, every: Duration, growth_bytes_per_hour_max: u64) -> Self {
        let now = Instant::now();
        let soak = Soak {
            visitors,
            visits: 0,
            lines: Vec::new(),
            growth_bytes_per_hour: None,
            growth_bytes_per_hour_max,
            descriptors_before: None,
        };
        Self { every, began: now, next: now, last: (now, 0), soak }
    }

    /// Begins what is measured, at so many deliveries.
    pub(super) fn begin(&mut self, delivered: u64, process: Option<&Process>) {
        self.soak.descriptors_before = process.and_then(|process| process.descriptors().ok());
        self.began = Instant::now();
        (self.next, self.last) = (self.began + self.every, (self.began, delivered));
    }

    #[inline]
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Whether half of the time to the next line is over, so that one more is worth it.
    pub(super) fn has_news(&self) -> bool {
        self.next.saturating_duration_since(Instant::now()) < self.every / 2
    }

    /// Writes a line down, and returns it for people.
    pub(super) fn write(
        &mut self,
        lap: &Histogram<u64>,
        tally: Tally,
        visits: u64,
        process: Option<&Process>,
    ) -> String {
        let now = Instant::now();
        let seconds = (now - self.last.0).as_secs_f64().max(1e-9);
        let line = Minute {
            at_seconds: (now - self.began).as_secs_f64(),
            per_second: tally.delivered.saturating_sub(self.last.1) as f64 / seconds,
            latency: Latency::of(lap),
            faults: tally.faults(),
            visits,
            private_bytes: process.and_then(|process| process.private_bytes().ok()),
            descriptors: process.and_then(|process| process.descriptors().ok()),
        };
        self.last = (now, tally.delivered);
        // A line that is late does not bring the next one forward.
        self.next = now + self.every;
        let text = line.text();
        self.soak.visits = visits;
        self.soak.lines.push(line);
        text
    }

    /// Ends the soak: its findings, and why it failed.
    pub(super) fn end(mut self) -> (Soak, Vec<String>) {
        let readings: Vec<(f64, f64)> = self.soak.lines.iter().filter_map(Minute::memory).collect();
        let growth = growth(&readings);
        self.soak.growth_bytes_per_hour = growth.map(|growth| growth.per_second * 3600.0);
        let failures = self.soak.failures(growth);
        (self.soak, failures)
    }
}

impl Minute {
    fn memory(&self) -> Option<(f64, f64)> {
        Some((self.at_seconds, self.private_bytes? as f64))
    }

    /// The line for people.
    pub(super) fn text(&self) -> String {
        let Latency { p50_us, p99_us, max_us, .. } = self.latency;
        let mut text = format!(
            "{:>9}  {:>9} deliveries/s  p50 {:>9}  p99 {:>9}  max {:>9}  {} faults  {} came back",
            format!("{:.1} s", self.at_seconds),
            whole(self.per_second as u64),
            time(p50_us),
            time(p99_us),
            time(max_us),
            whole(self.faults),
            whole(self.visits),
        );
        if let Some((bytes, descriptors)) = self.private_bytes.zip(self.descriptors) {
            text += &format!("  {} KiB private  {} descriptors", whole(bytes / 1024), whole(descriptors));
        }
        text
    }
}

impl Soak {
    fn failures(&self, growth: Option<Growth>) -> Vec<String> {
        let mut failures = Vec::new();
        let max = self.growth_bytes_per_hour_max;
        if let Some(Growth { per_second, seconds }) = growth
            && per_second * seconds > NOISE_BYTES
            && per_second * 3600.0 > max as f64
        {
            failures.push(format!(
                "the server's private memory grows by {} bytes an hour, expected at most {}",
                whole((per_second * 3600.0) as u64),
                whole(max)
            ));
        }
        let last = self.lines.last().and_then(|line| line.descriptors);
        if let Some((before, last)) = self.descriptors_before.zip(last) {
            // Each visitor may have one connection that ends, and one that begins.
            let most = before + u64::from(self.visitors) + SPARE_DESCRIPTORS;
            if last > most {
                failures.push(format!(
                    "the server has {} descriptors open, expected at most {}: there were {} when all had logged in",
                    whole(last),
                    whole(most),
                    whole(before)
                ));
            }
        }
        failures
    }
}

/// How memory grows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Growth {
    per_second: f64,
    /// The time over which it was looked at.
    seconds: f64,
}

/// The median of all slopes between two readings (Theil and Sen), so that a few bursts do not count. The first quarter
/// of the readings is left out: a server first grows into its load. `None` if there are too few readings.
fn growth(readings: &[(f64, f64)]) -> Option<Growth> {
    let settled = &readings[readings.len() / 4..];
    if settled.len() < *READINGS.start() {
        return None;
    }
    let step = settled.len().div_ceil(*READINGS.end());
    let chosen: Vec<_> = settled.iter().rev().step_by(step).rev().copied().collect();
    let mut slopes = Vec::with_capacity(chosen.len() * chosen.len() / 2);
    for (index, &(earlier, before)) in chosen.iter().enumerate() {
        slopes.extend(chosen[index + 1..].iter().map(|&(later, after)| (after - before) / (later - earlier)));
    }
    slopes.retain(|slope| slope.is_finite());
    slopes.sort_by(f64::total_cmp);
    let per_second = *slopes.get(slopes.len() / 2)?;
    Some(Growth { per_second, seconds: chosen.last()?.0 - chosen.first()?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(count: u32, bytes: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..count).map(|minute| (f64::from(minute) * 60.0, bytes(f64::from(minute) * 60.0))).collect()
    }

    #[track_caller]
    fn check_growth(readings: &[(f64, f64)], expected: Option<f64>) {
        assert_eq!(growth(readings).map(|growth| growth.per_second), expected);
    }

    #[test]
    fn growth_is_a_median_of_slopes() {
        check_growth(&readings(4, |at| at), None);
        check_growth(&readings(6, |at| 7.0 + at * 2.0), Some(2.0));
        check_growth(&readings(2000, |at| at * 2.0), Some(2.0));
        check_growth(&readings(20, |_| 5e6), Some(0.0));
        check_growth(&readings(40, |at| if at == 1200.0 { 1e9 } else { 5e6 }), Some(0.0));
        // It grows into its load at first.
        check_growth(&readings(40, |at| at.min(500.0) * 1e6), Some(0.0));
        assert_eq!(growth(&readings(2000, |at| at)).map(|growth| growth.seconds > 80_000.0), Some(true));
    }

    /// Counts the faults of a soak with these readings and descriptors, whose memory may grow by 1 MiB an hour.
    #[track_caller]
    fn check(bytes: impl Fn(f64) -> f64, descriptors: [u64; 2], expected: &[&str]) {
        let mut watch = Watch::new(10, Duration::from_secs(60), 1 << 20);
        watch.soak.descriptors_before = Some(descriptors[0]);
        watch.soak.lines = readings(120, bytes)
            .into_iter()
            .map(|(at_seconds, bytes)| Minute {
                at_seconds,
                per_second: 0.0,
                latency: Latency::of(&super::super::latency::latency_histogram()),
                faults: 0,
                visits: 0,
                private_bytes: Some(bytes as u64),
                descriptors: Some(descriptors[1]),
            })
            .collect();
        assert_eq!(watch.end().1, expected);
    }

    #[test]
    fn what_grows_fails() {
        check(|_| 5e6, [1000, 1026], &[]);
        check(|at| 5e6 + at * 290.0, [1000, 1000], &[]);
        check(|at| 5e6 - at * 290.0, [1000, 10], &[]);
        let grows = "the server's private memory grows by 3,600,000 bytes an hour, expected at most 1,048,576";
        check(|at| 5e6 + at * 1000.0, [1000, 1000], &[grows]);
        let open =
            "the server has 1,027 descriptors open, expected at most 1,026: there were 1,000 when all had logged in";
        check(|_| 5e6, [1000, 1027], &[open]);
    }

    #[test]
    fn little_growth_in_a_short_time_is_noise() {
        let soak = Watch::new(0, Duration::from_secs(1), 1).soak;
        assert_eq!(soak.failures(Some(Growth { per_second: 1e6, seconds: 1.0 })), Vec::<String>::new());
        assert_eq!(soak.failures(Some(Growth { per_second: 1e6, seconds: 2.0 })).len(), 1);
    }
}
