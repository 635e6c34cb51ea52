//! A node, its clients and its callers, on one thread, in an order that the seed decides.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::super::clock::Clock;
use super::super::frames::{PONG, TEXT, masked};
use super::caller::Caller;
use super::message::EVERYBODY;
use super::network::{SimulatedNetwork, SimulatedSocket, UNLIMITED, Wire, is_one_in};
use super::peer::{Manner, Peer};
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

/// Who logs in; the number of each is its place.
pub(super) const UIDS: [&str; 8] =
    ["a", "bob", "carol", "dave", "eve, whose name is longer than thirty-two bytes", "f", "gráce", "bo"];

/// How long a drain may take.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Turns after which a node that is not quiet never will be.
const TURNS_MAX: usize = 200_000;

/// One shard, and the ways to it.
pub(super) struct Place {
    pub(super) index: usize,
    shard_count: usize,
    /// Absent when it has ended.
    pub(super) shard: Option<Shard<SimulatedNetwork>>,
    requests: flume::Sender<Request>,
    waker: ShardWaker,
    handovers: Option<flume::Sender<Handover<SimulatedSocket>>>,
    /// Most sessions that a uid may have had so far.
    pub(super) facts_sessions_max: usize,
    /// What it had counted when it ended, and the mail that nobody read or posted.
    pub(super) ended: Option<(Stats, u64)>,
}

/// What has been possible so far.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) slow_consumers: Vec<SlowConsumer>,
    pub(super) meetings: Vec<DuplicateLogin>,
    pub(super) has_rates: bool,
    pub(super) is_draining: bool,
}

pub(super) struct World {
    pub(super) random: Rng,
    pub(super) plan: Plan,
    pub(super) clock: Rc<Clock>,
    pub(super) places: Vec<Place>,
    pub(super) peers: Vec<Peer>,
    /// Those whose connection is not over.
    pub(super) active: Vec<usize>,
    /// Log-ins under way: read, and not handed over.
    under_way: Vec<(LoginNumber, usize)>,
    pub(super) caller: Caller,
    pub(super) facts: Facts,
    pub(super) hashes: Vec<UidHash>,
    hasher: UidHasher,
    pub(super) admission: Admission,
    logins: LoginNumbers,
}

impl Place {
    pub(super) fn owns(&self, hash: UidHash) -> bool {
        shard_of(hash, self.shard_count) == self.index
    }

    /// Asks; says whether there was room.
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

    /// Whether the shard would do something if it were turned, or its time has come.
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
        let place = |(index, mailbox)| {
            let (handover_sender, handovers) = flume::bounded(16);
            let (request_sender, requests) = flume::bounded(16);
            let network = SimulatedNetwork::new(&clock, plan.faults, &mut random);
            let (hasher, settings) = (hasher.clone(), Arc::clone(&settings));
            let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence: None };
            Place {
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
        let places = mailbox::wire(&wakers, plan.mailbox_bytes_max).into_iter().enumerate().map(place).collect();
        let hashes = UIDS.iter().map(|uid| hasher.hash(uid.as_bytes())).collect();
        let settings = plan.settings.clone();
        let mut world = Self {
            random,
            plan,
            clock,
            places,
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
        world.learn(&settings);
        world
    }

    /// Notes what `settings` make possible.
    fn learn(&mut self, settings: &SessionSettings) {
        self.facts.slow_consumers.push(settings.slow_consumer);
        self.facts.meetings.push(settings.duplicate_login);
        self.facts.has_rates |= settings.message_rate_max.is_some() || settings.byte_rate_max.is_some();
        if settings.duplicate_login == DuplicateLogin::Share {
            self.places.iter_mut().for_each(|place| place.facts_sessions_max = settings.uid_sessions_max);
        }
    }

    /// Lets something happen.
    pub(super) fn step(&mut self) {
        match self.random.u32(..1000) {
            0..380 => self.turn_some(),
            380..690 => self.speak(),
            690..730 => self.bring(),
            730..810 => self.give_room(),
            810..860 => self.pass(),
            860..900 => self.log_in(),
            900..920 => self.hand_over(),
            920..935 if self.plan.is_restless => self.go_wrong(),
            935..950 if self.plan.is_restless => self.log_in(),
            950..965 if self.plan.has_long => self.swap_amid_a_message(),
            920..975 => self.caller.ask(&mut self.random, &self.plan, &self.places, &self.hashes),
            975..990 => self.go_wrong(),
            990..993 => self.reload(),
            993 => self.settle(),
            _ => {}
        }
    }

    fn turn_some(&mut self) {
        let index = self.random.usize(..self.places.len());
        // Sometimes it is woken for nothing.
        if self.places[index].is_due(&self.clock) || is_one_in(&mut self.random, 8) {
            self.turn(index);
        }
    }

    /// Turns one shard once, and judges it.
    pub(super) fn turn(&mut self, index: usize) {
        let Some(shard) = &mut self.places[index].shard else { return };
        let turn = shard.turn();
        self.inspect(index);
        for at in (0..self.active.len()).rev() {
            let peer = self.active[at];
            if self.peers[peer].shard == index {
                self.hear(peer);
                let wire = self.peers[peer].wire.borrow();
                if wire.is_removed {
                    drop(wire);
                    self.active.swap_remove(at);
                }
            }
        }
        self.caller.listen(&mut self.random, &self.places[index], &self.hashes);
        if turn == Turn::Last {
            self.end_shard(index);
        }
    }

    fn end_shard(&mut self, index: usize) {
        let place = &mut self.places[index];
        place.handovers = None;
        if let Some(mut shard) = place.shard.take() {
            let unread = shard.abandon() as u64;
            place.ended = Some((shard.stats(), unread));
        }
    }

    fn hear(&mut self, peer: usize) {
        let heard = &mut self.peers[peer];
        let was_open = heard.closed.is_none();
        heard.read(UIDS[heard.uid], &self.caller.exceptions);
        if was_open && self.peers[peer].closed.is_some() {
            self.judge_close(peer);
        }
        let heard = &mut self.peers[peer];
        if heard.manner != Manner::Vanished {
            if heard.closed.is_some() && self.random.bool() {
                heard.wire.borrow_mut().end();
            }
            if self.random.bool() {
                heard.bring(usize::MAX);
            }
        }
    }

    fn some_peer(&mut self) -> Option<usize> {
        let peer = *self.active.get(self.random.usize(..self.active.len().max(1)))?;
        (self.peers[peer].manner != Manner::Vanished).then_some(peer)
    }

    /// Lets a client say something or several things, and the network bring it, or a part.
    fn speak(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        for _ in 0..self.random.usize(1..=self.plan.burst_max) {
            self.say(peer);
        }
        let bytes = match self.random.u32(..8) {
            0..4 => usize::MAX,
            4..6 => self.random.usize(..=self.peers[peer].unbrought()),
            _ => self.random.usize(..200),
        };
        self.peers[peer].bring(bytes);
    }

    pub(super) fn say(&mut self, peer: usize) {
        let random = &mut self.random;
        let speaker = &mut self.peers[peer];
        let length = self.plan.length(random);
        let uid = random.usize(..self.plan.uids);
        match random.u32(..200) {
            0..130 => speaker.send(random, peer, UIDS[uid], uid, length),
            130..160 => speaker.send(random, peer, "all", EVERYBODY, length),
            160..170 => speaker.send(random, peer, "nobody", 100, length),
            170 => speaker.send(random, peer, &"n".repeat(BYTES_MAX.min(length) + 1), 100, 0),
            171..180 => speaker.ping(),
            180..184 => speaker.say(&masked(PONG, b"unasked")),
            184..190 => speaker.say(&masked(TEXT, b"no colon")),
            190 if is_one_in(random, 8) => speaker.break_rules(random, self.plan.settings.message_bytes_max),
            191 if is_one_in(random, 4) => {
                let code = [None, Some(1000), Some(3000)][random.usize(..3)];
                speaker.say_close(code);
            }
            _ => {}
        }
    }

    /// Has a client begin a long message; another writes to the same receiver, who may fail, and somebody logs in; then comes
    /// the rest. The network keeps what all others say meanwhile.
    fn swap_amid_a_message(&mut self) {
        let Some(sender) = self.some_peer().filter(|&sender| self.peers[sender].has_said_all()) else { return };
        let receiver = self.random.usize(..self.plan.uids);
        let length = self.random.usize(LONG_FROM..=self.plan.length_max);
        self.peers[sender].send(&mut self.random, sender, UIDS[receiver], receiver, length);
        let begun = self.random.usize(..=self.peers[sender].unbrought());
        self.peers[sender].bring(begun);
        let held_up = self.active.clone();
        let hold_up = |world: &mut Self, is_held_up| {
            held_up.iter().for_each(|&peer| world.peers[peer].is_held_up = is_held_up);
        };
        hold_up(self, true);
        self.settle();
        if let Some(other) = self.some_peer().filter(|&other| other != sender && self.peers[other].has_said_all()) {
            self.peers[other].is_held_up = false;
            self.peers[other].send(&mut self.random, other, UIDS[receiver], receiver, 20);
            self.peers[other].bring(usize::MAX);
            self.settle();
            self.peers[other].is_held_up = true;
        }
        let leaver = self.active.iter().copied().find(|&leaver| self.peers[leaver].uid == receiver);
        if let Some(leaver) = leaver.filter(|&leaver| leaver != sender && self.random.bool()) {
            self.peers[leaver].wire.borrow_mut().fail();
            self.settle();
        }
        self.log_in();
        self.settle();
        self.peers[sender].is_held_up = false;
        self.peers[sender].bring(usize::MAX);
        self.settle();
        hold_up(self, false);
    }

    fn bring(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        let bytes = match self.random.u32(..4) {
            0..2 => self.random.usize(..40),
            2 => self.random.usize(..=self.peers[peer].unbrought()),
            _ => SCRATCH_BYTES,
        };
        self.peers[peer].bring(bytes);
    }

    /// Lets a slow client read something.
    fn give_room(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        if self.peers[peer].manner == Manner::Slow {
            let room = match self.random.u32(..8) {
                0 => UNLIMITED,
                1 => 0,
                2..5 => self.random.usize(..40),
                _ => self.random.usize(..2 * self.plan.settings.outbox_bytes_max),
            };
            self.peers[peer].wire.borrow_mut().give_room(room);
        }
    }

    fn pass(&mut self) {
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
        let manner = if self.random.u32(..3) > 0 { Manner::Attentive } else { Manner::Slow };
        let (shard, login) = (shard_of(self.hashes[uid], self.places.len()), self.logins.draw());
        let mut peer = Peer::new(uid, shard, login, wire, manner);
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
            self.say(number);
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
        // A shard that has no room or has ended lets the connection go, as the gateway does.
        let place = &self.places[peer.shard];
        let Some(handovers) = &place.handovers else { return };
        if handovers.try_send(handover).is_ok() {
            place.waker.wake();
            self.active.push(number);
        }
    }

    /// Lets a connection or a client fail.
    fn go_wrong(&mut self) {
        let Some(peer) = self.some_peer() else { return };
        let peer = &mut self.peers[peer];
        match self.random.u32(..3) {
            0 => peer.wire.borrow_mut().fail(),
            1 => peer.wire.borrow_mut().end(),
            _ => {
                peer.manner = Manner::Vanished;
                let room = if self.random.bool() { 0 } else { self.random.usize(..5000) };
                peer.wire.borrow_mut().give_room(room);
            }
        }
    }

    fn reload(&mut self) {
        if self.plan.reloads {
            let settings = self.plan.other_settings(&mut self.random);
            self.learn(&settings);
            let settings = Arc::new(settings);
            for place in &self.places {
                place.request(Request::Reload(Arc::clone(&settings)));
            }
        }
    }

    /// Turns the shards, in any order, until all of them would sleep.
    pub(super) fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let due: Vec<_> = (0..self.places.len()).filter(|&index| self.places[index].is_due(&self.clock)).collect();
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
        for place in &mut self.places {
            // Whoever asks waits for room.
            while !place.request(Request::Drain { time_out: DRAIN_TIME })
                && let Some(shard) = &mut place.shard
            {
                shard.inlets.check_external_work(&shard.mailbox);
                assert!(shard.inlets.requests.take().is_some(), "a shard does not look into a full queue");
            }
        }
    }

    /// Lets go of the way in, as the gateway does when no login is under way any more.
    pub(super) fn end_logins(&mut self) {
        self.under_way.clear();
        self.places.iter_mut().for_each(|place| place.handovers = None);
    }

    /// Lets time pass, in which clients that live read and answer, and end when they were closed.
    pub(super) fn live_on(&mut self, time: Duration, steps: u32) {
        for _ in 0..steps {
            self.clock.pass(time / steps);
            self.settle();
            for at in 0..self.active.len() {
                let peer = &mut self.peers[self.active[at]];
                if peer.manner != Manner::Vanished {
                    peer.bring(usize::MAX);
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
