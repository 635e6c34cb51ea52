//! The plan of a run, which a seed decides: the number of shards, bounds and policies, and the faults of the network.

use std::time::Duration;

use fastrand::Rng;

use super::network::{Faults, is_one_in};
use super::world::UIDS;
use crate::config::{Config, DrainCode, DuplicateLogin, SessionSettings, SlowConsumer};
use crate::mailbox::SHARE_FROM;
use crate::protocol::Protocol;

/// Length of the longest uid that logs in, and the bytes that a command and a frame add to a message.
const AROUND_A_MESSAGE: usize = 64;

/// How much longer than its message a frame of JSON may be: an escaped byte takes six, and a quarter of the filling is
/// escaped.
const JSON_FACTOR: usize = 3;
const JSON_EXTRA: usize = 200;

/// From this length on the end of a message may be received straight into its buffer: that takes more than 64 KiB to
/// come, and as much that came before.
pub(super) const LONG_FROM: usize = 140_000;

pub(super) struct Plan {
    pub(super) shards: usize,
    pub(super) settings: SessionSettings,
    pub(super) mailbox_bytes_max: usize,
    pub(super) faults: Faults,
    /// Time that passes with each reading of the clock.
    pub(super) look: Duration,
    /// Longest message, without its uid.
    pub(super) length_max: usize,
    /// Connections at a time.
    pub(super) connections_max: usize,
    /// Most messages that a client sends at once.
    pub(super) burst_max: usize,
    /// How many of [`super::world::UIDS`] log in and receive messages; with few, duplicate logins are frequent.
    pub(super) uids: usize,
    /// Whether one of six messages is a long one, of [`LONG_FROM`] bytes or more.
    pub(super) has_long: bool,
    /// Whether half of the clients speak the protocol of the tests, whose messages are longer than their payloads.
    pub(super) has_json: bool,
    /// Whether connections log in and fail as often as callers send requests.
    pub(super) is_restless: bool,
    /// Whether settings are reloaded during the run.
    pub(super) reloads: bool,
    /// Whether the drain begins under load.
    pub(super) drains_early: bool,
}

impl Plan {
    pub(super) fn new(random: &mut Rng) -> Self {
        let length_max = match random.u32(..40) {
            0..10 => 300_000,
            10..17 => 9_000,
            17..25 => SHARE_FROM + 40,
            _ => 300,
        };
        let has_long = length_max > LONG_FROM;
        let has_json = random.bool();
        let message_bytes_max = length_max + AROUND_A_MESSAGE;
        let encoded_max = if has_json { JSON_FACTOR * message_bytes_max + JSON_EXTRA } else { message_bytes_max };
        let outbox_bytes_max = encoded_max + 14 + random.usize(..3 * message_bytes_max);
        let settings = SessionSettings {
            message_bytes_max,
            message_timeout: Duration::from_secs(random.u64(2..40)),
            rate_patience: Duration::from_secs(random.u64(1..10)),
            outbox_bytes_max,
            memory_bytes_max: if random.bool() { random.usize(2..8) * outbox_bytes_max } else { 64 << 20 },
            heartbeat_interval: Duration::from_secs(random.u64(2..30)),
            close_timeout: Duration::from_millis(random.u64(100..3_000)),
            drain_code: if random.bool() { DrainCode::GoingAway } else { DrainCode::ServiceRestart },
            uid_sessions_max: random.usize(1..5),
            login_reply: "hello {uid}".to_owned(),
            ..Config::default().session()
        };
        let faults = Faults {
            partial: [0, 3, 10, 50][random.usize(..4)],
            spurious: [0, 10, 100][random.usize(..3)],
            refusal: [0, 0, 200][random.usize(..3)],
        };
        let mut plan = Self {
            shards: random.usize(1..4),
            settings,
            mailbox_bytes_max: [512, 4 << 10, 1 << 20][random.usize(..3)],
            faults,
            look: Duration::from_micros(if random.bool() { random.u64(..300) } else { 0 }),
            length_max,
            connections_max: random.usize(2..15),
            burst_max: if !has_long && is_one_in(random, 2) { 30 } else { 3 },
            uids: [2, 4, UIDS.len()][random.usize(..3)],
            has_long,
            has_json,
            is_restless: random.bool(),
            reloads: is_one_in(random, 4),
            drains_early: random.bool(),
        };
        plan.settings = plan.other_settings(random);
        plan
    }

    /// Draws other settings, of those that a reload may change.
    pub(super) fn other_settings(&self, random: &mut Rng) -> SessionSettings {
        let mut rate = |most: usize| is_one_in(random, 8).then(|| random.usize(1..most));
        let (message_rate_max, byte_rate_max) = (rate(200), rate(50_000));
        let policies = [SlowConsumer::Disconnect, SlowConsumer::DropNewest, SlowConsumer::DropOldest];
        let meetings = [DuplicateLogin::Replace, DuplicateLogin::Reject, DuplicateLogin::Share];
        SessionSettings {
            message_rate_max,
            byte_rate_max,
            slow_consumer: policies[random.usize(..3)],
            duplicate_login: meetings[random.usize(..3)],
            ..self.settings.clone()
        }
    }

    /// Draws the protocol of a client.
    pub(super) fn protocol(&self, random: &mut Rng) -> Protocol {
        if self.has_json && random.bool() { Protocol::Json } else { Protocol::Plain }
    }

    /// Returns the greatest length of a message of `bytes` when it is encoded.
    pub(super) fn encoded_max(&self, bytes: usize) -> usize {
        if self.has_json { JSON_FACTOR * bytes + JSON_EXTRA } else { bytes }
    }

    /// Draws the length of a message.
    pub(super) fn length(&self, random: &mut Rng) -> usize {
        let near_the_bounds_of_headers_and_sharing = [125, 126, 127, SHARE_FROM - 1, SHARE_FROM, SHARE_FROM + 1];
        if self.has_long && is_one_in(random, 6) {
            return random.usize(LONG_FROM..=self.length_max);
        }
        let length = match random.u32(..20) {
            0 => 0,
            1 => random.usize(..=self.length_max),
            2 => near_the_bounds_of_headers_and_sharing[random.usize(..6)],
            _ => random.usize(10..200),
        };
        length.min(self.length_max)
    }
}
