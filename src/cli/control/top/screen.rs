//! What the screen shows, and what keys do to it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::figures::{DELIVERED, Figures, rate};

/// Times between two looks that + and - go through.
const INTERVALS: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Looks that are remembered, for what changes over time.
const HISTORY_MAX: usize = 1000;

/// What is shown.
#[derive(Debug)]
pub(super) struct Screen {
    /// Where the node is.
    pub(super) name: String,
    interval: Duration,
    is_paused: bool,
    pub(super) shows_help: bool,
    /// Those of the last answer.
    pub(super) figures: Option<Figures>,
    /// When that came.
    answered: Option<Instant>,
    /// Why the last look brought nothing, if it didn't.
    pub(super) trouble: Option<String>,
    /// Frames received and messages delivered a second, oldest first.
    pub(super) history: VecDeque<(f64, f64)>,
    /// Shards that are scrolled over.
    pub(super) shards_above: usize,
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    End,
    /// To look at the latest after the interval, which may be shorter now.
    Sooner,
    Nothing,
}

impl Screen {
    pub(super) fn new(name: String, interval: Duration) -> Self {
        Self {
            name,
            interval,
            is_paused: false,
            shows_help: false,
            figures: None,
            answered: None,
            trouble: None,
            history: VecDeque::new(),
            shards_above: 0,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Returns for how long there has been no answer; `None` if there was never one.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.answered.map(|answered| now.saturating_duration_since(answered))
    }

    /// Shows an answer.
    pub(super) fn take(&mut self, figures: Figures, now: Instant) {
        let of = |names| rate(figures.rates.as_ref(), names);
        if let (Some(received), Some(delivered)) = (of(&["frames_in"]), of(DELIVERED)) {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back((received, delivered));
        }
        self.shards_above = self.shards_above.min(figures.shards.len().saturating_sub(1));
        (self.figures, self.answered, self.trouble) = (Some(figures), Some(now), None);
    }

    /// Shows that there is no answer, and why.
    pub(super) fn fail(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// Does what a key is for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Asked {
        if key.kind == KeyEventKind::Release {
            return Asked::Nothing;
        }
        let shards = self.figures.as_ref().map_or(0, |figures| figures.shards.len());
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Asked::End,
            KeyCode::Char('q') => return Asked::End,
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc => return Asked::End,
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                return Asked::Sooner;
            }
            KeyCode::Char('+' | '=') => {
                let longer = INTERVALS.iter().find(|interval| **interval > self.interval);
                self.interval = longer.copied().unwrap_or(self.interval);
            }
            KeyCode::Char('-') => {
                let shorter = INTERVALS.iter().rev().find(|interval| **interval < self.interval);
                self.interval = shorter.copied().unwrap_or(self.interval);
                return Asked::Sooner;
            }
            KeyCode::Down => self.shards_above = (self.shards_above + 1).min(shards.saturating_sub(1)),
            KeyCode::Up => self.shards_above = self.shards_above.saturating_sub(1),
            _ => {}
        }
        Asked::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen::new("127.0.0.1:1235".to_owned(), Duration::from_secs(1))
    }

    #[track_caller]
    fn check(screen: &mut Screen, code: KeyCode, asked: Asked) {
        assert_eq!(screen.press(KeyEvent::new(code, KeyModifiers::NONE)), asked, "{code:?}");
    }

    #[test]
    fn keys_that_end() {
        check(&mut screen(), KeyCode::Char('q'), Asked::End);
        check(&mut screen(), KeyCode::Esc, Asked::End);
        check(&mut screen(), KeyCode::Char('c'), Asked::Nothing);
        assert_eq!(screen().press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Asked::End);
    }

    #[test]
    fn interval_has_bounds() {
        let mut screen = screen();
        for code in [KeyCode::Char('+'); 20] {
            check(&mut screen, code, Asked::Nothing);
        }
        assert_eq!(screen.interval(), Duration::from_secs(60));
        for code in [KeyCode::Char('-'); 20] {
            check(&mut screen, code, Asked::Sooner);
        }
        assert_eq!(screen.interval(), Duration::from_millis(100));
        screen.interval = Duration::from_millis(700);
        check(&mut screen, KeyCode::Char('+'), Asked::Nothing);
        assert_eq!(screen.interval(), Duration::from_secs(1));
    }

    #[test]
    fn help_and_pause_are_switched() {
        let mut screen = screen();
        check(&mut screen, KeyCode::Char('?'), Asked::Nothing);
        assert!(screen.shows_help);
        check(&mut screen, KeyCode::Esc, Asked::Nothing);
        assert!(!screen.shows_help);
        check(&mut screen, KeyCode::Char('p'), Asked::Sooner);
        assert!(screen.is_paused());
        check(&mut screen, KeyCode::Down, Asked::Nothing);
        assert_eq!(screen.shards_above, 0, "there are no shards");
    }
}
