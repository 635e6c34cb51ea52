//! A comparison as a page: a table and plots of each scenario. Lines are those of the last sound round, bars are medians.

use pombo_plots::{Bar, Line, Page};

use super::super::Cpu;
use super::super::report::plots;
use super::{Column, Comparison, Curves, Row};

/// Columns of a table of traffic, and of one of logins.
const TRAFFIC: [&str; 8] =
    ["server", "CPU µs", "user", "system", "deliveries/s", "p50", "p99", "deliveries per segment"];
const LOGINS: [&str; 8] = ["server", "CPU µs", "user", "system", "logins/s", "p50", "p99", "bytes per connection"];

impl Comparison {
    /// The page of this comparison.
    pub(super) fn page(&self) -> Page {
        let mut page = Page::new("pombo bench compare");
        page.pairs([
            ("rounds", self.rounds.to_string()),
            ("servers on core", self.server_cores.to_string()),
            ("generator on core", self.generator_core.to_string()),
        ]);
        page.pairs(self.servers.iter().map(|server| (&server.name, &server.command)));
        page.text(
            "Figures are medians of the rounds. Ratios are taken within each round, so that noise which lasts longer than a \
             round cancels out: a median of ratios need not be the ratio of the medians that the bars show. A ratio counts only where the rate is at least 0.95 times and the median latency at most 1.1 \
             times that of the server it is compared with: who waits longer coalesces more.",
        );
        for row in &self.rows {
            row.plot(&mut page);
        }
        page.details("The same as JSON", &self.to_json());
        page
    }
}

impl Row {
    fn plot(&self, page: &mut Page) {
        page.heading(&self.scenario);
        let logins = self.is_connect();
        page.figures(
            if logins { &LOGINS } else { &TRAFFIC },
            self.columns.iter().filter_map(|column| column.cells(logins)),
        );
        page.list(self.columns.iter().flat_map(|column| {
            let sentences = self.sentences(column);
            sentences.into_iter().map(|sentence| format!("{} {sentence}", column.server))
        }));
        let bars: Vec<_> = self.columns.iter().filter_map(|column| column.bar(&self.baseline)).collect();
        let of = if logins { "login" } else { "delivery" };
        plots::cpu(page, of, &bars);
        plots::latency(page, &self.lines(|curves| &curves.latency));
        plots::rate(page, &self.lines(|curves| &curves.rate));
    }

    fn lines(&self, points: fn(&Curves) -> &Vec<(f64, f64)>) -> Vec<Line<'_>> {
        let line = |column: &'_ Column| Some(points(column.curves.as_ref()?).clone());
        self.columns.iter().filter_map(|column| Some(Line { name: &column.server, points: line(column)? })).collect()
    }
}

impl Column {
    fn cells(&self, logins: bool) -> Option<Vec<String>> {
        let at = self.median.as_ref()?;
        let name = self.server.clone();
        Some(std::iter::once(name).chain(at.cells(logins)).collect())
    }

    fn bar(&self, baseline: &str) -> Option<Bar<'_>> {
        let at = self.median.as_ref()?;
        let mut remark = format!("{:.3} µs", at.cpu_us);
        if let Some(verdict) = &self.verdict {
            let (median, lower) = (verdict.cpu.median, verdict.cpu.lower_quartile);
            remark += &format!(", × {median:.2} of {baseline} (lower quartile {lower:.2})");
            if !verdict.counts {
                remark += ", does not count";
            }
        }
        let spent = Cpu { user_us: at.user_us, system_us: at.system_us, total_us: at.cpu_us };
        Some(Bar { name: &self.server, parts: plots::cpu_parts(&spent), remark })
    }
}
