//! The part of a turn that depends on the clock: heartbeats, time-outs, and the drain.

use std::time::{Duration, Instant};

use tracing::warn;

use super::close::{CloseReason, Unsent};
use super::io::{Network, SessionKey};
use super::rate::Paused;
use super::session::Phase;
use super::wheel::Tick;
use super::{Shard, Turn};
use crate::config::DrainCode;
use crate::frame::{Opcode, close};
use crate::message::Payload;
use crate::metrics::Stats;

/// Least time between two log lines about shed messages.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

/// A lower bound of the events that one poll returns when more are ready.
const READY_AT_LEAST: usize = 256;

/// Most sessions that a turn packs together after a peak: some hundred microseconds.
const PACKED_AT_ONCE: usize = 1024;

/// State of the log line about shed messages.
#[derive(Debug)]
pub(super) struct ShedSummary {
    /// When the last line was logged.
    at: Instant,
    /// Messages shed until then.
    shed: u64,
}

impl ShedSummary {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, shed: 0 }
    }
}

/// A drain under way. It closes sessions in the order of their slots, spread evenly over the first half of its time.
#[derive(Debug)]
pub(super) struct Drain {
    since: Instant,
    time_out: Duration,
    /// The end of the slots that were in use when the drain began.
    slots_end: u32,
    /// Every session in a slot below this was closed.
    closed_below: u32,
}

impl Drain {
    pub(super) fn new(now: Instant, time_out: Duration, slots_end: u32) -> Self {
        Self { since: now, time_out, slots_end, closed_below: 0 }
    }

    /// Returns the longest time between two turns, so that the closes are spread evenly.
    pub(super) fn interval(&self) -> Duration {
        (self.time_out / 200).clamp(Duration::from_millis(1), Duration::from_millis(50))
    }

    /// Returns the slot below which every session should have been closed at `now`; after half of the time that is all
    /// of them.
    fn due(&self, now: Instant) -> u32 {
        let half = self.time_out / 2;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= half {
            return u32::MAX;
        }
        // The first at once: with one session there is nothing to spread.
        1 + (f64::from(self.slots_end) * elapsed.as_secs_f64() / half.as_secs_f64()) as u32
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.time_out
    }
}

impl<N: Network> Shard<N> {
    /// Checks the sessions whose timers have come up, and the drain; returns whether there will be another turn.
    pub(super) fn sweep(&mut self) -> Turn {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.take_due(self.tick, &mut due);
        if due.iter().any(|&(tick, key)| self.is_overdue(tick, key)) {
            self.poll_until_empty();
        }
        for (tick, key) in due.drain(..) {
            // Stale if the session has ended, or waits for another tick.
            if self.sessions.get(key).is_some_and(|session| session.timer == tick) {
                self.check_deadlines(key);
            }
        }
        due.shrink_to(1024);
        self.due = due;
        self.log_shed();
        if self.outboxes.trim(self.now) {
            self.lists.trim();
            self.sessions.pack(PACKED_AT_ONCE);
        }
        self.sweep_drain()
    }

    /// Whether a session whose timer has come up would be closed for its silence, or for an unfinished message.
    fn is_overdue(&mut self, tick: Tick, key: SessionKey) -> bool {
        let silent_since = self.tick.before(self.settings.heartbeat_interval * 2);
        let (now, message_timeout) = (self.tick, self.settings.message_timeout);
        self.sessions.get(key).is_some_and(|session| {
            let is_late = session.flags.is_mid_message && session.message_since.after(message_timeout) <= now;
            session.timer == tick && session.phase == Phase::Open && (session.heard <= silent_since || is_late)
        })
    }

    /// Polls until no more sockets are ready. Before a session is closed for its silence: its pong may have been
    /// received and not read, if the process was paused or busy, and one poll returns only so many events.
    fn poll_until_empty(&mut self) {
        // Bounded, since sockets may become ready as fast as they are noted.
        for _ in 0..2 + self.sessions.len() / READY_AT_LEAST {
            if self.poll(Some(Duration::ZERO)) == 0 {
                return;
            }
        }
    }

    /// Logs how many messages were shed since the last line, at most one line a second; `slow_consumers` counts from the start.
    fn log_shed(&mut self) {
        let Stats { shed_newest, shed_oldest, shed_closed, slow_consumers, .. } = self.stats;
        let shed = shed_newest + shed_oldest + shed_closed;
        if shed != self.summary.shed && self.now >= self.summary.at + SUMMARY_INTERVAL {
            let since_last = shed - self.summary.shed;
            self.summary = ShedSummary { at: self.now, shed };
            warn!(shard = self.index, messages = since_last, slow_consumers, "messages shed");
        }
    }

    /// Makes sure that a session's deadlines are checked by `at`; see [`Wheel::wake_at`](super::wheel::Wheel::wake_at).
    pub(super) fn wake_at(&mut self, key: SessionKey, at: Tick) {
        let Some(session) = self.sessions.present(key) else { return };
        self.wheel.wake_at(key, session, at);
    }

    /// Checks the deadlines of a session: closes it or sends a ping where one has passed, and sets the timer for the
    /// next.
    fn check_deadlines(&mut self, key: SessionKey) {
        let (tick, settings) = (self.tick, self.settings.clone());
        let Some(session) = self.sessions.present(key) else { return };
        session.timer = Tick::NEVER;
        if session.phase != Phase::Open {
            if session.close_by <= tick {
                return self.remove(key);
            }
            return self.wheel.wake_at(key, session, session.close_by);
        }
        let expires_in = session.expires.left(self.network.wall_time());
        if expires_in == Some(Duration::ZERO) {
            self.stats.expired += 1;
            return self.close(key, CloseReason::of(close::EXPIRED), Unsent::Keep);
        }
        if session.flags.is_stalled || session.flags.is_paused || session.unread.is_some() || session.flags.is_readable
        {
            // The node did not read from it, so its silence does not count. This does not extend `message_timeout`: a
            // stalled session is not in the middle of a message.
            session.heard = tick;
        }
        let is_paused = session.flags.is_paused;
        let message_by = session.message_since.after(settings.message_timeout);
        // A queued session is not closed yet: the rest of its message may have been received, and wait to be read.
        if session.flags.is_mid_message && message_by <= tick && !session.listed.is_queued() {
            self.stats.timeouts += 1;
            let reason = format!("message not finished within {:?}", settings.message_timeout);
            return self.close(key, CloseReason::with_text(close::POLICY, &reason), Unsent::Keep);
        }
        if session.heard.after(settings.heartbeat_interval * 2) <= tick {
            if session.flags.is_pinged {
                self.stats.timeouts += 1;
                return self.close(key, CloseReason::of(close::HEARTBEAT), Unsent::Drop);
            }
            // No ping was sent in time, as after the machine was suspended: the peer gets one interval from now to
            // answer.
            session.heard = tick.before(settings.heartbeat_interval);
        }
        let ping_by = session.heard.after(settings.heartbeat_interval);
        let silent_by = session.heard.after(settings.heartbeat_interval * 2);
        let expires = expires_in.map_or(Tick::NEVER, |left| tick.after(left));
        let mut next = if ping_by <= tick { silent_by } else { ping_by }.min(expires);
        if session.flags.is_mid_message {
            next = next.min(message_by);
        }
        if ping_by <= tick && !session.flags.is_pinged {
            session.flags.is_pinged = true;
            self.stats.frames_out += 1;
            self.append(key, |outbox| outbox.push(Opcode::Ping, &Payload::Borrowed(&[])));
        }
        if is_paused {
            match self.check_pause(key) {
                Paused::Until(tick) => next = next.min(tick),
                Paused::Over => {}
                Paused::Closed => return,
            }
        }
        self.wake_at(key, next);
    }

    /// Returns the reason that sessions are closed with at the drain.
    pub(super) fn drain_reason(&self) -> CloseReason<'static> {
        CloseReason::of(match self.settings.drain_code {
            DrainCode::GoingAway => close::GOING_AWAY,
            DrainCode::ServiceRestart => close::SERVICE_RESTART,
        })
    }

    fn sweep_drain(&mut self) -> Turn {
        let Some(drain) = &mut self.drain else { return Turn::Done };
        let from = drain.closed_below;
        let to = drain.due(self.now).max(from);
        drain.closed_below = to;
        let is_over = drain.is_over(self.now);
        let reason = self.drain_reason();
        let mut slot = from;
        while let Some(key) = self.sessions.next_key(slot).filter(|key| key.slot() < to) {
            slot = key.slot() + 1;
            self.close(key, reason, Unsent::Keep);
        }
        let is_empty = self.sessions.len() == 0;
        // The gateway drops its end of the queue when no login is under way any more.
        let no_more = self.inlets.handovers.is_exhausted();
        if is_over {
            // A last attempt to send. Messages that are left after it are counted as shed when their session is
            // removed.
            self.flush(self.now);
            self.linger_steps(self.lists.closing_len());
            while let Some(key) = self.sessions.next_key(0) {
                self.remove(key);
            }
        }
        if is_over || (is_empty && no_more) { Turn::Last } else { Turn::Done }
    }
}
