//! A report as a page: the rows that a terminal shows, and plots.

use pombo_plots::{Axis, Bar, Line, Page, quantity};

use super::super::numbers::time;
use super::{Cpu, Messages, Report, Soak};

/// Marks of the axis of shares: each is a nine more.
const NINES: [f64; 5] = [0.0, 1.0, 2.0, 3.0, 4.0];

impl Report {
    /// The page of this run.
    pub(in super::super) fn page(&self) -> Page {
        let mut page = Page::new(&format!("pombo bench {}", self.scenario));
        page.pairs(self.rows());
        if let Some(messages) = &self.messages {
            messages.plot(&mut page);
        }
        let delivery = self.server_cost.as_ref().and_then(|cost| cost.cpu_per_delivery);
        let spent =
            delivery.map(|spent| ("delivery", spent)).or(self.logins.server_cpu_us.map(|spent| ("login", spent)));
        if let Some((of, spent)) = spent {
            let remark = format!("{:.3} µs", spent.total_us);
            cpu(&mut page, of, &[Bar { name: "server", parts: cpu_parts(&spent), remark }]);
        }
        if let Some(soak) = &self.soak {
            soak.plot(&mut page);
        }
        page.details("The same as JSON", &self.to_json());
        page
    }
}

impl Messages {
    fn plot(&self, page: &mut Page) {
        let name = if self.broadcasts.is_some() { "unicasts" } else { "latency" };
        let mut lines = vec![Line { name, points: self.latency_curve.clone() }];
        if !self.broadcasts_curve.is_empty() {
            lines.push(Line { name: "broadcasts", points: self.broadcasts_curve.clone() });
        }
        latency(page, &lines);
        let points = self.over_time.iter().map(|sample| (sample.at_seconds, sample.per_second)).collect();
        rate(page, &[Line { name: "deliveries", points }]);
    }
}

impl Soak {
    fn plot(&self, page: &mut Page) {
        let line = |name, value: &dyn Fn(&super::super::soak::Minute) -> Option<f64>| Line {
            name,
            points: self.lines.iter().filter_map(|line| Some((line.at_seconds, value(line)?))).collect(),
        };
        let lines = [
            line("p50", &|line| Some(line.latency.p50_us)),
            line("p99", &|line| Some(line.latency.p99_us)),
            line("max", &|line| Some(line.latency.max_us)),
        ];
        let latency = Axis { name: "latency of unicasts", marks: None, text: &time };
        page.lines_of_all_sizes("Latency in the course of time", &lines, &SECONDS, &latency);
        let memory = [line("private memory", &|line| line.private_bytes.map(|bytes| bytes as f64 / 1024.0))];
        page.lines(
            "Private memory of the server",
            &memory,
            &SECONDS,
            &Axis { name: "KiB", marks: None, text: &quantity },
        );
        let descriptors = [line("descriptors", &|line| line.descriptors.map(|count| count as f64))];
        let count = Axis { name: "descriptors", marks: None, text: &quantity };
        page.lines("Descriptors of the server", &descriptors, &SECONDS, &count);
        page.details("Line by line", &self.lines.iter().map(|line| line.text() + "\n").collect::<String>());
    }
}

const SECONDS: Axis<'_> = Axis { name: "seconds", marks: None, text: &quantity };

/// Plots distributions of latency. Each mark to the right is a tenth of the deliveries that are left, so the tail shows.
pub(in super::super) fn latency(page: &mut Page, lines: &[Line<'_>]) {
    let share = |nines: f64| match nines.round() as u32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        nines => format!("99.{} %", "9".repeat(nines as usize - 2)),
    };
    let x = Axis { name: "this share of the deliveries is faster", marks: Some(&NINES), text: &share };
    page.lines_of_all_sizes("Latency", lines, &x, &Axis { name: "latency", marks: None, text: &time });
}

/// Plots rates in the course of time.
pub(in super::super) fn rate(page: &mut Page, lines: &[Line<'_>]) {
    let y = Axis { name: "deliveries a second", marks: None, text: &quantity };
    page.lines("Throughput in the course of time", lines, &SECONDS, &y);
}

/// The parts of a bar of [`cpu`]: user space, kernel, and the whole where the two are not told apart.
pub(in super::super) fn cpu_parts(spent: &Cpu) -> Vec<f64> {
    match spent.user_us.zip(spent.system_us) {
        Some((user, system)) => vec![user, system],
        None => vec![0.0, 0.0, spent.total_us],
    }
}

/// Plots CPU time, what is spent in user space and in the kernel apart.
pub(in super::super) fn cpu(page: &mut Page, of: &str, bars: &[Bar<'_>]) {
    let names = ["user space", "kernel", "both, too short to tell apart"];
    let parts = bars.iter().map(|bar| bar.parts.len()).max().unwrap_or(0);
    page.bars(&format!("CPU of the server per {of}, µs"), &names[..parts], bars);
}
