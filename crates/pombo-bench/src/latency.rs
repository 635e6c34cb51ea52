//! Latency: its histogram, and the figures of a report.

use hdrhistogram::Histogram;
use serde::Serialize;

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

/// An empty histogram of nanoseconds, up to ten minutes, to three digits.
pub(super) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are in range")
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
