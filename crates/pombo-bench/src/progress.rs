//! The progress of a run: the rate over time, kept for the report, and a bar on a terminal.
//!
//! The generator's thread calls it after each turn. It reads the clock, and ten times a second it takes a sample and draws:
//! drawing costs too little to show in a latency, and without a terminal nothing is drawn.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::numbers::whole;

/// Shortest time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Most samples that are kept; when there are more, each two become one.
const SAMPLES_MAX: usize = 600;

/// Steps of the bar.
const STEPS: u64 = 1000;

/// A piece of the time measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its end, in seconds from where measuring began.
    pub at_seconds: f64,
    /// Deliveries a second.
    pub per_second: f64,
}

/// Watches one run.
pub(super) struct Progress {
    bar: ProgressBar,
    /// When measuring began; none before that.
    began: Option<Instant>,
    next: Instant,
    /// Time and deliveries at the last look.
    last: (Instant, u64),
    interval: Duration,
    samples: Vec<Sample>,
}

impl Progress {
    /// Begins to watch a run; `title` stands in front of the bar.
    pub(super) fn new(title: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {bar:30} {msg}").expect("the template is sound");
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr()).with_style(style);
        bar.set_prefix(title.to_owned());
        let now = Instant::now();
        Self { bar, began: None, next: now, last: (now, 0), interval: INTERVAL, samples: Vec::new() }
    }

    /// Shows what the run is at, where no rate is known.
    pub(super) fn say(&mut self, share: f64, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + INTERVAL;
            self.show(share, what());
        }
    }

    /// Begins what is measured, at so many deliveries.
    pub(super) fn begin(&mut self, now: Instant, delivered: u64) {
        self.began = Some(now);
        self.last = (now, delivered);
        self.next = now + self.interval;
        self.samples.clear();
    }

    /// Looks at what has been delivered, with so much of the run done.
    #[inline]
    pub(super) fn look(&mut self, now: Instant, delivered: u64, faults: u64, share: f64) {
        if now >= self.next {
            self.sample(now, delivered, faults, share);
        }
    }

    #[cold]
    fn sample(&mut self, now: Instant, delivered: u64, faults: u64, share: f64) {
        let seconds = (now - self.last.0).as_secs_f64().max(1e-9);
        let per_second = delivered.saturating_sub(self.last.1) as f64 / seconds;
        self.last = (now, delivered);
        self.next = now + self.interval;
        if let Some(began) = self.began {
            self.samples.push(Sample { at_seconds: (now - began).as_secs_f64(), per_second });
            if self.samples.len() >= SAMPLES_MAX {
                self.samples = halve(&self.samples);
                self.interval *= 2;
            }
        }
        let stage = if self.began.is_some() { "" } else { "warming up, " };
        let faults = if faults > 0 { format!(", {} FAULTS", whole(faults)) } else { String::new() };
        self.show(share, format!("{stage}{} deliveries/s{faults}", whole(per_second as u64)));
    }

    /// Prints a line above the bar: on the standard output, or `apart` from it.
    pub(super) fn print(&self, line: &str, apart: bool) {
        self.bar.suspend(|| if apart { eprintln!("{line}") } else { println!("{line}") });
    }

    fn show(&self, share: f64, message: String) {
        self.bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
        self.bar.set_message(message);
    }

    /// Clears the bar, and returns the rate over time.
    pub(super) fn end(self) -> Vec<Sample> {
        self.bar.finish_and_clear();
        self.samples
    }
}

/// Makes one of each two samples, whose times are alike.
fn halve(samples: &[Sample]) -> Vec<Sample> {
    let (pairs, _) = samples.as_chunks::<2>();
    let one = |[first, second]: &[Sample; 2]| Sample {
        at_seconds: second.at_seconds,
        per_second: (first.per_second + second.per_second) / 2.0,
    };
    pairs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_bounded_and_cover_all() {
        let mut progress = Progress::new("test");
        let start = Instant::now();
        progress.begin(start, 50);
        for step in 1..=2000_u32 {
            let now = start + INTERVAL * step;
            progress.look(now, 50 + 10 * u64::from(step), 0, 0.5);
        }
        let samples = progress.end();
        assert!((SAMPLES_MAX / 4..SAMPLES_MAX).contains(&samples.len()), "{}", samples.len());
        assert!(samples.iter().all(|sample| (99.0..101.0).contains(&sample.per_second)), "{samples:?}");
        assert!(samples.last().is_some_and(|sample| sample.at_seconds > 199.0), "{:?}", samples.last());
        assert!(samples.is_sorted_by(|one, other| one.at_seconds < other.at_seconds));
    }
}
