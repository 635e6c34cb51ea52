//! Draws the screen: from the most needed downwards, so that a small terminal shows what it has room for.
//!
//! ```text
//!   head         where, since when, how often
//!   trouble      only when there is any
//!   totals       3 lines
//!   throughput   2 curves, side by side
//!   shards       a row each
//!   reasons      closes and refusals, side by side
//!   keys
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Sparkline, Table};

use super::figures::{DELIVERED, Figures, Rates, Reason, SHED, ShardFigures, TurnTimes, rate, total};
use super::sample::Counts;
use super::screen::Screen;
use crate::config::ConnectionLimit;
use crate::frame::close;
use crate::gateway::Reason as Refused;

/// Heights of parts, and of screens that have room for them.
const TOTALS_HEIGHT: u16 = 3;
const CURVES_HEIGHT: u16 = 4;
const REASONS_HEIGHT: u16 = 5;
const SHARDS_HEIGHT_MIN: u16 = 3;
const WITH_TOTALS: u16 = 6;
const WITH_SHARDS: u16 = 9;
const WITH_CURVES: u16 = 15;
const WITH_REASONS: u16 = 20;

const KEYS: &str = " q quit   p pause   + - interval   ↑ ↓ shards   ? help";

/// Draws all that the frame has room for.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, now: Instant) {
    let area = frame.area();
    let when = |is_shown: bool, height: u16| Constraint::Length(if is_shown { height } else { 0 });
    let notice = notice(screen, now);
    let [head, trouble, totals, curves, shards, reasons, keys] = Layout::vertical([
        Constraint::Length(1),
        when(notice.is_some(), 1),
        when(area.height >= WITH_TOTALS, TOTALS_HEIGHT),
        when(area.height >= WITH_CURVES, CURVES_HEIGHT),
        if area.height >= WITH_SHARDS { Constraint::Min(SHARDS_HEIGHT_MIN) } else { Constraint::Length(0) },
        when(area.height >= WITH_REASONS, REASONS_HEIGHT),
        when(area.height >= 3, 1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(fitting(head.width, head_pieces(screen))), head);
    if let Some(notice) = notice {
        frame.render_widget(notice, trouble);
    }
    if let Some(figures) = &screen.figures {
        let lines = total_pieces(figures).map(|pieces| fitting(totals.width, pieces));
        frame.render_widget(Paragraph::new(lines.to_vec()), totals);
        draw_curves(frame, curves, &screen.history);
        draw_shards(frame, shards, &figures.shards, screen.shards_above);
        let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).areas(reasons);
        draw_reasons(frame, left, "closed", &figures.closes, close_name);
        draw_reasons(frame, right, "refused", &figures.refusals, refusal_name);
    }
    frame.render_widget(Paragraph::new(KEYS).dim(), keys);
    if screen.shows_help {
        draw_help(frame, area);
    }
}

/// What belongs together, and is shown whole or not at all: half of a number would be another one.
type Piece = Vec<Span<'static>>;

/// Puts pieces on a line, as many as it has room for.
fn fitting(width: u16, pieces: Vec<Piece>) -> Line<'static> {
    let mut room = usize::from(width);
    let mut line = Line::default();
    for piece in pieces {
        let needed: usize = piece.iter().map(Span::width).sum();
        if needed > room {
            break;
        }
        room -= needed;
        line.spans.extend(piece);
    }
    line
}

fn head_pieces(screen: &Screen) -> Vec<Piece> {
    let pace = match screen.is_paused() {
        true => "   paused".yellow().bold(),
        false => format!("   every {}", humantime::format_duration(screen.interval())).dim(),
    };
    let Some(figures) = &screen.figures else {
        return vec![vec![" pombo".bold()], vec![format!(" at {}", screen.name).into()], vec![pace]];
    };
    let state = match &*figures.state {
        "serving" if figures.unready.is_empty() => "   serving".green(),
        "serving" => "   not ready".yellow().bold(),
        state => format!("   {state}").yellow().bold(),
    };
    let uptime = humantime::format_duration(Duration::from_secs(figures.uptime_ms / 1000));
    vec![
        vec![" pombo ".bold(), figures.version.clone().into()],
        vec![format!(" at {}", screen.name).into()],
        vec![state],
        vec![format!("   up {uptime}").into()],
        vec![pace],
    ]
}

/// Returns a line on what is wrong: there is no answer, or the node accepts no connections.
fn notice(screen: &Screen, now: Instant) -> Option<Paragraph<'static>> {
    if let Some(why) = &screen.trouble {
        return Some(Paragraph::new(trouble_line(screen, why, now)).white().on_red());
    }
    let figures = screen.figures.as_ref()?;
    let is_unready = figures.state == "serving" && !figures.unready.is_empty();
    let reasons = || format!(" accepts no connections: {}", figures.unready.join("; "));
    is_unready.then(|| Paragraph::new(reasons()).yellow().bold())
}

fn trouble_line(screen: &Screen, why: &str, now: Instant) -> String {
    match screen.silence(now) {
        Some(silence) => {
            let silence = humantime::format_duration(Duration::from_secs(silence.as_secs()));
            format!(" no answer for {silence}, trying again: {why}")
        }
        None => format!(" no answer yet, trying again: {why}"),
    }
}

fn total_pieces(figures: &Figures) -> [Vec<Piece>; 3] {
    let count = |names| whole(total(&figures.totals, names));
    let held = |names| bytes(total(&figures.totals, names) as f64);
    let pace = |names| pace(rate(figures.rates.as_ref(), names));
    let bytes_pace = |names| match rate(figures.rates.as_ref(), names) {
        Some(rate) => format!("{}/s", bytes(rate)),
        None => "–".to_owned(),
    };
    let piece = |(name, value): (&'static str, String)| vec![format!(" {name} ").dim(), value.bold(), "  ".into()];
    // Memory is a plan, which refuses no connection.
    let is_plan = figures.connections_limited_by.as_deref() == Some(ConnectionLimit::Memory.name());
    let plan = if is_plan { " planned" } else { "" };
    let connections = format!("{} of {}{plan}", whole(figures.connections), whole(figures.connections_ceiling));
    let people = [
        ("connections", connections),
        ("sessions", count(&["sessions"])),
        ("uids", count(&["uids"])),
        ("log-ins", pace(&["logins"])),
    ];
    let messages = [
        ("in", format!("{}, {}", pace(&["frames_in"]), bytes_pace(&["bytes_in"]))),
        ("delivered", pace(DELIVERED)),
        ("out", bytes_pace(&["bytes_out"])),
        ("offline", pace(&["offline"])),
    ];
    let pressure = [
        ("mail", pace(&["mail_letters"])),
        ("waiting", held(&["mail_bytes"])),
        ("held", held(&["memory_held"])),
        ("slow", count(&["slow_consumers"])),
        ("shed", count(SHED)),
    ];
    [people.map(piece).to_vec(), messages.map(piece).to_vec(), pressure.map(piece).to_vec()]
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, history: &VecDeque<(f64, f64)>) {
    let areas: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(1).areas(area);
    let received: Vec<f64> = history.iter().map(|(received, _)| *received).collect();
    let delivered: Vec<f64> = history.iter().map(|(_, delivered)| *delivered).collect();
    for (area, name, rates, colour) in
        [(areas[0], "in", received, Color::Cyan), (areas[1], "delivered", delivered, Color::Green)]
    {
        let shown = &rates[rates.len().saturating_sub(area.width.into())..];
        let most = shown.iter().copied().fold(0.0, f64::max);
        let latest = format!(" {name} {} ", pace(rates.last().copied()));
        let title = fitting(area.width, vec![vec![latest.into()], vec![format!("most {} ", pace(Some(most))).into()]]);
        // In thousandths, since a curve takes whole numbers and a rate may be below one.
        let heights = shown.iter().map(|rate| (rate * 1000.0) as u64);
        let curve = Sparkline::default().data(heights).style(Style::new().fg(colour));
        frame.render_widget(curve.block(Block::new().borders(Borders::TOP).title(title)), area);
    }
}

/// The columns of the shards, with their widths.
const COLUMNS: [(&str, u16); 10] = [
    ("shard", 5),
    ("sessions", 8),
    ("uids", 8),
    ("in/s", 7),
    ("deliv/s", 7),
    ("mail/s", 7),
    ("turn p50", 8),
    ("p99", 7),
    ("slow", 5),
    ("shed", 5),
];

fn draw_shards(frame: &mut Frame<'_>, area: Rect, shards: &[ShardFigures], above: usize) {
    // Those that there is room for: half of a number would be another one.
    let mut end = 0;
    let columns = COLUMNS.iter().take_while(|(_, width)| {
        end += width + 1;
        end <= area.width + 1
    });
    let columns = columns.count();
    let row = |cells: [String; COLUMNS.len()]| {
        Row::new(cells.into_iter().take(columns).map(|cell| Line::from(cell).right_aligned()))
    };
    let rows = shards.iter().enumerate().skip(above).map(|(index, shard)| match shard {
        ShardFigures::Counted { totals, rates, turns } => row(cells(index, totals, rates.as_ref(), *turns)),
        ShardFigures::Silent { .. } => {
            let mut cells = [const { String::new() }; COLUMNS.len()];
            (cells[0], cells[1]) = (index.to_string(), "silent".to_owned());
            row(cells).style(Style::new().fg(Color::Red))
        }
    });
    let widths = COLUMNS.iter().take(columns).map(|(_, width)| Constraint::Length(*width));
    let title = if above == 0 { " shards ".to_owned() } else { format!(" shards, {above} more above ") };
    let head = row(COLUMNS.map(|(name, _)| name.to_owned())).style(Style::new().add_modifier(Modifier::DIM));
    let table = Table::new(rows, widths).header(head);
    frame.render_widget(table.block(Block::new().borders(Borders::TOP).title(title)), area);
}

fn cells(index: usize, totals: &Counts, rates: Option<&Rates>, turns: TurnTimes) -> [String; COLUMNS.len()] {
    let total = |names| short(total(totals, names) as f64);
    let rate = |names| rate(rates, names).map_or("–".to_owned(), short);
    let time = |time: Option<Duration>| time.map_or("–".to_owned(), short_time);
    [
        index.to_string(),
        total(&["sessions"]),
        total(&["uids"]),
        rate(&["frames_in"]),
        rate(DELIVERED),
        rate(&["mail_letters"]),
        time(turns.p50),
        time(turns.p99),
        total(&["slow_consumers"]),
        total(SHED),
    ]
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, title: &str, reasons: &[Reason], name: impl Fn(&str) -> String) {
    let block = Block::new().borders(Borders::TOP).title(format!(" {title} "));
    let room = usize::from(block.inner(area).height);
    let mut lines: Vec<_> = reasons.iter().map(|reason| reason_line(reason, name(&reason.reason))).collect();
    if lines.is_empty() {
        lines.push(Line::from(" none").dim());
    } else if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::from(format!(" and {} more kinds", reasons.len() - lines.len())).dim());
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn reason_line(reason: &Reason, name: String) -> Line<'static> {
    let line = Line::from(format!(" {:>6} {:>7}  {name}", short(reason.total as f64), pace(reason.rate)));
    if reason.rate.is_some_and(|rate| rate > 0.0) { line.yellow() } else { line }
}

/// Says what a reason to refuse a connection means, in the words of the console.
fn refusal_name(reason: &str) -> String {
    let known = Refused::ALL.iter().find(|known| known.name() == reason);
    known.map_or_else(|| reason.replace('_', " "), |known| known.text().to_owned())
}

/// Says what a close code means.
fn close_name(code: &str) -> String {
    let meaning = code.parse().ok().and_then(close::meaning);
    meaning.map_or_else(|| code.to_owned(), |meaning| format!("{code} {meaning}"))
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    const HELP: [&str; 13] = [
        "q, Esc, Ctrl-C   quit",
        "p                pause, and go on",
        "+ -              longer or shorter between two looks",
        "↑ ↓              scroll the shards",
        "?                this help",
        "",
        "in        frames received",
        "delivered messages taken by outboxes, broadcasts too",
        "mail      messages from one shard to another",
        "turn      passes of a shard's loop since the last look",
        "held      memory of messages that are under way",
        "slow      sessions closed as they read too slowly",
        "shed      messages dropped, see docs/metrics.md",
    ];
    let width = HELP.iter().map(|line| line.chars().count()).max().unwrap_or(0) as u16 + 4;
    let [column] = Layout::horizontal([Constraint::Max(width)]).flex(ratatui::layout::Flex::Center).areas(area);
    let height = HELP.len() as u16 + 2;
    let [place] = Layout::vertical([Constraint::Max(height)]).flex(ratatui::layout::Flex::Center).areas(column);
    frame.render_widget(Clear, place);
    let lines = HELP.map(|line| Line::from(format!(" {line}")));
    frame.render_widget(Paragraph::new(lines.to_vec()).block(Block::bordered().title(" pombo top ")), place);
}

/// A rate, or that there is none yet.
fn pace(rate: Option<f64>) -> String {
    rate.map_or("–/s".to_owned(), |rate| format!("{}/s", short(rate)))
}

/// A whole number, its thousands apart.
fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in five places at most.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        ..9_999.5 => (number, ""),
        ..999_500.0 => (number / 1e3, "k"),
        ..999.5e6 => (number / 1e6, "M"),
        _ => (number / 1e9, "G"),
    };
    let digits = if number < 9.95 { format!("{number:.1}") } else { format!("{number:.0}") };
    format!("{}{unit}", digits.trim_end_matches(".0"))
}

/// A number of bytes.
fn bytes(number: f64) -> String {
    let text = short(number);
    match text.find(char::is_alphabetic) {
        Some(unit) => format!("{} {}B", &text[..unit], &text[unit..]),
        None => format!("{text} B"),
    }
}

/// A time in seven places at most.
fn short_time(time: Duration) -> String {
    match time.as_nanos() as f64 / 1e3 {
        us @ ..9.95 => format!("{us:.1} µs"),
        us @ ..999.5 => format!("{us:.0} µs"),
        us @ ..9_950.0 => format!("{:.1} ms", us / 1e3),
        us @ ..999_500.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;

    fn numbers<T: Copy>(pairs: &[(&str, T)]) -> std::collections::BTreeMap<String, T> {
        pairs.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    }

    fn shard(sessions: u64, delivered: f64) -> ShardFigures {
        ShardFigures::Counted {
            totals: numbers(&[
                ("sessions", sessions),
                ("uids", sessions - 1),
                ("slow_consumers", 2),
                ("shed_oldest", 31),
            ]),
            rates: Some(numbers(&[("frames_in", 52.3), ("delivered", delivered), ("mail_letters", 26.0)])),
            turns: TurnTimes { p50: Some(Duration::from_micros(38)), p99: Some(Duration::from_micros(1_230)) },
        }
    }

    fn figures() -> Figures {
        let reason = |reason: &str, total, rate| Reason { reason: reason.to_owned(), total, rate: Some(rate) };
        let totals = [("sessions", 15_020), ("uids", 15_018), ("mail_bytes", 0), ("memory_held", 2_500_000)];
        let more = [("slow_consumers", 4), ("shed_oldest", 60), ("shed_closed", 2)];
        let rates = [("logins", 1.25), ("frames_in", 104.6), ("bytes_in", 12_600.0), ("delivered", 90.0)];
        let more_rates =
            [("broadcast_deliveries", 15_000.0), ("bytes_out", 1_450_000.0), ("offline", 0.0), ("mail_letters", 52.0)];
        Figures {
            at_ms: 1_760_000_000_000,
            uptime_ms: 11_525_300,
            version: "0.1.0".to_owned(),
            state: "serving".to_owned(),
            unready: Vec::new(),
            connections: 15_023,
            connections_max: 1_000_000,
            connections_ceiling: 19_932,
            connections_limited_by: Some("descriptors".to_owned()),
            totals: numbers(&[&totals[..], &more].concat()),
            rates: Some(numbers(&[&rates[..], &more_rates].concat())),
            closes: vec![reason("1000", 8_214, 0.0), reason("4008", 4, 0.5), reason("4999", 1, 0.0)],
            refusals: vec![reason("login_timeout", 12, 0.0)],
            shards: vec![
                shard(7_511, 45.0),
                shard(7_509, 1_045.0),
                ShardFigures::Silent { error: "no answer in time".to_owned() },
            ],
        }
    }

    fn screen() -> Screen {
        let mut screen = Screen::new("127.0.0.1:1235".to_owned(), Duration::from_secs(1));
        for step in 0..60_u32 {
            let mut figures = figures();
            figures.rates = figures.rates.map(|mut rates| {
                rates.insert("frames_in".to_owned(), f64::from(step % 20));
                rates.insert("delivered".to_owned(), f64::from(step) * 10.0);
                rates
            });
            screen.take(figures, Instant::now());
        }
        screen
    }

    /// What a terminal of this size shows, without the spaces at the ends of lines.
    fn shown(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory is a terminal");
        terminal.draw(|frame| draw(frame, screen, Instant::now())).expect("memory takes all");
        let buffer = terminal.backend().buffer();
        let lines = buffer.content.chunks(width.max(1).into()).map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn check(screen: &Screen, width: u16, height: u16, expected: &str) {
        let shown = shown(screen, width, height);
        assert_eq!(shown.trim_end(), expected.trim_matches('\n'), "\n{shown}");
    }

    #[test]
    fn shows_what_the_documentation_shows() {
        let document = include_str!("../../../../docs/watching.md");
        let mut blocks = document.split("```").filter_map(|block| block.strip_prefix("text\n"));
        let screenshot = blocks.find(|block| block.starts_with(" pombo ")).expect("it has a screenshot");
        check(&screen(), 80, 21, screenshot);
    }

    #[test]
    fn small_terminal_shows_no_half_numbers() {
        check(
            &screen(),
            40,
            10,
            "
 pombo 0.1.0 at 127.0.0.1:1235   serving
 connections 15,023 of 19,932
 in 19/s, 13 kB/s   delivered 16k/s
 mail 52/s   waiting 0 B   held 2.5 MB
 shards ────────────────────────────────
shard sessions     uids    in/s deliv/s
    0     7511     7510      52      45
    1     7509     7508      52    1045
    2   silent
 q quit   p pause   + - interval   ↑ ↓ s
",
        );
        check(&screen(), 14, 2, " pombo 0.1.0");
    }

    #[test]
    fn node_that_does_not_answer_is_told() {
        let mut screen = Screen::new("unix:/x".to_owned(), Duration::from_secs(5));
        screen.fail("no answer within 10s".to_owned());
        let first = " pombo at unix:/x   every 5s\n no answer yet, trying again: no answer within 10s";
        check(&screen, 80, 2, first);
        screen.take(
            figures(),
            Instant::now().checked_sub(Duration::from_secs(125)).expect("the machine is up for longer"),
        );
        screen.fail("no answer within 10s".to_owned());
        screen.press(KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE));
        let then = " pombo 0.1.0 at unix:/x   serving   up 3h 12m 5s   paused\n \
                    no answer for 2m 5s, trying again: no answer within 10s";
        check(&screen, 80, 2, then);
    }

    #[test]
    fn node_that_accepts_nobody_says_why() {
        let mut screen = screen();
        let reason = "no descriptor is free for another connection";
        screen.take(Figures { unready: vec![reason.to_owned()], ..figures() }, Instant::now());
        let expected = " pombo 0.1.0 at 127.0.0.1:1235   not ready   up 3h 12m 5s   every 1s\n \
                        accepts no connections: no descriptor is free for another connection";
        check(&screen, 80, 2, expected);
        // The head of a node that drains says so; its reason would be the same.
        let drains = vec!["the node drains".to_owned()];
        screen.take(Figures { state: "draining".to_owned(), unready: drains, ..figures() }, Instant::now());
        check(&screen, 50, 1, " pombo 0.1.0 at 127.0.0.1:1235   draining");
        assert!(!shown(&screen, 80, 20).contains("the node drains"));
    }

    #[test]
    fn ceiling_by_memory_is_a_plan() {
        let mut screen = screen();
        let by_memory = Some(ConnectionLimit::Memory.name().to_owned());
        screen.take(Figures { connections_limited_by: by_memory, ..figures() }, Instant::now());
        assert!(shown(&screen, 80, 10).contains(" connections 15,023 of 19,932 planned   sessions "));
    }

    #[test]
    fn every_size_is_drawn() {
        let (mut helping, mut failing) = (screen(), screen());
        helping.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
        failing.fail("no answer".to_owned());
        (0..12).for_each(|_| _ = failing.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE)));
        for width in [0, 1, 2, 5, 11, 30, 61, 80, 200] {
            for height in [0, 1, 2, 3, 5, 6, 8, 9, 14, 15, 19, 20, 60] {
                for screen in [&helping, &failing] {
                    shown(screen, width, height);
                }
            }
        }
        assert!(shown(&helping, 80, 24).contains("q, Esc, Ctrl-C   quit"));
        assert!(shown(&failing, 80, 24).contains(" shards, 2 more above "));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.26, "0.3"),
            (9.94, "9.9"),
            (9.96, "10"),
            (9_999.0, "9999"),
            (10_400.0, "10k"),
            (999_499.0, "999k"),
            (1_000_000.0, "1M"),
            (1_250_000.0, "1.2M"),
            (2.5e9, "2.5G"),
            (4e12, "4000G"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!((bytes(12.0), bytes(12_000.0)), ("12 B".to_owned(), "12 kB".to_owned()));
        for (us, text) in [(0, "0.0 µs"), (12, "12 µs"), (9_960, "10 ms"), (1_200, "1.2 ms"), (1_500_000, "1.5 s")] {
            assert_eq!(short_time(Duration::from_micros(us)), text);
        }
    }

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567"), (100000, "100,000")] {
            assert_eq!(whole(number), text);
        }
    }
}
