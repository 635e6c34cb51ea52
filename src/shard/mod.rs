//! A shard: one thread, its event loop, and everything that loop owns.
//!
//! ```text
//!        hand-overs   requests    mail from other shards
//!             └──────────┼──────────┘
//!   ┌────────────────────▼───────────────────────────────────────────────┐
//!   │ turn: poll → receive, decode, route; requests; mail → hand-overs   │
//!   │       → post mail → flush, one send per socket → sweep             │
//!   │ registry uid → sessions     sessions     log of the turn's broadcasts │
//!   └────────────────────┬───────────────────────────────────────────────┘
//!                        └──▶ mail to other shards
//! ```
//! Everything here is touched by this one thread from hand-over to close; nothing is locked or shared
//! but the rings of the mailbox and the two queues from outside, which a turn without news from there does not
//! touch (see `inlet`). It never waits for anything but
//! its poller, and never for another shard. It does no I/O of its own: see [`io`].
//!
//! Three rooms are public for `benches/pieces.rs` alone, and hidden: they are no part of the library.

mod budget;
mod close;
mod deliver;
mod expiry;
mod flush;
mod handover;
mod inlet;
mod intake;
#[cfg(all(test, not(pombo_loom)))]
mod invariants;
pub mod io;
mod lists;
#[doc(hidden)]
pub mod log;
mod logs;
mod memory;
mod meter;
#[doc(hidden)]
pub mod outbox;
mod pool;
mod rate;
mod receive;
mod recipient;
#[doc(hidden)]
pub mod registry;
mod request;
mod session;
mod sessions;
mod slice;
mod stall;
mod sweep;
mod tally;
#[cfg(all(test, not(pombo_loom)))]
mod tests;
mod tls;
mod transport;
mod wheel;
mod yielding;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::info;

pub use handover::{Admission, Handover, LoginNumber, LoginNumbers, Permit, Share};
#[cfg(test)]
pub(crate) use receive::PANIC_PAYLOAD;
pub use request::{Push, Request, SessionInfo, UidPage};
pub use sessions::SessionKey;
pub use tls::Tls;
pub use transport::{Poller, Stream};

use self::budget::TurnBudget;
use self::close::LINGER_STEPS_PER_TURN;
use self::inlet::Inlets;
use self::io::{Network, Readiness};
use self::lists::WorkLists;
use self::logs::Logs;
use self::memory::Memory;
use self::pool::OutboxPool;
use self::registry::Registry;
use self::session::Phase;
use self::sessions::Sessions;
use self::stall::Stalls;
use self::sweep::{Drain, ShedSummary};
use self::wheel::{Tick, Wheel};
use self::yielding::Yielding;
use crate::config::SessionSettings;
use crate::mailbox::Mailbox;
use crate::metrics::Stats;
use crate::presence::Teller;
use crate::uid::UidHasher;

/// Size of the one buffer that sockets are received into, in bytes.
const SCRATCH_BYTES: usize = 64 << 10;

/// The loop and its state, over sockets and clock of `N`.
pub struct Shard<N: Network> {
    network: N,
    hasher: UidHasher,
    settings: Arc<SessionSettings>,
    index: usize,
    mailbox: Mailbox,
    inlets: Inlets<N::Socket>,
    /// Who is told which uids come and go, if anybody.
    presence: Option<Teller>,

    sessions: Sessions<N::Socket>,
    registry: Registry,
    logs: Logs,
    outboxes: OutboxPool,
    wheel: Wheel,

    yielding: Yielding,
    /// The time, as of the last poll.
    now: Instant,
    /// `now` on the wheel.
    tick: Tick,
    /// Sessions that have work to do.
    lists: WorkLists,
    /// Sessions that wait for room in the mail.
    stalled: Stalls,
    /// What this turn may still do.
    budget: TurnBudget,
    /// How many sessions have begun to close, or ended without that: to see whether one has since.
    closings: u64,
    /// Memory that the sessions hold.
    memory: Memory,
    scratch: Box<[u8]>,
    ready: Vec<Readiness>,
    due: Vec<(Tick, SessionKey)>,
    drain: Option<Drain>,
    stats: Stats,
    summary: ShedSummary,
}

/// Whether a shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// There will be another turn.
    Done,
    /// The shard has drained.
    Last,
}

/// What a shard is made of, besides its network.
///
/// Whoever puts something into one of the channels rings the shard's [`crate::mailbox::Bell`] afterwards.
pub struct Parts<S> {
    /// Which of the node's shards it is, from 0; the same as its mailbox's place in [`crate::mailbox::wire`].
    pub index: usize,
    /// The node's hash key; every shard and whoever hands over uids must use the same.
    pub hasher: UidHasher,
    /// The settings until a [`Request::Reload`].
    pub settings: Arc<SessionSettings>,
    /// Its side of the mail.
    pub mailbox: Mailbox,
    /// Where logged-in connections come from.
    pub handovers: flume::Receiver<Handover<S>>,
    /// Where everything else from outside comes from.
    pub requests: flume::Receiver<Request>,
    /// Who is told which uids come and go, if anybody.
    pub presence: Option<Teller>,
}

impl<N: Network> Shard<N> {
    /// Makes a shard that has no sessions yet.
    pub fn new(network: N, parts: Parts<N::Socket>) -> Self {
        let Parts { index, hasher, settings, mailbox, handovers, requests, presence } = parts;
        let now = network.now();
        let stalled = Stalls::new(mailbox.shard_count());
        Self {
            network,
            hasher,
            settings,
            index,
            mailbox,
            inlets: Inlets::new(handovers, requests),
            presence,
            sessions: Sessions::new(),
            registry: Registry::default(),
            logs: Logs::default(),
            outboxes: OutboxPool::new(now),
            wheel: Wheel::new(now),
            yielding: Yielding::default(),
            now,
            tick: Tick::default(),
            lists: WorkLists::default(),
            stalled,
            budget: TurnBudget::new(),
            closings: 0,
            memory: Memory::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            ready: Vec::new(),
            due: Vec::new(),
            drain: None,
            stats: Stats::default(),
            summary: ShedSummary::new(now),
        }
    }

    /// Runs turns until the shard has drained.
    ///
    /// # Panics
    /// When the poller fails: the shard can't serve its sessions any more.
    pub fn run(mut self) {
        while self.turn() == Turn::Done {}
        let Stats { sessions, delivered, broadcast_deliveries, shed_closed, shed_shard_gone, .. } = self.stats();
        let unread = self.abandon();
        info!(
            shard = self.index,
            sessions, delivered, broadcast_deliveries, unread, shed_closed, shed_shard_gone, "shard drained"
        );
    }

    /// Gives up mail, requests and hand-overs, as the last act; returns how many messages nobody will read or post.
    ///
    /// A queue keeps what is in it for as long as somebody may put more there, so it must be emptied, or an asker would wait for
    /// ever. That comes behind the end of the mailbox: whoever puts something there later finds that, see
    /// [`crate::mailbox::Bell::ring`].
    fn abandon(&mut self) -> usize {
        let unread = self.mailbox.abandon();
        self.inlets.abandon();
        unread
    }

    /// Makes one pass: takes what is ready, routes it, sends what is due.
    ///
    /// # Panics
    /// When the poller fails.
    pub fn turn(&mut self) -> Turn {
        self.stats.turns += 1;
        self.wait();
        let begun = self.now;
        self.budget.renew();
        self.take_input();
        self.take_handovers();
        // One look at the clock for both.
        let now = self.network.now();
        self.post(now);
        self.flush(now);
        self.linger_steps(LINGER_STEPS_PER_TURN);
        let turn = self.sweep();
        if cfg!(debug_assertions) {
            self.mailbox.check();
        }
        self.stats.turn_time.note(self.network.now().saturating_duration_since(begun));
        turn
    }

    /// Takes what clients, callers and other shards bring, each first in its turn: the first may spend all of the
    /// budget, and would starve the others if it always were the same.
    fn take_input(&mut self) {
        for place in 0..3 {
            match (self.stats.turns + place) % 3 {
                0 => self.receive_ready(),
                1 => self.take_requests(),
                _ => self.take_mail(),
            }
        }
    }

    /// Returns what was counted so far.
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.registry.sessions() as u64,
            uids: self.registry.len() as u64,
            memory_held: self.memory.held() as u64,
            outbox_bytes: self.memory.outbox_bytes() as u64,
            mail_bytes: self.mailbox.held() as u64,
            mailbox_batches: self.mailbox.waiting() as u64,
            // Messages are counted already; only what else is sent has a count of its own.
            frames_out: self.stats.frames_out + self.stats.delivered + self.stats.broadcast_deliveries,
            ..self.stats
        }
    }

    /// Polls; sleeps unless there is something to do at once.
    fn wait(&mut self) {
        if self.idle_for() == Some(Duration::ZERO) {
            self.poll(Some(Duration::ZERO));
            return;
        }
        // A single shard has no others to wait for.
        if self.mailbox.shard_count() > 1 && self.yielding.is_due() {
            thread::yield_now();
            self.poll(Some(Duration::ZERO));
            let found = self.idle_for() == Some(Duration::ZERO);
            self.yielding.note(found);
            if found {
                return;
            }
        }
        let mut time_out = self.idle_for();
        if !self.mailbox.park() {
            time_out = Some(Duration::ZERO);
        }
        self.poll(time_out);
        self.mailbox.unpark();
    }

    /// Polls for at most `time_out` and notes what each socket is ready for; returns how many were.
    fn poll(&mut self, time_out: Option<Duration>) -> usize {
        let mut ready = std::mem::take(&mut self.ready);
        self.network.poll(time_out, &mut ready).expect("the poller of a shard works, or the process must end");
        self.now = self.network.now();
        self.tick = self.wheel.tick(self.now);
        let count = ready.len();
        for readiness in ready.drain(..) {
            self.note_readiness(readiness);
        }
        self.ready = ready;
        count
    }

    fn note_readiness(&mut self, readiness: Readiness) {
        let key = readiness.session;
        // The poller may tell of a session that has ended since.
        let Some(session) = self.sessions.get(key) else { return };
        if readiness.is_readable || readiness.is_read_closed {
            session.flags.is_readable = true;
            session.flags.is_read_closed |= readiness.is_read_closed;
            self.enqueue(key);
        }
        if readiness.is_writable {
            self.unblock(key);
        }
    }

    /// Whether a session is logged in, and has neither ended nor begun to close.
    #[inline]
    fn is_open(&mut self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.phase == Phase::Open)
    }

    /// Queues a session to be read; see [`WorkLists::enqueue`].
    fn enqueue(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        self.lists.enqueue(key, session);
    }

    /// Returns how long there is nothing to do unless somebody brings something; `None`: for ever.
    fn idle_for(&self) -> Option<Duration> {
        let waits = !self.lists.is_empty()
            || (self.stalled.has_broadcasts() && self.mailbox.takes_broadcast())
            || self.inlets.may_hold()
            || self.mailbox.has_news()
            || self.mailbox.has_unread();
        if waits {
            return Some(Duration::ZERO);
        }
        let sweep = self.wheel.idle_for(self.now);
        match &self.drain {
            Some(drain) => Some(sweep.map_or(drain.interval(), |sweep| sweep.min(drain.interval()))),
            None => sweep,
        }
    }
}
