//! The simulated world: a node, its clients and its callers, on one thread, in an order that the seed decides.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::super::clock::Clock;
use super::super::frames::{PONG, TEXT, masked};
use super::caller::Caller;
use super::message::EVERYBODY;
use super::network::{SimulatedNetwork, SimulatedSocket, UNLIMITED, Wire, is_one_in};
use super::peer::{Behavior, Peer};
use super::plan::{LONG_FROM, Plan};
use crate::config::{DuplicateLogin, SessionSettings, SlowConsumer};
use crate::mailbox::{self, ShardWaker};
use crate::metrics::Stats;
use crate::rights::Rights;
use crate::router::shard_of;
use crate::shard::io::SessionKey;
use crate::shard::session::Phase;
use crate::shard::{Admission, Handover, LoginNumber, LoginNumbers, Parts, Request, SCRATCH_BYTES, Shard, Turn, tally};
use crate::uid::{BYTES_MAX, Uid, UidHash, UidHasher};

/// The uids that log in; the number of a uid is its index.
pub(super) const UIDS: [&str; 8] =
    ["a", "bob", "carol", "dave", "eve, whose name is longer than thirty-two bytes", "f", "gráce", "bo"];

/// The time-out of a drain.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Most turns until a node is quiet; a node that takes more never will be.
const TURNS_MAX: usize = 200_000;

/// One shard, and the sending ends of its queues.
pub(super) struct Host {
    pub(super) index: usize,
    shard_count: usize,
    /// Absent when the shard has ended.
    pub(super) shard: Option<Shard<SimulatedNetwork>>,
    requests: flume::Sender<Request>,
    waker: ShardWaker,
    handovers: Option<flume::Sender<Handover<SimulatedSocket>>>,
    /// Most sessions that a uid may have had so far.
    pub(super) facts_sessions_max: usize,
    /// The counters of the shard when it ended, and how many messages of mail were lost with it.
    pub(super) ended: Option<(Stats, u64)>,
}

/// The settings so far, which decide the outcomes that are possible.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) slow_consumers: Vec<SlowConsumer>,
    pub(super) duplicate_logins: Vec<DuplicateLogin>,
    pub(super) has_rates: bool,
    pub(super) is_draining: bool,
}

pub(super) struct World {
    pub(super) random: Rng,
    pub(super) plan: Plan,
    pub(super) clock: Rc<Clock>,
    pub(super) hosts: Vec<Host>,
    pub(super) peers: Vec<Peer>,
    /// Indexes of the peers whose connection is not over.
    pub(super) active: Vec<usize>,
    /// Logins under way: read, and not handed over.
    under_way: Vec<(LoginNumber, usize)>,
    pub(super) caller: Caller,
    pub(super) facts: Facts,
    pub(super) hashes: Vec<UidHash>,
    hasher: UidHasher,
    pub(super) admission: Admission,
    logins: LoginNumbers,
}

impl Host {
    pub(super) fn owns(&self, hash: UidHash) -> bool {
        shard_of(hash, self.shard_count) == self.index
    }

    /// Sends a request; returns whether the queue had room.
    pub(super) fn request(&self, request: Request) -> bool {
        let has_room = self.requests.try_send(request).is_ok();
        self.waker.wake();
        has_room
    }

    /// Returns the oldest session of each uid that is online here.
    pub(super) fn oldest<'a>(&'a self, hashes: &'a [UidHash]) -> impl Iterator<Item = (usize, SessionKey)> + 'a {
        let registry = self.shard.as_ref().map(|shard| &shard.registry);
        let oldest =
            move |(uid, &hash): (usize, &UidHash)| Some((uid, *registry?.find(hash, UIDS[uid].as_bytes()).first()?));
        hashes.iter().enumerate().filter_map(oldest)
    }

    /// Whether the shard has work, or one of its timers is due.
    fn is_due(&self, clock: &Clock) -> bool {
        self.shard.as_ref().is_some_and(|shard| {
            let wakes = shard.idle_for().map(|time| shard.now + time);
            shard.network.has_ready() || shard.mailbox.has_work() || wakes.is_some_and(|at| at <= clock.now())
        })
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let plan = Plan::new(&mut random);
        let clock = Rc::new(Clock::new(plan.look));
        let hasher = UidHasher::fixed(seed);
        tally::take();
        let wakers: Vec<_> = (0..plan.shards).map(|_| ShardWaker::new(Arc::new(|| Ok(())))).collect();
        let settings = Arc::new(plan.settings.clone());
        let host = |(index, mailbox)| {
            let (handover_sender, handovers) = flume::bounded(16);
            let (request_sender, requests) = flume::bounded(16);
            let network = SimulatedNetwork::new(&clock, plan.faults, &mut random);
            let (hasher, settings) = (hasher.clone(), Arc::clone(&settings));
            let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence: None };
            Host {
                index,
                shard_count: plan.shards,
                shard: Some(Shard::new(network, parts)),
                requests: request_sender,
                waker: wakers[index].clone(),
                handovers: Some(handover_sender),
                facts_sessions_max: 1,
                ended: None,
            }
        };
        let hosts = mailbox::wire(&wakers, plan.mailbox_bytes_max).into_iter().enumerate().map(host).collect();
        let hashes = UIDS.iter().map(|uid| hasher.hash(uid.as_bytes())).collect();
        let settings = plan.settings.clone();
        let mut world = Self {
            random,
            plan,
            clock,
            hosts,
            peers: Vec::new(),
            active: Vec::new(),
            under_way: Vec::new(),
            caller: Caller::default(),
            facts: Facts::default(),
            hashes,
            hasher,
            admission: Admission::default(),
            logins: LoginNumbers::default(),
        };
        world.note_settings(&settings);
        world
    }

    /// Notes the outcomes that `settings` make possible.
    fn note_settings(&mut self, settings: &SessionSettings) {
        self.facts.slow_consumers.push(settings.slow_consumer);
        self.facts.duplicate_logins.push(settings.duplicate_login);
        self.facts.has_rates |= settings.message_rate_max.is_some() || settings.byte_rate_max.is_some();
        if settings.duplicate_login == DuplicateLogin::Share {
            self.hosts.iter_mut().for_each(|host| host.facts_sessions_max = settings.uid_sessions_max);
        }
    }

    /// Makes one random step.
    pub(super) fn step(&mut self) {
        match self.random.u32(..1000) {
            0..380 => self.turn_one(),
            380..690 => self.send_burst(),
            690..730 => self.deliver_some(),
            730..810 => self.give_room(),
            810..860 => self.pass_time(),
            860..900 => self.log_in(),
            900..920 => self.hand_over(),
            920..935 if self.plan.is_restless => self.fail_something(),
            935..950 if self.plan.is_restless => self.log_in(),
            950..965 if self.plan.has_long => self.swap_during_a_message(),
            920..975 => self.caller.ask(&mut self.random, &self.plan, &self.hosts, &self.hashes),
            975..990 => self.fail_something(),
            990..993 => self.reload(),
            993 => self.settle(),
            _ => {}
        }
    }

    fn turn_one(&mut self) {
        let index = self.random.usize(..self.hosts.len());
        // Sometimes it is woken without work.
        if self.hosts[index].is_due(&self.clock) || is_one_in(&mut self.random, 8) {
            self.turn(index);
        }
    }

    /// Runs one turn of a shard, and checks its effects.
    pub(super) fn turn(&mut self, index: usize) {
        let Some(shard) = &mut self.hosts[index].shard else { return };
        let turn = shard.turn();
        self.inspect(index);
        for at in (0..self.active.len()).rev() {
            let peer = self.active[at];
            if self.peers[peer].shard == index {
                self.read_output(peer);
                let wire = self.peers[peer].wire.borrow();
                if wire.is_removed {
                    drop(wire);
                    self.active.swap_remove(at);
                }
            }
        }
        self.caller.take_answers(&mut self.random, &self.hosts[index], &self.hashes);
        if turn == Turn::Last {
            self.end_shard(index);
        }
    }

    fn end_shard(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.handovers = None;
        if let Some(mut shard) = host.shard.take() {
            let unread = shard.abandon() as u64;
            host.ended = Some((shard.stats(), unread));
        }
    }

    fn read_output(&mut self, peer: usize) {
        let client = &mut self.peers[peer];
        let was_open = client.closed.is_none();
        client.read(UIDS[client.uid], &self.caller.exceptions);
        if was_open && self.peers[peer].closed.is_some() {
            self.judge_close(peer);
        }
        let client = &mut self.peers[peer];
        if client.behavior != Behavior::Vanished {
            if client.closed.is_some() && self.random.bool() {
                client.wire.borrow_mut().end();
            }
            if self.random.bool() {
                client.deliver(usize::MAX);
            }
        }
    }

    fn some_peer(&mut self) -> Option<usize> {
        let peer = *self.active.get(self.random.usize(..self.active.len().max(1)))?;
        (self.peers[peer].behavior != Behavior::Vanished).then_some(peer)
    }

    /// Lets a client send one or several frames, and the network deliver all or a part.
    fn send_burst(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        for _ in 0..self.random.usize(1..=self.plan.burst_max) {
            self.send_something(peer);
        }
        let bytes = match self.random.u32(..8) {
            0..4 => usize::MAX,
            4..6 => self.random.usize(..=self.peers[peer].undelivered()),
            _ => self.random.usize(..200),
        };
        self.peers[peer].deliver(bytes);
    }

    pub(super) fn send_something(&mut self, peer: usize) {
        let random = &mut self.random;
        let client = &mut self.peers[peer];
        let length = self.plan.length(random);
        let uid = random.usize(..self.plan.uids);
        match random.u32(..200) {
            0..130 => client.send(random, peer, UIDS[uid], uid, length),
            130..160 => client.send(random, peer, "all", EVERYBODY, length),
            160..170 => client.send(random, peer, "nobody", 100, length),
            170 => client.send(random, peer, &"n".repeat(BYTES_MAX.min(length) + 1), 100, 0),
            171..180 => client.ping(),
            180..184 => client.write(&masked(PONG, b"unasked")),
            184..190 => client.write(&masked(TEXT, b"no colon")),
            190 if is_one_in(random, 8) => client.violate_protocol(random, self.plan.settings.message_bytes_max),
            191 if is_one_in(random, 4) => {
                let code = [None, Some(1000), Some(3000)][random.usize(..3)];
                client.send_close(code);
            }
            _ => {}
        }
    }

    /// Delivers the beginning of a long message. Another client sends to the same receiver, which may fail, and a
    /// client logs in. Then the rest is delivered. The network withholds the bytes of all others meanwhile.
    fn swap_during_a_message(&mut self) {
        let Some(sender) = self.some_peer().filter(|&sender| self.peers[sender].has_delivered_all()) else { return };
        let receiver = self.random.usize(..self.plan.uids);
        let length = self.random.usize(LONG_FROM..=self.plan.length_max);
        self.peers[sender].send(&mut self.random, sender, UIDS[receiver], receiver, length);
        let begun = self.random.usize(..=self.peers[sender].undelivered());
        self.peers[sender].deliver(begun);
        let others = self.active.clone();
        let withhold = |world: &mut Self, is_withheld| {
            others.iter().for_each(|&peer| world.peers[peer].is_withheld = is_withheld);
        };
        withhold(self, true);
        self.settle();
        if let Some(other) = self.some_peer().filter(|&other| other != sender && self.peers[other].has_delivered_all())
        {
            self.peers[other].is_withheld = false;
            self.peers[other].send(&mut self.random, other, UIDS[receiver], receiver, 20);
            self.peers[other].deliver(usize::MAX);
            self.settle();
            self.peers[other].is_withheld = true;
        }
        let leaver = self.active.iter().copied().find(|&leaver| self.peers[leaver].uid == receiver);
        if let Some(leaver) = leaver.filter(|&leaver| leaver != sender && self.random.bool()) {
            self.peers[leaver].wire.borrow_mut().fail();
            self.settle();
        }
        self.log_in();
        self.settle();
        self.peers[sender].is_withheld = false;
        self.peers[sender].deliver(usize::MAX);
        self.settle();
        withhold(self, false);
    }

    fn deliver_some(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        let bytes = match self.random.u32(..4) {
            0..2 => self.random.usize(..40),
            2 => self.random.usize(..=self.peers[peer].undelivered()),
            _ => SCRATCH_BYTES,
        };
        self.peers[peer].deliver(bytes);
    }

    /// Lets a slow client read some bytes.
    fn give_room(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        if self.peers[peer].behavior == Behavior::Slow {
            let room = match self.random.u32(..8) {
                0 => UNLIMITED,
                1 => 0,
                2..5 => self.random.usize(..40),
                _ => self.random.usize(..2 * self.plan.settings.outbox_bytes_max),
            };
            self.peers[peer].wire.borrow_mut().give_room(room);
        }
    }

    fn pass_time(&mut self) {
        let time = match self.random.u32(..40) {
            // The process was stopped.
            0 => Duration::from_secs(self.random.u64(1..4000)),
            1..6 => Duration::from_millis(self.random.u64(..5000)),
            _ => Duration::from_millis(self.random.u64(..100)),
        };
        self.clock.pass(time);
        // The machine was suspended, or its clock was set.
        let time = Duration::from_secs(self.random.u64(1..100));
        match self.random.u32(..80) {
            0 => self.clock.set_ahead(time),
            1 => self.clock.set_back(time),
            _ => {}
        }
    }

    /// Lets a client log in; the login is handed over at once, or later.
    fn log_in(&mut self) {
        if self.active.len() + self.under_way.len() >= self.plan.connections_max {
            return;
        }
        let (number, uid) = (self.peers.len(), self.random.usize(..self.plan.uids));
        let wire = Wire::new(&self.clock, self.plan.faults, &mut self.random);
        let behavior = if self.random.u32(..3) > 0 { Behavior::Attentive } else { Behavior::Slow };
        let (shard, login) = (shard_of(self.hashes[uid], self.hosts.len()), self.logins.draw());
        let mut peer = Peer::new(uid, shard, login, wire, behavior);
        if is_one_in(&mut self.random, 10) {
            peer.rights = [Rights::RECEIVE, Rights::UNICAST, Rights::BROADCAST][self.random.usize(..3)];
        }
        peer.protocol = self.plan.protocol(&mut self.random);
        if is_one_in(&mut self.random, 15) {
            peer.expires = Some(self.clock.wall_time() + Duration::from_millis(self.random.u64(..60_000)));
        }
        self.peers.push(peer);
        self.under_way.push((login, number));
        if self.random.u32(..4) > 0 {
            self.hand_over();
        }
    }

    /// Hands over one of the log-ins under way, not always the oldest.
    fn hand_over(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let (login, number) = self.under_way.swap_remove(self.random.usize(..self.under_way.len()));
        for _ in 0..self.random.usize(..3) {
            self.send_something(number);
        }
        let bytes = self.random.usize(..400);
        let peer = &mut self.peers[number];
        let handover = Handover {
            socket: SimulatedSocket(Rc::clone(&peer.wire)),
            unread: peer.pipelined(bytes),
            uid: Uid::new(UIDS[peer.uid].as_bytes(), 256, &self.hasher).expect("a uid"),
            protocol: peer.protocol,
            rights: peer.rights,
            expires: peer.expires,
            login,
            peer: None,
            permit: self.admission.admit(usize::MAX).expect("there is no bound"),
        };
        // If the shard has no room or has ended, the connection is dropped, as the gateway does.
        let host = &self.hosts[peer.shard];
        let Some(handovers) = &host.handovers else { return };
        if handovers.try_send(handover).is_ok() {
            host.waker.wake();
            self.active.push(number);
        }
    }

    /// Lets a connection or a client fail.
    fn fail_something(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        let peer = &mut self.peers[peer];
        match self.random.u32(..3) {
            0 => peer.wire.borrow_mut().fail(),
            1 => peer.wire.borrow_mut().end(),
            _ => {
                peer.behavior = Behavior::Vanished;
                let room = if self.random.bool() { 0 } else { self.random.usize(..5000) };
                peer.wire.borrow_mut().give_room(room);
            }
        }
    }

    fn reload(&mut self) {
        if self.plan.reloads {
            let settings = self.plan.other_settings(&mut self.random);
            self.note_settings(&settings);
            let settings = Arc::new(settings);
            for host in &self.hosts {
                host.request(Request::Reload(Arc::clone(&settings)));
            }
        }
    }

    /// Runs turns of the shards, in any order, until all of them would sleep.
    pub(super) fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let due: Vec<_> = (0..self.hosts.len()).filter(|&index| self.hosts[index].is_due(&self.clock)).collect();
            if due.is_empty() {
                return;
            }
            let next = due[self.random.usize(..due.len())];
            self.turn(next);
        }
        panic!("the shards never come to rest");
    }

    /// Has every shard drain.
    pub(super) fn drain(&mut self) {
        self.facts.is_draining = true;
        for host in &mut self.hosts {
            // The caller waits for room.
            while !host.request(Request::Drain { time_out: DRAIN_TIME })
                && let Some(shard) = &mut host.shard
            {
                shard.inlets.check_external_work(&shard.mailbox);
                assert!(shard.inlets.requests.take().is_some(), "a shard does not look into a full queue");
            }
        }
    }

    /// Drops the senders of hand-overs, as the gateway does when no login is under way any more.
    pub(super) fn end_logins(&mut self) {
        self.under_way.clear();
        self.hosts.iter_mut().for_each(|host| host.handovers = None);
    }

    /// Lets time pass; clients that did not vanish read and answer meanwhile, and end when they were closed.
    pub(super) fn run_for(&mut self, time: Duration, steps: u32) {
        for _ in 0..steps {
            self.clock.pass(time / steps);
            self.settle();
            for at in 0..self.active.len() {
                let peer = &mut self.peers[self.active[at]];
                if peer.behavior != Behavior::Vanished {
                    peer.deliver(usize::MAX);
                    if peer.closed.is_some() {
                        peer.wire.borrow_mut().end();
                    }
                }
            }
            self.settle();
        }
    }

    /// Returns the peers whose sessions are open.
    pub(super) fn open(&self) -> Vec<usize> {
        self.active.iter().copied().filter(|&peer| self.peers[peer].phase == Some(Phase::Open)).collect()
    }
}
