//! Requests to the shards from outside, and checks of the answers.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use fastrand::Rng;

use super::message::{EVERYBODY, EVERYBODY_BUT, Identity};
use super::network::is_one_in;
use super::peer::Exceptions;
use super::plan::Plan;
use super::world::{Host, UIDS};
use crate::frame::close;
use crate::message::{Delivery, Kind, Shed};
use crate::metrics::Stats;
use crate::shard::io::SessionKey;
use crate::shard::{HashedPush, Request, SessionInfo, UidPage};
use crate::uid::UidHash;

/// The close code of every kick.
pub(super) const KICKED: u16 = 4400;

/// A request whose answer has not arrived.
enum Pending {
    Push { answer: flume::Receiver<Vec<Delivery>>, is_too_long: Vec<bool> },
    Broadcast { answer: flume::Receiver<usize>, is_too_long: bool },
    Kick { answer: flume::Receiver<usize>, uid: usize },
    Sessions(flume::Receiver<Vec<SessionInfo>>),
    Stats(flume::Receiver<Stats>),
    Uids(flume::Receiver<UidPage>),
}

/// A walk over the uids of one shard, page by page.
#[derive(Default)]
struct Walk {
    /// Uids whose oldest session has not changed since it began.
    stable: HashMap<usize, SessionKey>,
    /// Uids that have been online at any time since.
    ever: HashSet<usize>,
    seen: Vec<usize>,
}

/// All callers; the requests to each shard are in order.
#[derive(Default)]
pub(super) struct Caller {
    /// Number of the next message.
    sent: usize,
    pub(super) exceptions: Exceptions,
    /// Requests without an answer, by shard.
    pending: HashMap<usize, Vec<Pending>>,
    walks: HashMap<usize, Walk>,
    /// Pushes and broadcasts that were answered.
    pub(super) pushes: u64,
    pub(super) broadcasts: u64,
    /// Sessions that kicks have closed, by uid.
    pub(super) kicked: [u64; UIDS.len()],
    /// Answers whose receiver had gone.
    pub(super) dropped: u64,
    dropping: HashMap<usize, u64>,
}

impl Caller {
    fn message(&mut self, to: usize, length: usize) -> Bytes {
        let mut payload = Vec::new();
        Identity { sender: 0, number: self.sent, to }.write(length, &mut payload);
        self.sent += 1;
        payload.into()
    }

    /// Sends a random request, if the queue has room for it.
    pub(super) fn ask(&mut self, random: &mut Rng, plan: &Plan, hosts: &[Host], hashes: &[UidHash]) {
        let shard = random.usize(..hosts.len());
        let uid = random.usize(..plan.uids);
        match random.u32(..16) {
            0..5 => self.ask_push(random, plan, &hosts[shard], hashes),
            5..8 => self.ask_broadcast(random, plan, hosts, hashes),
            8 => {
                let (sender, answer) = flume::bounded(1);
                let (hash, reason) = (hashes[uid], "kicked".into());
                let kick = Request::Kick { hash, uid: UIDS[uid].into(), code: KICKED, reason, answer: sender };
                let owner = hosts.iter().find(|host| host.owns(hash)).expect("a shard owns it");
                self.note(owner, kick, Pending::Kick { answer, uid });
            }
            9 => {
                let (sender, answer) = flume::bounded(1);
                let request = Request::Sessions { hash: hashes[uid], uid: UIDS[uid].into(), answer: sender };
                self.note(&hosts[shard], request, Pending::Sessions(answer));
            }
            10 => {
                let (answer, receiver) = flume::bounded(1);
                drop(receiver);
                if hosts[shard].request(Request::Stats { answer }) {
                    *self.dropping.entry(shard).or_default() += 1;
                }
            }
            11 => {
                let (sender, answer) = flume::bounded(1);
                self.note(&hosts[shard], Request::Stats { answer: sender }, Pending::Stats(answer));
            }
            _ if !self.walks.contains_key(&shard) && hosts[shard].shard.is_some() => {
                let mut walk = Walk::default();
                for (uid, oldest) in hosts[shard].oldest(hashes) {
                    walk.stable.insert(uid, oldest);
                    walk.ever.insert(uid);
                }
                self.walks.insert(shard, walk);
                self.ask_page(&hosts[shard], 0, random.usize(1..4));
            }
            _ => {}
        }
    }

    fn note(&mut self, host: &Host, request: Request, pending: Pending) {
        if host.request(request) {
            self.pending.entry(host.index).or_default().push(pending);
        }
    }

    fn ask_push(&mut self, random: &mut Rng, plan: &Plan, host: &Host, hashes: &[UidHash]) {
        let (mut pushes, mut is_too_long) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..12) {
            let uid = random.usize(..UIDS.len());
            if host.owns(hashes[uid]) {
                let too_long = is_one_in(random, 50);
                let length = if too_long { plan.settings.outbox_bytes_max } else { plan.length(random) };
                let kind = if random.bool() { Kind::Text } else { Kind::Binary };
                let (payload, name) = (self.message(uid, length), UIDS[uid].into());
                pushes.push(HashedPush { hash: hashes[uid], uid: name, kind, payload });
                is_too_long.push(too_long);
            }
        }
        let (sender, answer) = flume::bounded(1);
        self.note(host, Request::Push { pushes, answer: sender }, Pending::Push { answer, is_too_long });
    }

    fn ask_broadcast(&mut self, random: &mut Rng, plan: &Plan, hosts: &[Host], hashes: &[UidHash]) {
        let is_too_long = is_one_in(random, 50);
        let length = if is_too_long { plan.settings.outbox_bytes_max } else { plan.length(random) };
        let but: Vec<_> = (0..UIDS.len()).filter(|_| is_one_in(random, 6)).collect();
        let to = if but.is_empty() { EVERYBODY } else { EVERYBODY_BUT };
        self.exceptions.insert(self.sent, but.clone());
        let payload = self.message(to, length);
        for host in hosts {
            let own = but.iter().filter(|&&uid| host.owns(hashes[uid]));
            // A uid that is listed twice is left out once.
            let except = own.flat_map(|&uid| vec![(hashes[uid], UIDS[uid].into()); 1 + uid % 2]).collect();
            let (sender, answer) = flume::bounded(1);
            let payload = payload.clone();
            let request = Request::Broadcast { kind: Kind::Binary, payload, except, answer: sender };
            self.note(host, request, Pending::Broadcast { answer, is_too_long });
        }
    }

    /// Pushes one message to each of `uids`, which the shard owns.
    pub(super) fn push_to_each(&mut self, host: &Host, uids: &[usize], hashes: &[UidHash]) {
        let pushes = uids.iter().map(|&uid| HashedPush {
            hash: hashes[uid],
            uid: UIDS[uid].into(),
            kind: Kind::Text,
            payload: self.message(uid, 20),
        });
        let pushes: Vec<_> = pushes.collect();
        let is_too_long = vec![false; pushes.len()];
        let (sender, answer) = flume::bounded(1);
        self.note(host, Request::Push { pushes, answer: sender }, Pending::Push { answer, is_too_long });
    }

    fn ask_page(&mut self, host: &Host, from: u32, most: usize) {
        let (sender, answer) = flume::bounded(1);
        if host.request(Request::Uids { from, most, answer: sender }) {
            self.pending.entry(host.index).or_default().push(Pending::Uids(answer));
        } else {
            self.walks.remove(&host.index);
        }
    }

    /// Takes the answers that a turn of a shard has sent, and checks them.
    pub(super) fn take_answers(&mut self, random: &mut Rng, host: &Host, hashes: &[UidHash]) {
        if let Some(walk) = self.walks.get_mut(&host.index) {
            let oldest: HashMap<_, _> = host.oldest(hashes).collect();
            walk.stable.retain(|uid, key| oldest.get(uid) == Some(key));
            walk.ever.extend(oldest.keys());
        }
        if let Some(shard) = &host.shard
            && shard.inlets.requests.len() == 0
        {
            self.dropped += self.dropping.remove(&host.index).unwrap_or_default();
        }
        let Some(mut pending) = self.pending.remove(&host.index) else { return };
        pending.retain(|pending| !self.check_answer(random, pending, host));
        self.pending.entry(host.index).or_default().append(&mut pending);
    }

    /// Checks an answer; returns whether it has arrived.
    fn check_answer(&mut self, random: &mut Rng, pending: &Pending, host: &Host) -> bool {
        let sessions_max = host.facts_sessions_max;
        match pending {
            Pending::Push { answer, is_too_long } => {
                let Some(deliveries) = taken(answer) else { return answer.is_disconnected() };
                assert_eq!(deliveries.len(), is_too_long.len(), "every push is answered");
                for (delivery, &is_too_long) in deliveries.into_iter().zip(is_too_long) {
                    self.pushes += 1;
                    match delivery {
                        Delivery::Delivered { sessions } => {
                            assert!((1..=sessions_max).contains(&sessions) && !is_too_long, "{sessions}");
                        }
                        // The session may have ended or closed before its turn came.
                        Delivery::Shed(shed) => assert!(is_too_long || shed != Shed::TooLong),
                        Delivery::Offline => {}
                    }
                }
            }
            Pending::Broadcast { answer, is_too_long } => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                self.broadcasts += 1;
                assert!(sessions == 0 || !is_too_long, "it is too long for every outbox");
            }
            Pending::Kick { answer, uid } => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                self.kicked[*uid] += sessions as u64;
                assert!(sessions <= sessions_max);
            }
            Pending::Sessions(answer) => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                assert!(sessions.len() <= sessions_max);
            }
            Pending::Stats(answer) => {
                let Some(stats) = taken(answer) else { return answer.is_disconnected() };
                assert!(stats.closes[..close::ALL.len()].iter().sum::<u64>() <= stats.logins);
            }
            Pending::Uids(answer) => {
                let Some(page) = taken(answer) else { return answer.is_disconnected() };
                self.check_page(random, page, host);
            }
        }
        true
    }

    fn check_page(&mut self, random: &mut Rng, page: UidPage, host: &Host) {
        let Some(walk) = self.walks.get_mut(&host.index) else { return };
        let number = |uid: &str| UIDS.iter().position(|known| *known == uid).expect("a uid that logs in");
        walk.seen.extend(page.uids.iter().map(|uid| number(uid)));
        if let Some(next) = page.next {
            if host.shard.is_some() {
                self.ask_page(host, next, random.usize(1..4));
            }
            return;
        }
        for uid in walk.stable.keys() {
            let times = walk.seen.iter().filter(|seen| *seen == uid).count();
            assert_eq!(times, 1, "{} is on {times} pages", UIDS[*uid]);
        }
        assert!(walk.seen.iter().all(|uid| walk.ever.contains(uid)), "a page has a uid that was never online");
        self.walks.remove(&host.index);
    }
}

/// Takes the answer if it has arrived.
fn taken<T>(answer: &flume::Receiver<T>) -> Option<T> {
    answer.try_recv().ok()
}
