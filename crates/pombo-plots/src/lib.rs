//! Writes measurements as one self-contained HTML page: plots are inline SVG, there is no script, and
//! nothing is fetched.
//!
//! It offers text, tables, lines and bars; the callers, `cargo bench` among them, give them their meaning. Axes and text
//! are drawn in black on a transparent ground, and the style turns black into the reader's text colour, for dark and light.

use std::fmt::{self, Display, Write};
use std::fs;
use std::io;
use std::path::Path;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

/// Size of a plot of lines. Text stays legible when a phone shows it at two thirds.
const SIZE: (u32, u32) = (640, 340);

/// Height of a bar with its gap, of each line of text above it, and of what is below all of them.
const BAR: u32 = 22;
const BAR_LINE: u32 = 22;
const BAR_MARGIN: u32 = 40;

/// Letters of the text above a bar that fit beside each other, even in a wide font.
const BAR_COLUMNS: usize = 54;

/// Colours that differ for the colour-blind too (Okabe and Ito), on dark and on light.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

/// Colours of the parts of bars: none of them is a line's, since a page may have both.
const PART_COLOURS: [RGBColor; 3] = [RGBColor(100, 100, 100), RGBColor(175, 175, 175), RGBColor(140, 86, 75)];

/// The content security policy: nothing may be loaded or run, and only the page's style applies; a test checks its hash.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'sha256-yikCjMvtSIt+OYJEHq47Rp6phMXWCCx/mFErgViN/gI='; base-uri 'none'; form-action 'none'";

const STYLE: &str = ":root{color-scheme:light dark}\
    body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:1.5rem auto;padding:0 1rem;background:Canvas;color:CanvasText}\
    h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.5rem}figure{margin:1.5rem 0}figcaption{font-weight:600}\
    .wide{overflow-x:auto}.plot{display:block;width:100%;min-width:26rem;height:auto}.key{margin:0 .9rem 0 0;display:inline-block}svg.key{margin:0 .3rem -.1rem 0}\
    svg [fill='#000000']{fill:currentColor}svg [stroke='#000000']{stroke:currentColor}\
    table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}\
    th,td{padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid GrayText}\
    .figures td{text-align:right;white-space:nowrap}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}\
    li{margin:.2rem 0}";

/// A page that grows.
#[derive(Debug)]
pub struct Page {
    html: String,
}

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Its name in the legend, if there are several.
    pub name: &'a str,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// A bar of a plot.
#[derive(Clone, Debug)]
pub struct Bar<'a> {
    /// The text above it.
    pub name: &'a str,
    /// The stacked values, in the order of the legend.
    pub parts: Vec<f64>,
    /// The text after the name, such as the sum.
    pub remark: String,
}

/// The scale and labels of an axis.
pub struct Axis<'a> {
    /// Its title, with the unit.
    pub name: &'a str,
    /// Its marks, if it has marks of its own.
    pub marks: Option<&'a [f64]>,
    /// A mark as text.
    pub text: &'a dyn Fn(f64) -> String,
}

impl Page {
    /// Begins a page.
    pub fn new(title: &str) -> Self {
        let title = Escaped(title);
        Self {
            html: format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                 <meta http-equiv=\"Content-Security-Policy\" content=\"{CONTENT_SECURITY_POLICY}\">\
                 <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
                 <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
            ),
        }
    }

    /// Adds a heading.
    pub fn heading(&mut self, text: &str) {
        self.add(format_args!("<h2>{}</h2>", Escaped(text)));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        self.add(format_args!("<p>{}</p>", Escaped(text)));
    }

    /// Adds sentences, one below the other.
    pub fn list<T: AsRef<str>>(&mut self, sentences: impl IntoIterator<Item = T>) {
        self.html.push_str("<ul>");
        for sentence in sentences {
            self.add(format_args!("<li>{}</li>", Escaped(sentence.as_ref())));
        }
        self.html.push_str("</ul>\n");
    }

    /// Adds a section that is collapsed at first.
    pub fn details(&mut self, summary: &str, text: &str) {
        self.add(format_args!(
            "<details><summary>{}</summary><pre>{}</pre></details>",
            Escaped(summary),
            Escaped(text)
        ));
    }

    /// Adds a table of names and values.
    pub fn pairs<N: AsRef<str>, V: AsRef<str>>(&mut self, rows: impl IntoIterator<Item = (N, V)>) {
        self.html.push_str("<div class=\"wide\"><table>");
        for (name, value) in rows {
            self.add(format_args!("<tr><th>{}</th><td>{}</td></tr>", Escaped(name.as_ref()), Escaped(value.as_ref())));
        }
        self.html.push_str("</table></div>\n");
    }

    /// Adds a table of figures; the first cell of each row names it.
    pub fn figures<T: AsRef<str>>(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<T>>) {
        self.html.push_str("<div class=\"wide\"><table class=\"figures\"><tr>");
        for name in head {
            self.add(format_args!("<th>{}</th>", Escaped(name)));
        }
        for row in rows {
            self.html.push_str("</tr><tr>");
            for (index, cell) in row.iter().enumerate() {
                let tag = if index == 0 { "th" } else { "td" };
                self.add(format_args!("<{tag}>{}</{tag}>", Escaped(cell.as_ref())));
            }
        }
        self.html.push_str("</tr></table></div>\n");
    }

    /// Adds a plot of lines, whose vertical axis begins at zero; nothing if there are no points.
    pub fn lines(&mut self, caption: &str, lines: &[Line<'_>], x: &Axis<'_>, y: &Axis<'_>) {
        let Some(bounds) = Bounds::of(lines) else { return };
        self.plot(caption, lines, x, y, bounds.left..bounds.right, 0.0..bounds.top * 1.05);
    }

    /// Adds the same with a logarithmic vertical axis, for values over zero of very different size.
    pub fn lines_of_all_sizes(&mut self, caption: &str, lines: &[Line<'_>], x: &Axis<'_>, y: &Axis<'_>) {
        let Some(bounds) = Bounds::of(lines) else { return };
        // Whole powers of ten, so that there are marks at both ends.
        let power = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.log10()));
        let (bottom, top) = (power(bounds.bottom.max(1e-3), f64::floor), power(bounds.top.max(1e-2), f64::ceil));
        let vertical = (bottom..top.max(bottom * 10.0)).log_scale();
        self.plot(caption, lines, x, y, bounds.left..bounds.right, vertical);
    }

    fn plot<Y>(
        &mut self,
        caption: &str,
        lines: &[Line<'_>],
        x: &Axis<'_>,
        y: &Axis<'_>,
        horizontal: std::ops::Range<f64>,
        vertical: impl plotters::coord::ranged1d::AsRangedCoord<CoordDescType = Y, Value = f64>,
    ) where
        Y: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
    {
        let mut svg = String::new();
        let drawn = (|| {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin_top(12)
                // Half of the last mark's text is beyond its axis, and the turned title of the other stands on the edge.
                .margin_right(44)
                .margin_left(8)
                .x_label_area_size(48)
                .y_label_area_size(88)
                .build_cartesian_2d(Marked { range: horizontal, marks: x.marks.map(<[f64]>::to_vec) }, vertical)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .x_desc(x.name)
                .y_desc(y.name)
                .x_labels(8)
                .y_labels(8)
                .label_style(("sans-serif", 17))
                .axis_desc_style(("sans-serif", 17))
                .x_label_formatter(&|value| (x.text)(*value))
                .y_label_formatter(&|value| (y.text)(*value))
                .draw()?;
            for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
                chart.draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))?;
            }
            area.present()
        })();
        let names: Vec<_> = lines.iter().map(|line| line.name).collect();
        self.embed(caption, if names.len() > 1 { &names } else { &[] }, &COLOURS, drawn, &svg);
    }

    /// Adds a plot of bars of up to three parts; nothing if all of them are empty.
    pub fn bars(&mut self, caption: &str, parts: &[&str], bars: &[Bar<'_>]) {
        let most = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(0.0, f64::max);
        if most <= 0.0 {
            return;
        }
        let mut svg = String::new();
        let texts: Vec<_> =
            bars.iter().map(|bar| wrapped(&format!("{}: {}", bar.name, bar.remark), BAR_COLUMNS)).collect();
        let height: u32 = texts.iter().map(|lines| BAR + BAR_LINE * lines.len() as u32).sum();
        let drawn = (|| {
            let size = (SIZE.0, BAR_MARGIN + height);
            let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin_right(24)
                .margin_left(16)
                .x_label_area_size(32)
                .build_cartesian_2d(0.0..most * 1.02, 0.0..f64::from(height))?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .light_line_style(TRANSPARENT)
                .disable_y_axis()
                .label_style(("sans-serif", 17))
                .draw()?;
            let mut top = f64::from(height);
            for (bar, lines) in bars.iter().zip(&texts) {
                for line in lines {
                    let place = (most * 0.005, top - 2.0);
                    chart.draw_series([Text::new(line.clone(), place, ("sans-serif", 18).into_font())])?;
                    top -= f64::from(BAR_LINE);
                }
                let mut from = 0.0;
                for (part, colour) in bar.parts.iter().zip(PART_COLOURS).filter(|(part, _)| **part > 0.0) {
                    let corners = [(from, top - 17.0), (from + part, top)];
                    chart.draw_series([Rectangle::new(corners, colour.filled())])?;
                    from += part;
                }
                top -= f64::from(BAR);
            }
            area.present()
        })();
        self.embed(caption, parts, &PART_COLOURS, drawn, &svg);
    }

    /// Puts a plot in, with its legend; one that could not be drawn says why.
    fn embed<E: Display>(
        &mut self,
        caption: &str,
        legend: &[&str],
        colours: &[RGBColor],
        drawn: Result<(), E>,
        svg: &str,
    ) {
        if let Err(error) = drawn {
            return self.text(&format!("{caption}: cannot draw this plot: {error}"));
        }
        self.add(format_args!("<figure><figcaption>{}</figcaption>", Escaped(caption)));
        if !legend.is_empty() {
            self.html.push_str("<div>");
            for (name, RGBColor(red, green, blue)) in legend.iter().zip(colours.iter().cycle()) {
                // The legend's colour is a small picture: an inline style would need an exception in the policy.
                self.add(format_args!(
                    "<svg class=\"key\" width=\"14\" height=\"14\" viewBox=\"0 0 14 14\"><rect width=\"14\" height=\"14\" \
                     fill=\"#{red:02x}{green:02x}{blue:02x}\"/></svg><span class=\"key\">{}</span>",
                    Escaped(name)
                ));
            }
            self.html.push_str("</div>");
        }
        let label = Escaped(caption);
        let svg = svg.replacen("<svg ", &format!("<svg class=\"plot\" role=\"img\" aria-label=\"{label}\" "), 1);
        self.add(format_args!("<div class=\"wide\">{svg}</div></figure>"));
    }

    fn add(&mut self, html: fmt::Arguments<'_>) {
        // A String takes all.
        let _ = writeln!(self.html, "{html}");
    }

    /// Writes the page.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(mut self, path: &Path) -> io::Result<()> {
        self.html.push_str("</body></html>\n");
        fs::write(path, self.html)
    }
}

/// A number for an axis.
pub fn quantity(number: f64) -> String {
    match number {
        1e6.. => format!("{} M", short(number / 1e6)),
        1e3.. => format!("{} k", short(number / 1e3)),
        _ => short(number),
    }
}

/// Cuts a text into lines of at most so many letters, between words where it can.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        for (index, piece) in letters.chunks(columns).enumerate() {
            let line = lines.last_mut().expect("there is a first line");
            let gap = usize::from(!line.is_empty());
            if line.is_empty() || index == 0 && line.chars().count() + gap + piece.len() <= columns {
                line.extend([" "].repeat(gap));
                line.extend(piece);
            } else {
                lines.push(piece.iter().collect());
            }
        }
    }
    lines
}

/// Up to two places, but no zeros at the end.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A range of values, perhaps with marks of its own.
struct Marked {
    range: std::ops::Range<f64>,
    marks: Option<Vec<f64>>,
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.plain().map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match &self.marks {
            Some(marks) => {
                marks.iter().copied().filter(|mark| self.range.contains(mark) || *mark == self.range.end).collect()
            }
            None => self.plain().key_points(hint),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.range.clone()
    }
}

impl Marked {
    fn plain(&self) -> plotters::coord::types::RangedCoordf64 {
        self.range.clone().into()
    }
}

/// The ranges of the points of some lines.
struct Bounds {
    left: f64,
    right: f64,
    bottom: f64,
    top: f64,
}

impl Bounds {
    /// None of no points.
    fn of(lines: &[Line<'_>]) -> Option<Self> {
        let mut points = lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
        let &(x, y) = points.next()?;
        let mut bounds = Self { left: x.min(0.0), right: x, bottom: y, top: y };
        for &(x, y) in points {
            bounds.left = bounds.left.min(x);
            bounds.right = bounds.right.max(x);
            bounds.bottom = bounds.bottom.min(y);
            bounds.top = bounds.top.max(y);
        }
        // No range is empty.
        bounds.right = bounds.right.max(bounds.left + 1e-6);
        bounds.top = bounds.top.max(1e-6);
        Some(bounds)
    }
}

/// Text in which nothing is markup.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    use sha2::{Digest, Sha256};

    use super::*;

    const AXIS: Axis<'_> = Axis { name: "<script>", marks: None, text: &|value| value.to_string() };

    fn plots(page: &Page) -> usize {
        page.html.matches("class=\"plot\"").count()
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_else() {
        let hash = data_encoding::BASE64.encode(&Sha256::digest(STYLE));
        let expected = format!("style-src 'sha256-{hash}'; ");
        assert!(CONTENT_SECURITY_POLICY.contains(&expected), "the style has changed, its policy needs {expected}");
        assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(Escaped("a<b>&\"c\"").to_string(), "a&lt;b&gt;&amp;&quot;c&quot;");
        let name = "</text><script>\"";
        let mut page = Page::new(name);
        let line = || Line { name, points: vec![(0.0, 1.0), (1.0, 2.0)] };
        page.heading(name);
        page.text(name);
        page.list([name]);
        page.details(name, name);
        page.pairs([(name, name)]);
        page.figures(&[name], [vec![name, name]]);
        page.lines(name, &[line(), line()], &AXIS, &AXIS);
        page.lines_of_all_sizes(name, &[line(), line()], &AXIS, &AXIS);
        page.bars(name, &[name, name], &[Bar { name, parts: vec![1.0, 2.0], remark: name.into() }]);
        assert!(!page.html.contains("<script>"), "{}", page.html);
        assert_eq!(plots(&page), 3, "{}", page.html);
    }

    #[track_caller]
    fn check_lines(points: &[(f64, f64)], expected: usize) {
        let mut page = Page::new("");
        let line = [Line { name: "x", points: points.to_vec() }];
        page.lines("", &line, &AXIS, &AXIS);
        page.lines_of_all_sizes("", &line, &AXIS, &AXIS);
        assert_eq!(plots(&page), expected, "{points:?}: {}", page.html);
        assert!(!page.html.contains("cannot draw") && !page.html.contains("NaN"), "{points:?}: {}", page.html);
    }

    #[test]
    fn any_points_can_be_drawn() {
        check_lines(&[], 0);
        check_lines(&[(0.0, 0.0)], 2);
        check_lines(&[(5.0, 7.0)], 2);
        check_lines(&[(0.0, 0.0), (1.0, 0.0)], 2);
        check_lines(&[(0.0, 10.0), (1.0, 10.0)], 2);
        check_lines(&[(0.0, 1e-9), (1e9, 1e12)], 2);
        check_lines(&[(-5.0, -3.0), (2.0, 4.0)], 2);
    }

    #[test]
    fn empty_bars_are_not_drawn() {
        let mut page = Page::new("");
        page.bars("", &["a", "b"], &[]);
        page.bars("", &["a", "b"], &[Bar { name: "x", parts: vec![0.0, 0.0], remark: String::new() }]);
        assert_eq!(plots(&page), 0, "{}", page.html);
    }

    #[track_caller]
    fn check_wrapped(text: &str, expected: &[&str]) {
        assert_eq!(wrapped(text, 5), expected, "{text:?}");
    }

    #[test]
    fn text_above_a_bar_is_wrapped() {
        check_wrapped("", &[""]);
        check_wrapped("a b c", &["a b c"]);
        check_wrapped("µµ µµ µ", &["µµ µµ", "µ"]);
        check_wrapped("abcdef", &["abcde", "f"]);
        check_wrapped("x abcdefghijkl y", &["x", "abcde", "fghij", "kl y"]);
    }

    #[test]
    fn quantities() {
        for (number, text) in [(0.0, "0"), (0.25, "0.25"), (999.0, "999"), (1500.0, "1.5 k"), (2_340_000.0, "2.34 M")] {
            assert_eq!(quantity(number), text);
        }
    }
}
