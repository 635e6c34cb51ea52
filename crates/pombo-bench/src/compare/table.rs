//! A comparison as tables for people, one a scenario.

use std::fmt;

use super::super::numbers::{time, whole};
use super::statistics::{Spread, Verdict};
use super::{Column, Comparison, Row};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds, servers on core {}, generator on core {}; medians, and ratios within rounds",
            self.rounds, self.server_cores, self.generator_core
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

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
        let logins = self.is_connect();
        let (of, last) = if logins { ("logins/s", "bytes/conn") } else { ("deliveries/s", "per send") };
        writeln!(f, "{}", self.scenario)?;
        writeln!(
            f,
            "  {:width$}  {:>9} {:>8} {:>8} {of:>13} {:>10} {:>10} {last:>10}",
            "", "CPU µs", "user", "system", "p50", "p99"
        )?;
        for column in &self.columns {
            column.write(f, width, logins, &self.baseline)?;
        }
        Ok(())
    }
}

impl Column {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize, logins: bool, baseline: &str) -> fmt::Result {
        let name = &self.server;
        match &self.median {
            Some(at) => {
                let last = if logins {
                    whole(at.bytes_per_connection.max(0.0).round() as u64)
                } else {
                    at.per_segment.map_or_else(|| "–".to_owned(), |count| format!("{count:.1}"))
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
            writeln!(f, "  {:width$}  {}", "", verdict.text(baseline))?;
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
    /// What it says, in a line.
    pub(super) fn text(&self, baseline: &str) -> String {
        let Spread { least, lower_quartile, median, most, .. } = self.cpu;
        let mut text = format!(
            "to {baseline}: CPU × {median:.2}, lower quartile {lower_quartile:.2}, from {least:.2} to {most:.2}; \
             rate × {:.2}, p50 × {:.2}",
            self.per_second.median, self.p50.median
        );
        if let Some(bytes) = &self.bytes_per_connection {
            text += &format!(", bytes × {:.2}", bytes.median);
        }
        if !self.counts {
            text += "; DOES NOT COUNT: it delivers less, or later";
        }
        text
    }
}
