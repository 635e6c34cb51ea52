//! A comparison as tables for people, one a scenario, and as a page with plots of each.

use std::fmt;

use super::super::page::{Bar, Line, Page};
use super::super::report::{time, whole};
use super::statistics::{Spread, Verdict};
use super::{Column, Comparison, Curves, Row};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds, servers on core {}, generator on core {}; medians, and ratios to {} within rounds",
            self.rounds, self.server_cores, self.generator_core, self.baseline
        )?;
        for server in &self.servers {
            writeln!(f, "  {} = {}", server.name, server.command)?;
        }
        let width = self.servers.iter().map(|server| server.name.chars().count()).max().unwrap_or(0).max(8);
        for row in &self.rows {
            writeln!(f)?;
            row.write(f, width)?;
        }
        Ok(())
    }
}

impl Comparison {
    /// Plots of each scenario below the tables. Lines are those of the last sound round; bars are medians.
    pub(super) fn page(&self) -> Page {
        let mut page = Page::new("pombo bench compare");
        page.table(&self.to_string());
        for row in &self.rows {
            page.heading(&row.scenario);
            let bars: Vec<_> = row
                .columns
                .iter()
                .filter_map(|column| {
                    let median = column.median.as_ref()?;
                    Some(Bar { name: &column.server, parts: [median.user_us, median.system_us] })
                })
                .collect();
            page.cpu(&bars);
            let lines = |points: fn(&Curves) -> &Vec<(f64, f64)>| -> Vec<Line<'_>> {
                let columns = row.columns.iter();
                columns
                    .filter_map(|column| {
                        Some(Line { name: &column.server, points: points(column.curves.as_ref()?).clone() })
                    })
                    .collect()
            };
            page.latency(&lines(|curves| &curves.latency));
            page.rate(&lines(|curves| &curves.rate));
        }
        page
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let logins = self.scenario.trim_start().starts_with("connect");
        let (of, last) = if logins { ("logins/s", "bytes/conn") } else { ("deliveries/s", "per read") };
        writeln!(f, "{}", self.scenario)?;
        writeln!(
            f,
            "  {:width$}  {:>9} {:>8} {:>8} {of:>13} {:>10} {:>10} {last:>10}",
            "", "CPU µs", "user", "system", "p50", "p99"
        )?;
        for column in &self.columns {
            column.write(f, width, logins)?;
        }
        Ok(())
    }
}

impl Column {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize, logins: bool) -> fmt::Result {
        let name = &self.server;
        match &self.median {
            Some(at) => {
                let last = if logins {
                    whole(at.bytes_per_connection.max(0.0).round() as u64)
                } else {
                    format!("{:.1}", at.per_read)
                };
                let (rate, p50, p99) = (whole(at.per_second as u64), time(at.p50_us), time(at.p99_us));
                let (cpu, user, system) = (at.cpu_us, at.user_us, at.system_us);
                writeln!(
                    f,
                    "  {name:width$}  {cpu:>9.3} {user:>8.3} {system:>8.3} {rate:>13} {p50:>10} {p99:>10} {last:>10}"
                )?;
            }
            None => writeln!(f, "  {name:width$}  no sound round")?,
        }
        if let Some(verdict) = &self.verdict {
            verdict.write(f, width)?;
        }
        if self.bottlenecks > 0 {
            let rounds = self.rounds.len();
            writeln!(
                f,
                "  {:width$}  the generator was the bottleneck in {} of {rounds} rounds",
                "", self.bottlenecks
            )?;
        }
        for failure in &self.failures {
            writeln!(f, "  {:width$}  FAILED {failure}", "")?;
        }
        Ok(())
    }
}

impl Verdict {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let Spread { least, lower_quartile, median, most, .. } = self.cpu;
        write!(
            f,
            "  {:width$}  CPU × {median:.2}, lower quartile {lower_quartile:.2}, from {least:.2} to {most:.2}; rate × {:.2}, p50 × {:.2}",
            "", self.per_second.median, self.p50.median
        )?;
        if let Some(bytes) = &self.bytes_per_connection {
            write!(f, ", bytes × {:.2}", bytes.median)?;
        }
        if !self.counts {
            f.write_str("; DOES NOT COUNT: it delivers less, or later")?;
        }
        writeln!(f)
    }
}
