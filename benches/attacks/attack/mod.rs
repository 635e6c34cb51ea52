//! The attacks, each of which says what it has seen that must not be.
//!
//! All run at two sizes: at full size for the figures, and at a small one in the fast tests.

mod floods;
mod noise;
mod readers;
mod stages;
mod storms;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::peer::End;

/// What an attack is directed at.
pub(crate) struct Field {
    pub(crate) address: SocketAddr,
    /// The file of the root that has signed the certificate of a node that speaks TLS.
    pub(crate) root: Option<PathBuf>,
    pub(crate) scale: Scale,
    /// What everything random comes from; printed, so that it can be had again.
    pub(crate) seed: u64,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Connections that hold out, and that flood.
    pub(crate) patient: usize,
    pub(crate) flooders: usize,
    /// How long a flood takes, and the time between two bytes that drip.
    pub(crate) flood: Duration,
    pub(crate) drip: Duration,
    /// Connections that end or come at the same time.
    pub(crate) storm: usize,
    /// Connections that send random bytes, in each state.
    pub(crate) noise: usize,
    /// Whether figures of time count, too.
    pub(crate) is_timed: bool,
}

impl Scale {
    /// What the documented figures are from.
    pub(crate) const FULL: Self = Self {
        patient: 1000,
        flooders: 20,
        flood: Duration::from_secs(4),
        drip: Duration::from_secs(1),
        storm: 10_000,
        noise: 500,
        is_timed: true,
    };

    /// What takes a second or two each, and few descriptors.
    pub(crate) const SMALL: Self = Self {
        patient: 40,
        flooders: 4,
        flood: Duration::from_millis(300),
        drip: Duration::from_millis(100),
        storm: 200,
        noise: 20,
        is_timed: false,
    };
}

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// What the node's private memory may grow by meanwhile, in MiB; where nothing is said, the storm itself decides.
    pub(crate) growth_max: Option<u64>,
    /// Whether it needs a node that speaks TLS.
    pub(crate) is_tls: bool,
    /// Whether what it does reaches everybody, so that it can't go on beside a load that counts every message.
    pub(crate) is_heard: bool,
    pub(crate) run: fn(&Field, &mut Notes),
}

/// What an attack has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// Figures for people.
    pub(crate) seen: Vec<String>,
    /// What must not be.
    pub(crate) faults: Vec<String>,
}

impl Notes {
    fn see(&mut self, what: impl Into<String>) {
        self.seen.push(what.into());
    }

    /// Notes a figure that must not be above its bound.
    fn bound(&mut self, what: &str, time: Duration, max: Duration) {
        let text = format!("{what} {} ms", time.as_millis());
        if time > max {
            self.faults.push(format!("{text}, expected at most {} ms", max.as_millis()));
        }
        self.see(text);
    }

    /// Notes how connections ended, which must be in one of these ways.
    fn ends(&mut self, what: &str, ends: &[(End, usize)], expected: &[End]) {
        for (end, count) in ends {
            self.see(format!("{what}: {count} {end:?}"));
            if !expected.contains(end) {
                self.faults.push(format!("{what}: {count} ended with {end:?}, expected one of {expected:?}"));
            }
        }
    }
}

const NONE: Attack = Attack { name: "", growth_max: None, is_tls: false, is_heard: false, run: |_, _| {} };

/// All of them, in the order of the table.
pub(crate) const ALL: &[Attack] = &[
    Attack { name: "nothing", growth_max: Some(8), run: |field, _| std::thread::sleep(field.scale.flood), ..NONE },
    Attack { name: "a byte a second of the request", run: stages::request, ..NONE },
    Attack { name: "a byte a second of TLS", is_tls: true, run: stages::tls, ..NONE },
    Attack { name: "a byte a second of the login", run: stages::login, ..NONE },
    Attack { name: "a byte a second of a message", run: stages::message, ..NONE },
    Attack { name: "connect and never log in", run: stages::mute, ..NONE },
    Attack { name: "half-open peers", run: stages::half_open, ..NONE },
    Attack { name: "a reader that never reads, unicast", growth_max: Some(16), run: readers::unicast, ..NONE },
    Attack {
        name: "a reader that never reads, broadcast",
        growth_max: Some(16),
        is_heard: true,
        run: readers::broadcast,
        ..NONE
    },
    Attack { name: "pings", growth_max: Some(8), run: floods::pings, ..NONE },
    Attack { name: "empty fragments", growth_max: Some(8), run: floods::fragments, ..NONE },
    // Each may fill its outbox with answers that it does not read: twenty times `outbox_bytes_max`.
    Attack { name: "one-byte messages", growth_max: Some(40), run: floods::tiny, ..NONE },
    Attack { name: "giant lengths", growth_max: Some(8), run: floods::giants, ..NONE },
    Attack { name: "UTF-8 cut at any byte", growth_max: Some(8), run: floods::utf8, ..NONE },
    Attack { name: "random bytes in every state", run: noise::plain, ..NONE },
    Attack { name: "random bytes under and in TLS", is_tls: true, run: noise::tls, ..NONE },
    Attack { name: "resets at once", run: storms::resets, ..NONE },
    Attack { name: "come back at once, half of them", run: storms::half_comes_back, ..NONE },
    Attack { name: "come back at once", run: storms::all_come_back, ..NONE },
];
