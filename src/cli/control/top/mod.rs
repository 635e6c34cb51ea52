//! `pombo top`: what a node does, live in a terminal, or as a line of JSON for each moment.
//!
//! ```text
//!   GET /v1/stats ─▶ Sample ─▶ Tracker ─▶ Figures ─▶ Screen, or a line
//! ```
//! One connection, asked again and again; a node that doesn't answer is told of, and asked on. All of it runs on the
//! main thread, but for the reading of keys.

mod figures;
mod poller;
mod sample;
mod screen;
mod terminal;
mod view;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use ratatui::crossterm::event::Event;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::figures::Tracker;
use self::poller::{Polled, Poller};
use self::screen::{Asked, Screen};
use self::terminal::Terminal;
use super::{End, Failure, NodeArgs, print, run};
use crate::clock;

/// How often the screen is drawn while nothing comes, to tell for how long.
const REDRAW: Duration = Duration::from_secs(1);

/// Range of the time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Shows what a node does, as it does it
///
/// In the terminal: q quits, p pauses, + and - change the time between two looks, ? tells more.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Top {
    /// Time between two looks, from 100ms to 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_interval, default_value = "1s")]
    interval: Duration,
    /// Prints a line of JSON for each look, with totals, and rates from the second line on
    #[arg(long)]
    json: bool,
    /// Ends after this many lines
    #[arg(long, value_name = "NUMBER", requires = "json", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_fit = (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval);
    if is_fit { Ok(interval) } else { Err("expected 100ms to 1h".to_owned()) }
}

impl Top {
    /// Runs the command.
    pub(in crate::cli) fn run(&self, variables: &[(OsString, OsString)]) -> ExitCode {
        run("top", self.look(variables))
    }

    async fn look(&self, variables: &[(OsString, OsString)]) -> Result<End, Failure> {
        let callee = self.node.callee(variables)?;
        if !self.json && !io::stdout().is_terminal() {
            return Err(Failure::Settings("standard output is no terminal, expected one, or --json".to_owned()));
        }
        let name = callee.address.to_string();
        let poller = Poller::new(callee, self.node.timeout);
        if self.json { self.print_lines(poller).await } else { self.show(poller, name).await }
    }

    /// Prints a line for each look, until it is interrupted or has printed enough.
    async fn print_lines(&self, mut poller: Poller) -> Result<End, Failure> {
        let mut tracker = Tracker::default();
        let mut looks = interval(self.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut printed = 0;
        while self.count.is_none_or(|count| printed < count) {
            looks.tick().await;
            let line = match poller.poll().await {
                Ok(sample) => serde_json::to_string(&tracker.take(sample)).expect("numbers and texts are JSON"),
                // Who can't be reached at all is told as by the other commands.
                Err(failure) if printed == 0 => return Err(failure),
                Err(failure) => json!({ "at_ms": now_ms(), "error": failure.to_string() }).to_string(),
            };
            print(&line)?;
            printed += 1;
        }
        Ok(End::Done)
    }

    /// Shows the node in the terminal until somebody has seen enough.
    async fn show(&self, poller: Poller, name: String) -> Result<End, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Output);
        let mut ends =
            [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?];
        let [terminate, interrupt, hangup] = &mut ends;
        let unusable = |error| Failure::Settings(format!("can't use the terminal: {error}"));
        let mut terminal = Terminal::open().map_err(unusable)?;
        let mut events = terminal::events();
        let (mut screen, mut tracker) = (Screen::new(name, self.interval), Tracker::default());
        let (mut resting, mut asking) = (Some(poller), None::<Asking>);
        let mut due = Instant::now();
        loop {
            terminal.draw(|frame| view::draw(frame, &screen, Instant::now().into_std())).map_err(Failure::Output)?;
            if !screen.is_paused()
                && due <= Instant::now()
                && let Some(poller) = resting.take()
            {
                due = Instant::now() + screen.interval();
                asking = Some(ask(poller));
            }
            let look_at = if resting.is_some() && !screen.is_paused() { due } else { Instant::now() + REDRAW };
            tokio::select! {
                event = events.recv() => match event {
                    // Without a keyboard nobody could end it.
                    None => return Ok(End::Done),
                    Some(Event::Key(key)) => match screen.press(key) {
                        Asked::End => return Ok(End::Done),
                        Asked::Sooner => due = due.min(Instant::now() + screen.interval()),
                        Asked::Nothing => {}
                    },
                    Some(_) => {}
                },
                _ = terminate.recv() => return Ok(End::Done),
                _ = interrupt.recv() => return Ok(End::Done),
                _ = hangup.recv() => return Ok(End::Done),
                (poller, polled) = answer(&mut asking) => {
                    (resting, asking) = (Some(poller), None);
                    match polled {
                        Ok(sample) => screen.take(tracker.take(sample), Instant::now().into_std()),
                        Err(failure) => screen.fail(failure.to_string()),
                    }
                }
                () = sleep_until(look_at.min(Instant::now() + REDRAW)) => {}
            }
        }
    }
}

/// A look under way; it brings the connection back.
type Asking = Pin<Box<dyn Future<Output = (Poller, Polled)>>>;

fn ask(mut poller: Poller) -> Asking {
    Box::pin(async move {
        let polled = poller.poll().await;
        (poller, polled)
    })
}

/// Waits for the end of the look under way; for ever if there is none.
async fn answer(asking: &mut Option<Asking>) -> (Poller, Polled) {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> u64 {
    u64::try_from(clock::since_1970().as_millis()).unwrap_or(u64::MAX)
}
