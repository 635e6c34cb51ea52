//! The terminal: taken for the whole screen, and given back as it was, however the program ends.

use std::io;
use std::thread;

use ratatui::crossterm::event::{self, Event};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc;

/// Events that may wait; past these the thread that reads them waits.
const EVENTS_MAX: usize = 16;

/// The screen, until this goes.
pub(super) struct Terminal(DefaultTerminal);

impl Terminal {
    /// Takes the screen; from now on a panic gives it back first, too.
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| give_back())
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(|_| ())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // There is nobody to tell if that fails.
    ratatui::try_restore().ok();
}

/// Returns keys and changes of size as they come; the end of it means that the keyboard has gone.
pub(super) fn events() -> mpsc::Receiver<Event> {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    // Not waited for at the end: it sleeps until somebody types.
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    events
}
