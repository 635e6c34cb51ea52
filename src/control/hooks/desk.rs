//! What becomes of the shards' events: who is within the grace, and what is lined up for the service.
//!
//! Does no I/O and reads no clock: events and times in, batches out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grace::{Gone, Grace};
use super::queue::{News, Queue};
use crate::clock;
use crate::config::HookSettings;
use crate::presence::{Change, Event, HookProgress};

/// The time on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    /// Since 1970.
    pub(super) wall: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: clock::since_1970() }
    }

    /// Returns the milliseconds since 1970 at `at`, which is not later.
    fn ms_of(&self, at: Instant) -> u64 {
        let age = self.instant.saturating_duration_since(at);
        self.wall.saturating_sub(age).as_millis() as u64
    }
}

/// Takes events, and has batches to send.
#[derive(Debug)]
pub(super) struct Desk {
    progress: Arc<HookProgress>,
    grace: Grace,
    pub(super) queue: Queue,
    dropped: Dropped,
}

/// Events that the shards had no room for, and that the service was not told of yet.
#[derive(Debug, Default)]
struct Dropped {
    events: u64,
    /// How many older events have not been taken yet.
    behind: usize,
}

impl Desk {
    pub(super) fn new(progress: Arc<HookProgress>) -> Self {
        Self {
            queue: Queue::new(Arc::clone(&progress)),
            grace: Grace::default(),
            dropped: Dropped::default(),
            progress,
        }
    }

    /// Lines up that the node has started.
    pub(super) fn start(&mut self, now: Now, settings: &HookSettings) {
        self.line_up(News::NodeStarted, now.instant, now, settings);
    }

    /// Takes an event of a shard.
    pub(super) fn take(&mut self, event: Event, now: Now, settings: &HookSettings) {
        self.dropped.behind = self.dropped.behind.saturating_sub(1);
        let Event { uid, change, at } = event;
        match change {
            Change::Offline => self.grace.begin(uid, at, at + settings.grace),
            Change::Online => {
                let gone = self.grace.end(&uid);
                // Back in time, so that nobody was told. But who read a page meanwhile may have missed it.
                if gone.is_none() || self.progress.has_reader_since(gone, now.instant) {
                    self.line_up(News::Online(uid.into()), at, now, settings);
                }
            }
            Change::Moved => {
                if self.progress.has_reader_since(None, now.instant) {
                    self.line_up(News::Online(uid.into()), at, now, settings);
                }
            }
        }
    }

    /// Notes what the shards have dropped; `behind` tells how many events they had told before and wait to be taken.
    pub(super) fn look(&mut self, behind: usize) {
        // One after the other: the next would put this off.
        if self.dropped.events == 0 {
            self.dropped = Dropped { events: self.progress.take_dropped(), behind };
        }
    }

    /// Lines up who is offline by now.
    pub(super) fn settle(&mut self, now: Now, settings: &HookSettings) {
        while let Some(Gone { uid, at }) = self.grace.take_due(now.instant, settings.queue_max) {
            self.line_up(News::Offline(uid), at, now, settings);
        }
        if self.dropped.events > 0 && self.dropped.behind == 0 {
            // Any of those may be back. All are told offline before the service hears of the loss: what it reads then is
            // newer than that, and nothing that is wrong comes behind it.
            self.end_graces(now, settings);
            let Dropped { events, .. } = std::mem::take(&mut self.dropped);
            self.queue.lose(events, now.instant);
        }
    }

    /// Lines up that everybody has gone and the node stops; no grace lasts longer.
    pub(super) fn stop(&mut self, now: Now, settings: &HookSettings) {
        self.look(0);
        self.queue.lose(std::mem::take(&mut self.dropped).events, now.instant);
        self.end_graces(now, settings);
        self.line_up(News::NodeStopped, now.instant, now, settings);
        self.queue.hurry(now.instant);
    }

    /// Returns when there will be something to do, unless an event comes or a batch is being sent.
    pub(super) fn next_due(&self, settings: &HookSettings) -> Option<Instant> {
        self.grace.next_due().into_iter().chain(self.queue.next_due(settings)).min()
    }

    fn end_graces(&mut self, now: Now, settings: &HookSettings) {
        while let Some(Gone { uid, at }) = self.grace.take() {
            self.line_up(News::Offline(uid), at, now, settings);
        }
    }

    fn line_up(&mut self, news: News, at: Instant, now: Now, settings: &HookSettings) {
        self.queue.line_up(news, now.ms_of(at), now.instant, settings.queue_max);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::config::Config;
    use crate::presence::{self, PresenceSender};

    const GRACE: Duration = Duration::from_millis(50);

    /// A node of some uids, its desk, and a service that believes what it is told.
    struct World {
        desk: Desk,
        progress: Arc<HookProgress>,
        settings: HookSettings,
        now: Now,
        /// What the shards have told and nobody has taken.
        told: VecDeque<Event>,
        /// Has no room for any event, and counts them.
        full: PresenceSender,
        online: BTreeSet<u8>,
        /// Those who stand on the second page of uids.
        moved: BTreeSet<u8>,
        believed: BTreeSet<u8>,
        /// The highest number that the service has heeded.
        sequence: u64,
        /// What the service has put aside, while it does.
        aside: Option<Vec<Value>>,
        lost: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A uid comes or goes, and stands on the other page.
        Toggle(u8),
        /// The same, and the shard has no room to tell it.
        Drop(u8),
        /// Another of its sessions is its oldest.
        Move(u8),
        /// The desk takes some of what was told, some milliseconds later.
        Take(usize, u8),
        /// A batch is sent; the service heeds it, and says so or fails to.
        Send(bool),
    }

    impl World {
        fn new(queue_max: usize) -> Self {
            let (full, _, progress) = presence::channel("n".into());
            let config = Config {
                hook_url: Some("http://127.0.0.1/".parse().expect("an address")),
                hook_grace: GRACE,
                hook_batch_max: 3,
                hook_queue_max: queue_max,
                ..Config::default()
            };
            Self {
                desk: Desk::new(Arc::clone(&progress)),
                progress,
                settings: config.hook_settings().expect("there is an address"),
                now: Now { instant: Instant::now(), wall: Duration::from_secs(1) },
                told: VecDeque::new(),
                full,
                online: BTreeSet::new(),
                moved: BTreeSet::new(),
                believed: BTreeSet::new(),
                sequence: 0,
                aside: None,
                lost: 0,
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Toggle(uid) => {
                    let event = self.toggle(uid);
                    self.told.push_back(event);
                }
                Step::Drop(uid) => {
                    // The receiver has gone: no event is taken.
                    let Event { uid, change, at } = self.toggle(uid);
                    self.full.send(uid, change, at);
                }
                Step::Move(uid) if self.online.contains(&uid) => {
                    self.relocate(uid);
                    self.told.push_back(self.event(uid, Change::Moved));
                }
                Step::Move(_) => {}
                Step::Take(most, ms) => self.take(most, Duration::from_millis(ms.into())),
                Step::Send(is_taken) => self.send(is_taken),
            }
        }

        fn toggle(&mut self, uid: u8) -> Event {
            if self.online.remove(&uid) {
                return self.event(uid, Change::Offline);
            }
            self.online.insert(uid);
            self.relocate(uid);
            self.event(uid, Change::Online)
        }

        fn event(&self, uid: u8, change: Change) -> Event {
            Event { uid: uid.to_string().into(), change, at: self.now.instant }
        }

        fn relocate(&mut self, uid: u8) {
            if !self.moved.remove(&uid) {
                self.moved.insert(uid);
            }
        }

        fn take(&mut self, most: usize, later: Duration) {
            self.now.instant += later;
            self.now.wall += later;
            self.desk.look(self.told.len());
            for _ in 0..most {
                let Some(event) = self.told.pop_front() else { break };
                self.desk.take(event, self.now, &self.settings);
            }
            self.desk.settle(self.now, &self.settings);
        }

        fn send(&mut self, is_taken: bool) {
            let Some(body) = self.desk.queue.next(self.now.instant, &self.settings) else { return };
            self.heed(&serde_json::from_slice(&body).expect("JSON"));
            if is_taken {
                self.desk.queue.delivered();
            } else {
                self.desk.queue.failed(self.now.instant, Duration::from_secs(1));
            }
        }

        fn heed(&mut self, body: &Value) {
            if let Some(aside) = &mut self.aside {
                return aside.push(body.clone());
            }
            self.lost += body["lost"].as_u64().expect("a number");
            for event in body["events"].as_array().expect("a list") {
                let sequence = event["sequence"].as_u64().expect("a number");
                if sequence <= self.sequence {
                    continue;
                }
                self.sequence = sequence;
                let uid = event["uid"].as_str().and_then(|uid| uid.parse().ok()).expect("a uid");
                if event["event"] == "online" {
                    self.believed.insert(uid);
                } else {
                    self.believed.remove(&uid);
                }
            }
        }

        /// The first page, or the second.
        fn page(&self, is_second: bool) -> (u64, BTreeSet<u8>) {
            let (_reading, as_of) = self.progress.read_page();
            let on_page = self.online.iter().copied().filter(|uid| self.moved.contains(uid) == is_second);
            (as_of.sequence, on_page.collect())
        }

        /// Whether the desk has a loss to tell, now or when it looks again.
        fn knows_of_loss(&mut self) -> bool {
            self.desk.look(self.told.len());
            self.desk.dropped.events > 0
        }

        /// Takes and delivers what waits.
        fn quiet(&mut self) {
            self.take(usize::MAX, Duration::from_secs(40));
            while !self.desk.queue.is_empty() || self.desk.grace.next_due().is_some() {
                self.take(usize::MAX, Duration::from_secs(40));
                self.send(true);
            }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4_u8).prop_map(Step::Toggle),
            1 => (0..4_u8).prop_map(Step::Move),
            3 => (0..4_usize, 0..60_u8).prop_map(|(most, ms)| Step::Take(most, ms)),
            3 => any::<bool>().prop_map(Step::Send),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn steps_with_loss() -> impl Strategy<Value = Vec<Step>> {
        let drop = (any::<prop::sample::Index>(), (0..4_u8).prop_map(Step::Drop));
        (steps(), proptest::collection::vec(drop, 0..9)).prop_map(|(mut steps, drops)| {
            for (place, drop) in drops {
                steps.insert(place.index(steps.len() + 1), drop);
            }
            steps
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_service_believes_the_truth_when_all_is_quiet(steps in steps()) {
            let mut world = World::new(1000);
            steps.into_iter().for_each(|step| world.step(step));
            world.quiet();
            prop_assert_eq!(&world.believed, &world.online);
            prop_assert_eq!((world.lost, world.progress.counts()[1]), (0, 0));
        }

        /// Every event is delivered, or counted as lost and told to be.
        #[test]
        fn what_is_lost_is_told(steps in steps_with_loss()) {
            let mut world = World::new(4);
            steps.into_iter().for_each(|step| world.step(step));
            world.quiet();
            let [delivered, lost, _] = world.progress.counts();
            let (_, as_of) = world.progress.read_page();
            let dropped = lost + delivered - as_of.sequence;
            prop_assert!(world.lost >= lost, "told {}, lost {}", world.lost, lost);
            prop_assert!(lost >= dropped);
        }

        #[test]
        fn who_is_back_within_the_grace_was_not_gone(gaps in proptest::collection::vec(0..50_u8, 1..20)) {
            let mut world = World::new(1000);
            for gap in gaps {
                world.step(Step::Toggle(1));
                world.step(Step::Take(9, 3));
                world.step(Step::Toggle(1));
                world.step(Step::Take(9, gap));
            }
            world.quiet();
            let expected = if world.online.is_empty() { 2 } else { 1 };
            prop_assert_eq!(world.sequence, expected);
        }

        /// With events lost everywhere, pages read one after the other put it right, whatever happens amid that.
        #[test]
        fn pages_put_right_what_was_lost(before in steps_with_loss(), amid in steps(), after in steps()) {
            let mut world = World::new(4);
            before.into_iter().for_each(|step| world.step(step));
            // It reads them when it is told of the loss, which is when the desk has come to it.
            world.settings.queue_max = 1000;
            while world.knows_of_loss() {
                world.take(1, Duration::ZERO);
            }
            let (sequence, mut listed) = world.page(false);
            world.aside = Some(Vec::new());
            amid.into_iter().for_each(|step| world.step(step));
            listed.extend(world.page(true).1);
            (world.believed, world.sequence) = (listed, sequence);
            for body in world.aside.take().unwrap_or_default() {
                world.heed(&body);
            }
            after.into_iter().for_each(|step| world.step(step));
            world.quiet();
            prop_assert_eq!(&world.believed, &world.online);
        }
    }
}
