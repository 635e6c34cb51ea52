//! What is asked of the shards from outside, and whether the answers are right.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use fastrand::Rng;

use super::message::{EVERYBODY, EVERYBODY_BUT, Identity};
use super::network::is_one_in;
use super::peer::Exceptions;
use super::plan::Plan;
use super::world::{Place, UIDS};
use crate::frame::close;
use crate::message::{Delivery, Kind, Shed};
use crate::metrics::Stats;
use crate::shard::io::SessionKey;
use crate::shard::{Push, Request, SessionInfo, UidPage};
use crate::uid::UidHash;

/// The code of every kick.
pub(super) const KICKED: u16 = 4400;

/// An answer that has not come.
enum Asked {
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
    /// Uids that have been online since.
    ever: HashSet<usize>,
    seen: Vec<usize>,
}

/// Everybody who asks; one after the other at each shard.
#[derive(Default)]
pub(super) struct Caller {
    /// Numbers the messages.
    sent: usize,
    pub(super) exceptions: Exceptions,
    /// By shard.
    asked: HashMap<usize, Vec<Asked>>,
    walks: HashMap<usize, Walk>,
    /// Pushes and broadcasts that were answered, and how many of them were too long for anybody.
    pub(super) pushes: u64,
    pub(super) broadcasts: u64,
    pub(super) too_long: u64,
    /// Sessions that kicks have closed, by uid.
    pub(super) kicked: [u64; UIDS.len()],
    /// Answers that nobody waited for.
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

    /// Asks something, unless there is no room for the question.
    pub(super) fn ask(&mut self, random: &mut Rng, plan: &Plan, places: &[Place], hashes: &[UidHash]) {
        let shard = random.usize(..places.len());
        let uid = random.usize(..plan.uids);
        match random.u32(..16) {
            0..5 => self.ask_push(random, plan, &places[shard], hashes),
            5..8 => self.ask_broadcast(random, plan, places, hashes),
            8 => {
                let (sender, answer) = flume::bounded(1);
                let (hash, reason) = (hashes[uid], "kicked".into());
                let kick = Request::Kick { hash, uid: UIDS[uid].into(), code: KICKED, reason, answer: sender };
                let owner = places.iter().find(|place| place.owns(hash)).expect("somebody owns it");
                self.note(owner, kick, Asked::Kick { answer, uid });
            }
            9 => {
                let (sender, answer) = flume::bounded(1);
                let request = Request::Sessions { hash: hashes[uid], uid: UIDS[uid].into(), answer: sender };
                self.note(&places[shard], request, Asked::Sessions(answer));
            }
            10 => {
                let (answer, receiver) = flume::bounded(1);
                drop(receiver);
                if places[shard].request(Request::Stats { answer }) {
                    *self.dropping.entry(shard).or_default() += 1;
                }
            }
            11 => {
                let (sender, answer) = flume::bounded(1);
                self.note(&places[shard], Request::Stats { answer: sender }, Asked::Stats(answer));
            }
            _ if !self.walks.contains_key(&shard) && places[shard].shard.is_some() => {
                let mut walk = Walk::default();
                for (uid, oldest) in places[shard].oldest(hashes) {
                    walk.stable.insert(uid, oldest);
                    walk.ever.insert(uid);
                }
                self.walks.insert(shard, walk);
                self.ask_page(&places[shard], 0, random.usize(1..4));
            }
            _ => {}
        }
    }

    fn note(&mut self, place: &Place, request: Request, asked: Asked) {
        if place.request(request) {
            self.asked.entry(place.index).or_default().push(asked);
        }
    }

    fn ask_push(&mut self, random: &mut Rng, plan: &Plan, place: &Place, hashes: &[UidHash]) {
        let (mut pushes, mut is_too_long) = (Vec::new(), Vec::new());
        for _ in 0..random.usize(1..12) {
            let uid = random.usize(..UIDS.len());
            if place.owns(hashes[uid]) {
                let too_long = is_one_in(random, 50);
                let length = if too_long { plan.settings.outbox_bytes_max } else { plan.length(random) };
                let kind = if random.bool() { Kind::Text } else { Kind::Binary };
                let (payload, name) = (self.message(uid, length), UIDS[uid].into());
                pushes.push(Push { hash: hashes[uid], uid: name, kind, payload });
                is_too_long.push(too_long);
            }
        }
        let (sender, answer) = flume::bounded(1);
        self.note(place, Request::Push { pushes, answer: sender }, Asked::Push { answer, is_too_long });
    }

    fn ask_broadcast(&mut self, random: &mut Rng, plan: &Plan, places: &[Place], hashes: &[UidHash]) {
        let is_too_long = is_one_in(random, 50);
        let length = if is_too_long { plan.settings.outbox_bytes_max } else { plan.length(random) };
        let but: Vec<_> = (0..UIDS.len()).filter(|_| is_one_in(random, 6)).collect();
        let to = if but.is_empty() { EVERYBODY } else { EVERYBODY_BUT };
        self.exceptions.insert(self.sent, but.clone());
        let payload = self.message(to, length);
        for place in places {
            let own = but.iter().filter(|&&uid| place.owns(hashes[uid]));
            // One that is named twice is left out once.
            let except = own.flat_map(|&uid| vec![(hashes[uid], UIDS[uid].into()); 1 + uid % 2]).collect();
            let (sender, answer) = flume::bounded(1);
            let payload = payload.clone();
            let request = Request::Broadcast { kind: Kind::Binary, payload, except, answer: sender };
            self.note(place, request, Asked::Broadcast { answer, is_too_long });
        }
    }

    /// Pushes one message to each of `uids`, which the shard owns.
    pub(super) fn push_to_each(&mut self, place: &Place, uids: &[usize], hashes: &[UidHash]) {
        let pushes = uids.iter().map(|&uid| Push {
            hash: hashes[uid],
            uid: UIDS[uid].into(),
            kind: Kind::Text,
            payload: self.message(uid, 20),
        });
        let pushes: Vec<_> = pushes.collect();
        let is_too_long = vec![false; pushes.len()];
        let (sender, answer) = flume::bounded(1);
        self.note(place, Request::Push { pushes, answer: sender }, Asked::Push { answer, is_too_long });
    }

    fn ask_page(&mut self, place: &Place, from: u32, most: usize) {
        let (sender, answer) = flume::bounded(1);
        if place.request(Request::Uids { from, most, answer: sender }) {
            self.asked.entry(place.index).or_default().push(Asked::Uids(answer));
        } else {
            self.walks.remove(&place.index);
        }
    }

    /// Takes the answers that a turn of a shard has brought.
    pub(super) fn listen(&mut self, random: &mut Rng, place: &Place, hashes: &[UidHash]) {
        if let Some(walk) = self.walks.get_mut(&place.index) {
            let oldest: HashMap<_, _> = place.oldest(hashes).collect();
            walk.stable.retain(|uid, key| oldest.get(uid) == Some(key));
            walk.ever.extend(oldest.keys());
        }
        if let Some(shard) = &place.shard
            && shard.inlets.requests.len() == 0
        {
            self.dropped += self.dropping.remove(&place.index).unwrap_or_default();
        }
        let Some(mut asked) = self.asked.remove(&place.index) else { return };
        asked.retain(|asked| !self.hear(random, asked, place));
        self.asked.entry(place.index).or_default().append(&mut asked);
    }

    /// Judges an answer; says whether there is none to wait for any more.
    fn hear(&mut self, random: &mut Rng, asked: &Asked, place: &Place) -> bool {
        let sessions_max = place.facts_sessions_max;
        match asked {
            Asked::Push { answer, is_too_long } => {
                let Some(deliveries) = taken(answer) else { return answer.is_disconnected() };
                assert_eq!(deliveries.len(), is_too_long.len(), "every push is answered");
                for (delivery, &is_too_long) in deliveries.into_iter().zip(is_too_long) {
                    self.pushes += 1;
                    self.too_long += u64::from(delivery == Delivery::Shed(Shed::TooLong));
                    match delivery {
                        Delivery::Delivered { sessions } => {
                            assert!((1..=sessions_max).contains(&sessions) && !is_too_long, "{sessions}");
                        }
                        Delivery::Shed(shed) => assert_eq!(shed == Shed::TooLong, is_too_long),
                        Delivery::Offline => {}
                    }
                }
            }
            Asked::Broadcast { answer, is_too_long } => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                self.broadcasts += 1;
                self.too_long += u64::from(*is_too_long);
                assert!(sessions == 0 || !is_too_long, "nobody can take it");
            }
            Asked::Kick { answer, uid } => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                self.kicked[*uid] += sessions as u64;
                assert!(sessions <= sessions_max);
            }
            Asked::Sessions(answer) => {
                let Some(sessions) = taken(answer) else { return answer.is_disconnected() };
                assert!(sessions.len() <= sessions_max && sessions.is_sorted_by(|a, b| a.age >= b.age));
            }
            Asked::Stats(answer) => {
                let Some(stats) = taken(answer) else { return answer.is_disconnected() };
                assert!(stats.closes[..close::ALL.len()].iter().sum::<u64>() <= stats.logins);
            }
            Asked::Uids(answer) => {
                let Some(page) = taken(answer) else { return answer.is_disconnected() };
                self.hear_page(random, page, place);
            }
        }
        true
    }

    fn hear_page(&mut self, random: &mut Rng, page: UidPage, place: &Place) {
        let Some(walk) = self.walks.get_mut(&place.index) else { return };
        let number = |uid: &str| UIDS.iter().position(|known| *known == uid).expect("a uid that logs in");
        walk.seen.extend(page.uids.iter().map(|uid| number(uid)));
        if let Some(next) = page.next {
            if place.shard.is_some() {
                self.ask_page(place, next, random.usize(1..4));
            }
            return;
        }
        for uid in walk.stable.keys() {
            let times = walk.seen.iter().filter(|seen| *seen == uid).count();
            assert_eq!(times, 1, "{} is on {times} pages", UIDS[*uid]);
        }
        assert!(walk.seen.iter().all(|uid| walk.ever.contains(uid)), "a page has who was never there");
        self.walks.remove(&place.index);
    }
}

/// Takes the answer if it has come.
fn taken<T>(answer: &flume::Receiver<T>) -> Option<T> {
    answer.try_recv().ok()
}
