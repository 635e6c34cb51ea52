//! A shard: one thread, its event loop, and everything that loop owns.
//!
//! ```text
//!        hand-overs   requests    mail from other shards
//!             └──────────┼──────────┘
//!   ┌────────────────────▼───────────────────────────────────────────────────┐
//!   │ turn: poll → receive, decode, route; requests; mail → hand-overs       │
//!   │       → post mail → flush, one send per socket → linger steps → sweep  │
//!   │ registry uid → sessions     sessions     log of the turn's broadcasts  │
//!   └────────────────────┬───────────────────────────────────────────────────┘
//!                        └──▶ mail to other shards
//! ```
//! Only this thread touches the state of a shard. Shared with other threads are the rings of the mailbox, which have no
//! lock, and two queues from outside, which have one: a turn touches those only after an entry was announced (see
//! `inlet`). A shard waits for nothing but its poller, and never for another shard. Clock and sockets come in through
//! [`io`].
//!
//! Three modules are public for `benches/pieces.rs` alone, and hidden: they are no part of the library.

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
pub use request::{HashedPush, Request, SessionInfo, UidPage};
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
use crate::presence::PresenceSender;
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
    /// Reports which uids come online and go offline; absent without a `hook_url`.
    presence: Option<PresenceSender>,

    sessions: Sessions<N::Socket>,
    registry: Registry,
    logs: Logs,
    outboxes: OutboxPool,
    wheel: Wheel,

    yielding: Yielding,
    /// The time, as of the last poll.
    now: Instant,
    /// `now` in ticks of the wheel.
    tick: Tick,
    /// Sessions that have work to do.
    lists: WorkLists,
    /// Sessions with a message that no batch of mail has room for yet.
    stalled: Stalls,
    /// Work that this turn may still take in.
    budget: TurnBudget,
    /// Counts sessions that begin to close and sessions that end. While it is unchanged, every session that was open
    /// still is.
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

/// Whether a shard has another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// There will be another turn.
    Done,
    /// The shard has drained.
    Last,
}

/// Everything that a shard is made from, besides its network.
///
/// A thread that sends into one of the channels must call [`crate::mailbox::ShardWaker::wake`] afterwards.
pub struct Parts<S> {
    /// Index among the node's shards, from 0; the same as that of its mailbox in [`crate::mailbox::wire`].
    pub index: usize,
    /// The node's hash key; the gateway and every shard must use the same.
    pub hasher: UidHasher,
    /// The settings until a [`Request::Reload`].
    pub settings: Arc<SessionSettings>,
    /// The shard's end of the mail.
    pub mailbox: Mailbox,
    /// Logged-in connections from the gateway.
    pub handovers: flume::Receiver<Handover<S>>,
    /// Requests from the program around the server, and from control.
    pub requests: flume::Receiver<Request>,
    /// Reports which uids come online and go offline; absent without a `hook_url`.
    pub presence: Option<PresenceSender>,
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

    /// Drops all mail, requests and hand-overs that are left, as the last act; returns how many messages of mail were
    /// lost.
    ///
    /// A queue lives as long as its senders: unless it is emptied, a caller whose request is in it would wait for ever.
    /// The mailbox ends first, so that a thread that sends later finds out: see [`crate::mailbox::ShardWaker::wake`].
    fn abandon(&mut self) -> usize {
        let unread = self.mailbox.abandon();
        self.inlets.abandon();
        unread
    }

    /// Runs one turn: receives and routes what is ready, then sends what is due.
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

    /// Takes the messages of clients, requests, and mail. Which of them comes first changes with each turn: the first
    /// may spend the whole budget of the turn, and would starve the others if it were always the same.
    fn take_input(&mut self) {
        for step in 0..3 {
            match (self.stats.turns + step) % 3 {
                0 => self.receive_ready(),
                1 => self.take_requests(),
                _ => self.take_mail(),
            }
        }
    }

    /// Returns the shard's counters, and its gauges as they are now.
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.registry.sessions() as u64,
            uids: self.registry.len() as u64,
            memory_held: self.memory.held() as u64,
            outbox_bytes: self.memory.outbox_bytes() as u64,
            mail_bytes: self.mailbox.held() as u64,
            mailbox_batches: self.mailbox.waiting() as u64,
            // `Stats::frames_out` counts only the frames that are no messages.
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
        // Without other shards there is nobody to yield to.
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

    /// Polls for at most `time_out` and notes which sockets are ready; returns how many there were.
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
        // The session may have ended since the poller saw the event.
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

    /// Whether a session is open: neither ended nor closing.
    #[inline]
    fn is_open(&mut self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|session| session.phase == Phase::Open)
    }

    /// Queues a session to be read; see [`WorkLists::enqueue`].
    fn enqueue(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.present(key) else { return };
        self.lists.enqueue(key, session);
    }

    /// Returns how long the shard may sleep unless work arrives; zero when there is work already, `None` without a
    /// deadline.
    fn idle_for(&self) -> Option<Duration> {
        let has_work = !self.lists.is_empty()
            || (self.stalled.has_broadcasts() && self.mailbox.takes_broadcast())
            || self.inlets.may_hold()
            || self.mailbox.has_external_work()
            || self.mailbox.has_unread();
        if has_work {
            return Some(Duration::ZERO);
        }
        let sweep = self.wheel.idle_for(self.now);
        match &self.drain {
            Some(drain) => Some(sweep.map_or(drain.interval(), |sweep| sweep.min(drain.interval()))),
            None => sweep,
        }
    }
}
