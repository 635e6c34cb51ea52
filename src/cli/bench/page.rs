//! What a run or a comparison found as one HTML page, which needs nothing but itself: the plots are SVG in it, there is no
//! script, and nothing is fetched.

use std::fmt::{Display, Write};
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::BenchError;
use super::report::{Report, time};

/// Size of a plot.
const SIZE: (u32, u32) = (760, 300);

/// Colours that differ for the colour-blind too (Okabe and Ito), for user, system and so on.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
    <meta name=\"viewport\" content=\"width=device-width\"><title>pombo bench</title><style>\
    body{font:15px/1.5 sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#222}\
    pre{background:#f5f5f5;padding:1em;overflow-x:auto;font-size:13px}svg{max-width:100%;height:auto}\
    h2{margin-top:2em}</style></head><body>\n";

/// A page that grows.
pub(super) struct Page {
    html: String,
}

/// A line of a plot: its name, and its points.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A bar of a plot: its name, and what is stacked in it.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) parts: [f64; 2],
}

impl Page {
    /// Begins a page.
    pub(super) fn new(title: &str) -> Self {
        let mut page = Self { html: HEAD.to_owned() };
        let _ = writeln!(page.html, "<h1>{}</h1>", Escaped(title));
        page
    }

    /// Adds a heading.
    pub(super) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.html, "<h2>{}</h2>", Escaped(text));
    }

    /// Adds a table of text as it stands.
    pub(super) fn table(&mut self, text: &str) {
        let _ = writeln!(self.html, "<pre>{}</pre>", Escaped(text));
    }

    /// Adds how many deliveries took at most how long: its horizontal axis is in nines, so that the tail shows.
    pub(super) fn latency(&mut self, lines: &[Line<'_>]) {
        let label = |nines: &f64| match nines {
            ..0.05 => "0".to_owned(),
            0.95..1.05 => "90 %".to_owned(),
            1.95..2.05 => "99 %".to_owned(),
            2.95..3.05 => "99.9 %".to_owned(),
            3.95..4.05 => "99.99 %".to_owned(),
            _ => String::new(),
        };
        self.plot("Latency: this share is faster", lines, &label, &|us: &f64| time(*us));
    }

    /// Adds the rate in the course of time.
    pub(super) fn rate(&mut self, lines: &[Line<'_>]) {
        let seconds = |at: &f64| format!("{at:.1} s");
        self.plot("Deliveries a second over time", lines, &seconds, &|rate: &f64| quantity(*rate));
    }

    fn plot(
        &mut self,
        caption: &str,
        lines: &[Line<'_>],
        x_label: &dyn Fn(&f64) -> String,
        y_label: &dyn Fn(&f64) -> String,
    ) {
        let most = |of: fn(&(f64, f64)) -> f64| {
            lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max).max(f64::MIN_POSITIVE)
        };
        if lines.iter().all(|line| line.points.is_empty()) {
            return;
        }
        let (x_max, y_max) = (most(|point| point.0), most(|point| point.1) * 1.05);
        let mut svg = String::new();
        let drawn = (|| {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(caption, ("sans-serif", 16))
                .margin(12)
                .x_label_area_size(28)
                .y_label_area_size(72)
                .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
            chart.configure_mesh().x_labels(9).x_label_formatter(x_label).y_label_formatter(y_label).draw()?;
            for (index, line) in lines.iter().enumerate() {
                let colour = COLOURS[index % COLOURS.len()];
                let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
                let series = chart.draw_series(series)?;
                if lines.len() > 1 {
                    series
                        .label(line.name)
                        .legend(move |(x, y)| Rectangle::new([(x, y - 3), (x + 12, y + 3)], colour.filled()));
                }
            }
            if lines.len() > 1 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::UpperLeft)
                    .background_style(WHITE.mix(0.8))
                    .border_style(BLACK.mix(0.3))
                    .draw()?;
            }
            area.present()
        })();
        self.embed(drawn, &svg);
    }

    /// Adds the CPU per delivery or login: user space and kernel.
    pub(super) fn cpu(&mut self, bars: &[Bar<'_>]) {
        let most = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(0.0, f64::max);
        if most <= 0.0 {
            return;
        }
        let mut svg = String::new();
        let count = bars.len();
        let drawn = (|| {
            let area = SVGBackend::with_string(&mut svg, (SIZE.0, 80 + 34 * count as u32)).into_drawing_area();
            area.fill(&WHITE)?;
            let name =
                |at: &f64| bars.get(count - 1 - (*at as usize).min(count - 1)).map_or("", |bar| bar.name).to_owned();
            let mut chart = ChartBuilder::on(&area)
                .caption("CPU of the server, µs each: user space and kernel", ("sans-serif", 16))
                .margin(12)
                .x_label_area_size(28)
                .y_label_area_size(110)
                .build_cartesian_2d(0.0..most * 1.05, 0.0..count as f64)?;
            chart.configure_mesh().disable_y_mesh().disable_y_axis().y_labels(0).draw()?;
            for (index, bar) in bars.iter().enumerate() {
                let bottom = (count - 1 - index) as f64;
                let mut from = 0.0;
                for (part, colour) in bar.parts.iter().zip(COLOURS) {
                    let corners = [(from, bottom + 0.15), (from + part, bottom + 0.85)];
                    chart.draw_series([Rectangle::new(corners, colour.filled())])?;
                    from += part;
                }
                let text = format!("{} {from:.2}", name(&bottom));
                chart.draw_series([Text::new(text, (most * 0.01, bottom + 0.62), ("sans-serif", 13).into_font())])?;
            }
            area.present()
        })();
        self.embed(drawn, &svg);
    }

    /// Puts a plot in; one that could not be drawn says why.
    fn embed<E: Display>(&mut self, drawn: Result<(), E>, svg: &str) {
        match drawn {
            Ok(()) => {
                let _ = writeln!(self.html, "<p>{svg}</p>");
            }
            Err(error) => self.table(&format!("cannot draw: {error}")),
        }
    }

    /// Writes the page.
    pub(super) fn save(mut self, path: &Path) -> Result<(), BenchError> {
        self.html.push_str("</body></html>\n");
        fs::write(path, self.html).map_err(|error| {
            BenchError::Arguments(format!("cannot write the report to {}: {}", path.display(), error.kind()))
        })
    }
}

/// Writes the page of one run.
pub(super) fn save(report: &Report, path: &Path) -> Result<(), BenchError> {
    let mut page = Page::new(&format!("pombo bench {}", report.scenario));
    page.table(&report.to_string());
    if let Some(messages) = &report.messages {
        page.latency(&[Line { name: "latency", points: messages.latency_curve.clone() }]);
        let points = messages.over_time.iter().map(|sample| (sample.at_seconds, sample.per_second)).collect();
        page.rate(&[Line { name: "deliveries", points }]);
    }
    let cpu = report.server_cost.as_ref().and_then(|cost| cost.cpu_per_delivery).or(report.logins.server_cpu_us);
    if let Some(cpu) = cpu {
        page.cpu(&[Bar { name: "server", parts: [cpu.user_us, cpu.system_us] }]);
    }
    page.save(path)
}

/// A number for an axis.
fn quantity(number: f64) -> String {
    match number {
        1e6.. => format!("{:.2} M", number / 1e6),
        1e3.. => format!("{:.0} k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// Text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(Escaped("a<b>&\"c\"").to_string(), "a&lt;b&gt;&amp;&quot;c&quot;");
        let mut page = Page::new("<script>");
        let name = "</text><script>";
        let line = || Line { name, points: vec![(0.0, 1.0), (1.0, 2.0)] };
        page.heading(name);
        page.table(name);
        page.rate(&[line(), line()]);
        page.latency(&[line(), line()]);
        page.cpu(&[Bar { name, parts: [1.0, 2.0] }]);
        assert!(!page.html.contains("<script>"), "{}", page.html);
        assert_eq!(page.html.matches("<svg").count(), 3, "{}", page.html);
    }

    #[test]
    fn nothing_to_draw_draws_nothing() {
        let mut page = Page::new("");
        page.rate(&[]);
        page.latency(&[Line { name: "x", points: Vec::new() }]);
        page.cpu(&[Bar { name: "x", parts: [0.0, 0.0] }]);
        assert_eq!(page.html.matches("<svg").count(), 0, "{}", page.html);
    }

    #[test]
    fn quantities() {
        for (number, text) in [(0.0, "0"), (999.0, "999"), (1500.0, "2 k"), (2_340_000.0, "2.34 M")] {
            assert_eq!(quantity(number), text);
        }
    }
}
