//! Logs: where they go, how they look, and the level that a reload can change.
//!
//! Log lines go to stderr, so that stdout holds only what was asked for. There is one subscriber in the
//! process, started by `serve`; the library itself only emits events.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// The running log of the process.
pub(super) struct Log {
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Starts logging, in colour if `colour` and stderr is a terminal.
    ///
    /// A process has one log: if another was started before, that one stays and this one is idle.
    pub(super) fn start(format: LogFormat, level: LogLevel, colour: bool) -> Self {
        let (filter, level) = reload::Layer::new(filter(level));
        // An event that can't be written would be told on stderr, which panics when nobody reads that either.
        let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
        let lines = match format {
            LogFormat::Human => lines.with_ansi(colour && io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).try_init().ok();
        Self { level }
    }

    /// Changes the least severe event that is logged.
    pub(super) fn change_level(&self, level: LogLevel) {
        // Fails only if the subscriber has gone, and then there is nothing to change.
        self.level.reload(filter(level)).ok();
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
