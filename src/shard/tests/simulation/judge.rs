//! Checks after every turn, at every close, and at the end of a run.

use std::collections::HashSet;
use std::time::Duration;

use super::caller::KICKED;
use super::message::EVERYBODY;
use super::peer::{Behavior, Peer, SessionEnd};
use super::world::{UIDS, World};
use crate::config::{DuplicateLogin, SlowConsumer};
use crate::frame::close;
use crate::metrics::Stats;
use crate::protocol::json;
use crate::rights::Rights;
use crate::shard::session::Phase;
use crate::shard::tally;

/// Most bytes of control frames in an outbox beside its messages: a ping, a pong, and a close frame.
const CONTROL_BYTES: usize = 3 * 127;

/// Most time by which a timer may be late.
const LATE: Duration = Duration::from_millis(200);

/// Most bytes of a letter besides its message.
const LETTER_BYTES: usize = 1200;

impl World {
    /// Compares the state of a shard with its clients, after a turn.
    pub(super) fn inspect(&mut self, index: usize) {
        let (now, wall) = (self.clock.now(), self.clock.wall_time());
        let (settings, sessions_max) = (&self.plan.settings, self.hosts[index].facts_sessions_max);
        let Some(shard) = &mut self.hosts[index].shard else { return };
        shard.check_invariants();
        let (mut open, mut held, mut accounted, mut holders, mut online) = (0, 0, 0, 0, HashSet::new());
        for &peer in &self.active {
            let peer = &mut self.peers[peer];
            let key = peer.wire.borrow().session;
            let session = if peer.shard == index { key.and_then(|key| shard.sessions.get(key)) } else { continue };
            let phase = session.as_ref().map(|session| session.phase);
            if peer.phase == Some(Phase::Open) && phase != Some(Phase::Open) {
                let wire = peer.wire.borrow();
                let silence = now.saturating_duration_since(wire.last_received);
                peer.session_end = Some(SessionEnd { at: wall, silence, had_input: wire.has_input() });
            }
            peer.phase = phase;
            let (Some(key), Some(session)) = (key, session) else { continue };
            assert!(session.hash == self.hashes[peer.uid] && session.login == peer.login, "another's session");
            held += session.held.get() as usize;
            accounted += session.outbox.as_ref().map_or(0, |outbox| outbox.counted.get());
            let outbox = session.outbox.as_ref().map_or(0, |outbox| outbox.bytes());
            let begun = self.plan.encoded_max(settings.message_bytes_max);
            if !session.listed.is_dirty() && !session.listed.is_queued() {
                assert_eq!(session.holdings(), session.held.get(), "its memory was not accounted for");
            }
            if session.phase != Phase::Open {
                continue;
            }
            open += 1;
            holders += usize::from(session.held.get() > 0);
            online.insert(peer.uid);
            assert!(outbox <= settings.outbox_bytes_max + begun + CONTROL_BYTES, "an outbox has {outbox} bytes");
            let log_end = shard.logs.of(session.protocol.encoding()).end();
            assert_eq!(session.log_from, log_end, "the log was not taken");
            let found = shard.registry.find(session.hash, UIDS[peer.uid].as_bytes());
            assert!(found.contains(&key), "{} has a session that is not registered", UIDS[peer.uid]);
            assert!(found.len() <= sessions_max, "{} has {} sessions", UIDS[peer.uid], found.len());
        }
        assert_eq!((shard.registry.sessions(), shard.registry.len()), (open, online.len()), "registered, not alive");
        assert_eq!(shard.memory.held(), held, "the memory of all sessions");
        assert_eq!(shard.memory.outbox_bytes(), accounted, "the unsent bytes of all outboxes");
        let (all, part) = (held + shard.mailbox.memory(), settings.memory_bytes_max);
        let is_within = all <= part || held <= part / 8 || holders == 0;
        assert!(is_within, "{held} bytes are held, and {all} with the mail");
        let waiting = shard.stalled.len();
        let others = self.plan.shards - 1;
        // One message may exceed the bound of a batch, and one broadcast that was stalled.
        let mail_max = self.plan.mailbox_bytes_max + 2 * (self.plan.length_max + LETTER_BYTES);
        assert!(shard.mailbox.held() <= others * mail_max, "{} bytes of mail wait", shard.mailbox.held());
        assert!(waiting <= self.plan.connections_max * 2, "{waiting} sessions wait for room");
    }

    /// Asserts that there was a reason for a client's close code.
    pub(super) fn judge_close(&self, number: usize) {
        let peer = &self.peers[number];
        let closed = peer.closed.expect("it was closed");
        if peer.is_at_fault || (peer.close_sent.is_some() && peer.close_sent == Some(closed)) {
            return;
        }
        let name = UIDS[peer.uid];
        let code = closed.unwrap_or_else(|| panic!("{name} is closed without a code"));
        let rival = |is_rival: &dyn Fn(&Peer) -> bool| {
            self.peers
                .iter()
                .enumerate()
                .any(|(other, rival)| other != number && rival.uid == peer.uid && is_rival(rival))
        };
        let never_open = SessionEnd { at: self.clock.wall_time(), silence: Duration::ZERO, had_input: false };
        let SessionEnd { at: left, silence, had_input } = peer.session_end.unwrap_or(never_open);
        let is_right = match code {
            close::GOING_AWAY | close::SERVICE_RESTART => self.facts.is_draining,
            close::POLICY => self.facts.has_rates || peer.was_delivered_in_parts,
            close::REPLACED => {
                self.facts.duplicate_logins.contains(&DuplicateLogin::Replace)
                    && rival(&|rival| rival.login > peer.login)
            }
            close::UID_TAKEN => self.facts.duplicate_logins.contains(&DuplicateLogin::Reject) && rival(&|_| true),
            close::UID_FULL => self.facts.duplicate_logins.contains(&DuplicateLogin::Share) && rival(&|_| true),
            close::HEARTBEAT => silence >= self.plan.settings.heartbeat_interval * 2 && !had_input,
            close::SLOW_CONSUMER | json::SLOW_CONSUMER => {
                let is_slow = peer.behavior != Behavior::Attentive || self.plan.faults.partial > 0;
                code == peer.protocol.close_code(close::SLOW_CONSUMER)
                    && self.facts.slow_consumers.contains(&SlowConsumer::Disconnect)
                    && (is_slow || peer.wire.borrow().is_encrypted())
            }
            close::MEMORY => self.plan.settings.memory_bytes_max < 32 << 20,
            close::EXPIRED => peer.expires.is_some_and(|expires| expires <= left),
            KICKED => true,
            _ => false,
        };
        assert!(is_right, "{name} is closed with {code} after {silence:?} of silence, and why?");
    }

    /// Lets everything arrive. Then every client that did not vanish has an open session, and gets each message once.
    pub(super) fn settle_for_good(&mut self) {
        let interval = self.plan.settings.heartbeat_interval;
        for round in 0..4 {
            for at in 0..self.active.len() {
                let peer = &mut self.peers[self.active[at]];
                if peer.behavior != Behavior::Vanished {
                    peer.catch_up();
                    peer.deliver(usize::MAX);
                }
            }
            // Short at first: to resume stalled sessions takes no time.
            self.run_for(if round < 2 { Duration::from_millis(200) } else { interval * 3 }, 12);
        }
        // Clients at fault end with `message_timeout`, clients that have closed with `close_timeout`.
        self.run_for(self.plan.settings.message_timeout + self.plan.settings.close_timeout + interval, 20);
        for at in 0..self.active.len() {
            let number = self.active[at];
            let peer = &self.peers[number];
            let what = (UIDS[peer.uid], peer.behavior, peer.phase, peer.closed);
            assert!(peer.is_sound() && peer.phase == Some(Phase::Open), "still there: {what:?}");
            // A second, as expiries are rounded up, and an interval until the next heartbeat.
            let latest = peer.expires.map(|at| at + Duration::from_secs(1) + interval + LATE);
            assert!(latest.is_none_or(|at| self.clock.wall_time() <= at), "outlives its credential: {what:?}");
            assert!(peer.has_delivered_all() && !peer.wire.borrow().has_input(), "not read to its end: {what:?}");
        }
        for host in &mut self.hosts {
            let Some(shard) = &mut host.shard else { continue };
            assert_eq!(shard.memory.held(), 0, "no session holds memory");
            assert_eq!(shard.sessions.len(), shard.registry.sessions());
            assert!(shard.stalled.len() == 0 && shard.mailbox.held() == 0, "mail or stalled sessions are left");
        }
        assert_eq!(self.admission.count(), self.active.len(), "connections of the node");
    }

    /// Sends messages to each session and to all, and asserts how many each session gets.
    pub(super) fn probe(&mut self) {
        let open = self.open();
        let before: Vec<_> = open.iter().map(|&peer| self.peers[peer].messages).collect();
        for at in 0..self.hosts.len() {
            let uids: HashSet<_> = self.hosts[at].oldest(&self.hashes).map(|(uid, _)| uid).collect();
            let mut uids: Vec<_> = uids.into_iter().collect();
            uids.sort_unstable();
            self.caller.push_to_each(&self.hosts[at], &uids, &self.hashes);
        }
        let sender = open.iter().copied().find(|&peer| self.peers[peer].rights == Rights::ALL);
        if let Some(sender) = sender {
            for (uid, name) in UIDS.iter().enumerate() {
                self.peers[sender].send(&mut self.random, sender, name, uid, 20);
            }
            self.peers[sender].send(&mut self.random, sender, "all", EVERYBODY, 20);
            self.peers[sender].deliver(usize::MAX);
        }
        self.settle();
        // A rate may delay some of them.
        self.run_for(Duration::from_secs(15), 300);
        let expected = 1 + 2 * u64::from(sender.is_some());
        for (&number, before) in open.iter().zip(before) {
            let peer = &self.peers[number];
            let is_gone = |number: usize| self.peers[number].phase != Some(Phase::Open);
            let is_excused = is_gone(number) || sender.is_some_and(is_gone);
            let got = peer.messages - before;
            assert!(got == expected || is_excused, "{} got {got} of {expected} messages", UIDS[peer.uid]);
        }
    }

    /// Waits until every shard has drained.
    pub(super) fn end(&mut self) {
        self.end_logins();
        for _ in 0..100 {
            self.run_for(Duration::from_millis(200), 1);
        }
        assert!(self.hosts.iter().all(|host| host.shard.is_none()), "a shard does not drain in its time");
        for at in 0..self.active.len() {
            let peer = self.active[at];
            let peer = &mut self.peers[peer];
            peer.read(UIDS[peer.uid], &self.caller.exceptions);
        }
        assert_eq!(self.admission.count(), 0, "connections of the node");
    }

    /// Asserts that each message that was routed has arrived, or is counted with its outcome.
    pub(super) fn balance(&self) -> Stats {
        let (mut stats, mut unread) = (Stats::default(), 0);
        for (ended, lost) in self.hosts.iter().filter_map(|host| host.ended.as_ref()) {
            stats.add(ended);
            unread += lost;
        }
        let caller = &self.caller;
        let set_out = tally::take();
        // Messages to shards.
        let sent = set_out.unicasts + set_out.broadcasts * self.plan.shards as u64 + caller.pushes + caller.broadcasts;
        let met = stats.offline + set_out.reached + stats.broadcasts;
        assert_eq!(sent, met + stats.shed_shard_gone + unread, "messages to shards: {set_out:?}, {stats:?}");
        assert_eq!(stats.broadcasts_sent, set_out.broadcasts, "each broadcast counts once");
        // Messages to sessions, the server's answers among them.
        let turned_away = stats.closes[counter_of(close::REPLACED)] - stats.replaced;
        let errors = stats.invalid + stats.forbidden_unicasts + stats.forbidden_broadcasts;
        let due = set_out.tried + stats.broadcast_deliveries + stats.logins - turned_away + errors;
        let arrived: u64 = self.peers.iter().map(|peer| peer.arrived).sum();
        let shed = stats.shed_newest + stats.shed_oldest + stats.shed_closed;
        assert_eq!(due, arrived + shed, "messages to sessions: {arrived} arrived, {set_out:?}, {stats:?}");
        self.balance_closes(&stats);
        let received: u64 = self.peers.iter().map(|peer| peer.wire.borrow().received).sum();
        let taken: u64 = self.peers.iter().map(|peer| peer.wire.borrow().taken).sum();
        assert_eq!((stats.bytes_in, stats.bytes_out), (received, taken), "bytes");
        assert!(stats.answers_dropped >= caller.dropped, "answers without a receiver");
        assert_eq!((stats.sessions, stats.uids, stats.memory_held, stats.panics), (0, 0, 0, 0));
        stats
    }

    /// Asserts that each session has ended once, and for one reason.
    fn balance_closes(&self, stats: &Stats) {
        let closes = |code| stats.closes[counter_of(code)];
        let broken = closes(close::PROTOCOL_ERROR) + closes(close::NOT_UTF8) + closes(close::TOO_BIG);
        let closed = stats.closes.iter().sum::<u64>() + stats.closed_by_peer;
        assert!(closed <= stats.logins && stats.logins <= closed + stats.lost, "sessions that ended: {stats:?}");
        assert_eq!(stats.violations, broken);
        assert_eq!(stats.slow_consumers, closes(close::SLOW_CONSUMER));
        assert_eq!(stats.memory_cuts, closes(close::MEMORY));
        assert_eq!(stats.expired, closes(close::EXPIRED));
        assert_eq!(stats.refused, closes(close::UID_TAKEN) + closes(close::UID_FULL));
        assert_eq!(stats.timeouts + stats.rate_limited, closes(close::HEARTBEAT) + closes(close::POLICY));
        assert_eq!(stats.kicked, stats.closes[close::ALL.len()]);
        assert_eq!(stats.kicked, self.caller.kicked.iter().sum::<u64>());
    }
}

/// Index of the counter of a close code.
fn counter_of(code: u16) -> usize {
    close::ALL.iter().position(|(known, ..)| *known == code).expect("a code of ours")
}
