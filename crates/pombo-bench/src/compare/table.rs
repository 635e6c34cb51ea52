//! A comparison as tables for people, one a scenario.

use std::fmt;

use super::super::numbers::{time, whole};
use super::statistics::{Figures, Spread, Verdict, contradiction};
use super::{Column, Comparison, Row};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {}, servers on core {}, generator on core {}; medians, and ratios within rounds",
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" },
            self.server_cores,
            self.generator_core
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
        let (of, last) = if logins { ("logins/s", "bytes/conn") } else { ("deliveries/s", "per segment") };
        writeln!(f, "{}", self.scenario)?;
        writeln!(
            f,
            "  {:width$}  {:>9} {:>8} {:>8} {of:>13} {:>10} {:>10} {last:>11}",
            "", "CPU µs", "user", "system", "p50", "p99"
        )?;
        for column in &self.columns {
            column.write(f, width, logins)?;
            for sentence in self.sentences(column) {
                writeln!(f, "  {:width$}  {sentence}", "")?;
            }
        }
        Ok(())
    }

    /// The sentences about a column that stand beside its figures.
    pub(super) fn sentences(&self, column: &Column) -> Vec<String> {
        let mut sentences: Vec<String> = Vec::new();
        if let Some(verdict) = &column.verdict {
            sentences.push(verdict.text(&self.baseline));
            sentences.extend(self.explanation(column, verdict));
        }
        let rounds = column.rounds.len();
        if column.bottlenecks > 0 {
            let bottlenecks = column.bottlenecks;
            sentences.push(format!("the generator was the bottleneck in {bottlenecks} of {rounds} rounds"));
        }
        sentences.extend(column.failures.iter().map(|failure| format!("FAILED {failure}")));
        sentences
    }

    /// Why the medians of two servers may be in another ratio than the rounds, where they are.
    fn explanation(&self, column: &Column, verdict: &Verdict) -> Option<String> {
        let baseline = self.columns.iter().find(|other| other.server == self.baseline)?;
        let bars = contradiction(column.median.as_ref()?, baseline.median.as_ref()?, &verdict.cpu)?;
        Some(format!(
            "the medians above are in the ratio {bars:.2}, the rounds in {:.2}: go by the rounds. A median mixes rounds of a \
             fast and of a slow machine; a ratio is of two runs next to each other",
            verdict.cpu.median
        ))
    }
}

impl Column {
    fn write(&self, f: &mut fmt::Formatter<'_>, width: usize, logins: bool) -> fmt::Result {
        let name = &self.server;
        let Some(at) = &self.median else { return writeln!(f, "  {name:width$}  no sound round") };
        let [cpu, user, system, rate, p50, p99, last] = at.cells(logins);
        writeln!(f, "  {name:width$}  {cpu:>9} {user:>8} {system:>8} {rate:>13} {p50:>10} {p99:>10} {last:>11}")
    }
}

impl Figures {
    /// CPU, the part of it in user space and in the kernel, the rate, p50 and p99, and bytes per connection or deliveries per
    /// segment: as text, with a dash for what is not known.
    pub(super) fn cells(&self, logins: bool) -> [String; 7] {
        let known = |figure: Option<f64>, text: fn(f64) -> String| figure.map_or_else(|| "–".to_owned(), text);
        let micros = |us: f64| format!("{us:.3}");
        let last = if logins {
            known(self.bytes_per_connection, |bytes| whole(bytes.max(0.0).round() as u64))
        } else {
            known(self.per_segment, |count| format!("{count:.1}"))
        };
        [
            micros(self.cpu_us),
            known(self.user_us, micros),
            known(self.system_us, micros),
            whole(self.per_second as u64),
            time(self.p50_us),
            time(self.p99_us),
            last,
        ]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose rounds took so much CPU, and were alike in all else.
    fn column(server: &str, rounds: &[f64]) -> Column {
        let figures = |cpu_us: &f64| {
            Some(Figures {
                cpu_us: *cpu_us,
                user_us: None,
                system_us: None,
                per_second: 1.0,
                p50_us: 1.0,
                p99_us: 1.0,
                per_segment: None,
                bytes_per_connection: None,
            })
        };
        Column {
            server: server.into(),
            rounds: rounds.iter().map(figures).collect(),
            curves: None,
            median: None,
            verdict: None,
            bottlenecks: 0,
            failures: Vec::new(),
        }
    }

    /// The sentences about a server, beside the floor whose rounds took 2, 1 and 10 µs.
    fn said(rounds: &[f64]) -> Vec<String> {
        let columns = vec![column("floor", &[2.0, 1.0, 10.0]), column("ours", rounds)];
        let mut row = Row { scenario: "unicast".into(), baseline: "floor".into(), columns };
        row.judge(0);
        assert!(row.sentences(&row.columns[0]).is_empty(), "the floor is compared with nothing");
        row.sentences(&row.columns[1])
    }

    #[test]
    fn a_ratio_that_contradicts_the_medians_is_explained() {
        let sentences = said(&[1.0, 2.4, 9.0]);
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert!(sentences[0].starts_with("to floor: CPU × 0.90, "), "{sentences:?}");
        let expected = "the medians above are in the ratio 1.20, the rounds in 0.90: go by the rounds. ";
        assert!(sentences[1].starts_with(expected), "{sentences:?}");
        assert_eq!(said(&[1.0, 0.5, 5.0]).len(), 1);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let cells = column("ours", &[2.0]).rounds[0].expect("a round").cells(false);
        assert_eq!(cells, ["2.000", "–", "–", "1", "1.0 µs", "1.0 µs", "–"]);
    }
}
