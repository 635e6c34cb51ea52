//! The way of an event from a shard to a batch: through the grace period of uids that went offline, then into the queue.
//!
//! Does no I/O and reads no clock: events and times in, batches out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grace::{Gone, Grace};
use super::queue::{HookEvent, Queue};
use crate::clock;
use crate::config::HookSettings;
use crate::presence::{Change, Event, HookProgress};

/// The current time on the monotonic clock and on the wall clock.
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

/// Turns the shards' events into batches for the service.
#[derive(Debug)]
pub(super) struct EventPipeline {
    progress: Arc<HookProgress>,
    grace: Grace,
    pub(super) queue: Queue,
    dropped: Dropped,
}

/// Events that the shards dropped because their channel was full, and that are not reported to the service yet.
#[derive(Debug, Default)]
struct Dropped {
    events: u64,
    /// Number of events that were sent before the drops, and have not been received yet.
    behind: usize,
}

impl EventPipeline {
    pub(super) fn new(progress: Arc<HookProgress>) -> Self {
        Self {
            queue: Queue::new(Arc::clone(&progress)),
            grace: Grace::default(),
            dropped: Dropped::default(),
            progress,
        }
    }

    /// Enqueues the event that the node has started.
    pub(super) fn start(&mut self, now: Now, settings: &HookSettings) {
        self.enqueue(HookEvent::NodeStarted, now.instant, now, settings);
    }

    /// Receives an event of a shard.
    pub(super) fn receive(&mut self, event: Event, now: Now, settings: &HookSettings) {
        self.dropped.behind = self.dropped.behind.saturating_sub(1);
        let Event { uid, change, at } = event;
        match change {
            Change::Offline => self.grace.begin(uid, at, at + settings.grace),
            Change::Online => {
                let gone = self.grace.end(&uid);
                // Without `hook_returns` a uid that returned within its grace needs no event, except if a page of uids was
                // read while it was away: the page's reader may have missed it.
                if gone.is_none() || settings.returns || self.progress.has_reader_since(gone, now.instant) {
                    self.enqueue(HookEvent::Online(uid.into()), at, now, settings);
                }
            }
            Change::Moved => {
                if self.progress.has_reader_since(None, now.instant) {
                    self.enqueue(HookEvent::Online(uid.into()), at, now, settings);
                }
            }
        }
    }

    /// Notes the events that the shards have dropped; `behind` is the number of events in the channel, which are older.
    pub(super) fn note_dropped(&mut self, behind: usize) {
        // Later drops wait until these are reported, or they would postpone the report again and again.
        if self.dropped.events == 0 {
            self.dropped = Dropped { events: self.progress.take_dropped(), behind };
        }
    }

    /// Enqueues an event for each uid whose grace is over, and reports dropped events once the older ones are received.
    pub(super) fn advance(&mut self, now: Now, settings: &HookSettings) {
        while let Some(Gone { uid, at }) = self.grace.take_due(now.instant, settings.queue_max) {
            self.enqueue(HookEvent::Offline(uid), at, now, settings);
        }
        if self.dropped.events > 0 && self.dropped.behind == 0 {
            // A dropped event may have been the return of any uid within its grace. So all graces end, and those uids are
            // reported offline before the loss. The service reads the pages of uids because of the loss: they are newer, and
            // no wrong event follows them.
            self.end_graces(now, settings);
            let Dropped { events, .. } = std::mem::take(&mut self.dropped);
            self.queue.note_lost(events, now.instant);
        }
    }

    /// Ends all graces, enqueues the event that the node stops, and has everything sent at once.
    pub(super) fn stop(&mut self, now: Now, settings: &HookSettings) {
        self.note_dropped(0);
        self.queue.note_lost(std::mem::take(&mut self.dropped).events, now.instant);
        self.end_graces(now, settings);
        self.enqueue(HookEvent::NodeStopped, now.instant, now, settings);
        self.queue.retry_now(now.instant);
    }

    /// Returns the time of the next work, if no event arrives and no attempt ends before.
    pub(super) fn next_due(&self, settings: &HookSettings) -> Option<Instant> {
        self.grace.next_due().into_iter().chain(self.queue.next_due(settings)).min()
    }

    fn end_graces(&mut self, now: Now, settings: &HookSettings) {
        while let Some(Gone { uid, at }) = self.grace.take() {
            self.enqueue(HookEvent::Offline(uid), at, now, settings);
        }
    }

    fn enqueue(&mut self, event: HookEvent, at: Instant, now: Now, settings: &HookSettings) {
        self.queue.enqueue(event, now.ms_of(at), now.instant, settings.queue_max);
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

    /// A node with some uids, its pipeline, and a service that keeps a set of online uids by the events.
    struct World {
        pipeline: EventPipeline,
        progress: Arc<HookProgress>,
        settings: HookSettings,
        now: Now,
        /// Events that the shards have sent and the pipeline has not received.
        pending: VecDeque<Event>,
        /// A sender whose channel takes no event: it counts drops.
        full: PresenceSender,
        online: BTreeSet<u8>,
        /// The uids on the second page of uids.
        moved: BTreeSet<u8>,
        believed: BTreeSet<u8>,
        /// The highest sequence number that the service has applied.
        sequence: u64,
        /// Batches that the service has put aside while it reads the pages; `None` otherwise.
        aside: Option<Vec<Value>>,
        lost: u64,
        /// How often a uid came online.
        arrivals: u64,
        /// Events `online` that the service has applied.
        told_online: u64,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A uid comes or goes, and changes its page.
        Toggle(u8),
        /// The same, but the shard drops the event.
        Drop(u8),
        /// Another session of a uid becomes its oldest.
        Move(u8),
        /// The pipeline receives some of the events, some milliseconds later.
        Take(usize, u8),
        /// A batch is sent; the service applies it, and its answer arrives or is lost.
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
                pipeline: EventPipeline::new(Arc::clone(&progress)),
                progress,
                settings: config.hook_settings().expect("there is an address"),
                now: Now { instant: Instant::now(), wall: Duration::from_secs(1) },
                pending: VecDeque::new(),
                full,
                online: BTreeSet::new(),
                moved: BTreeSet::new(),
                believed: BTreeSet::new(),
                sequence: 0,
                aside: None,
                lost: 0,
                arrivals: 0,
                told_online: 0,
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Toggle(uid) => {
                    let event = self.toggle(uid);
                    self.pending.push_back(event);
                }
                Step::Drop(uid) => {
                    // The receiver has gone: no event is taken.
                    let Event { uid, change, at } = self.toggle(uid);
                    self.full.send(uid, change, at);
                }
                Step::Move(uid) if self.online.contains(&uid) => {
                    self.relocate(uid);
                    self.pending.push_back(self.event(uid, Change::Moved));
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
            self.arrivals += 1;
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
            self.pipeline.note_dropped(self.pending.len());
            for _ in 0..most {
                let Some(event) = self.pending.pop_front() else { break };
                self.pipeline.receive(event, self.now, &self.settings);
            }
            self.pipeline.advance(self.now, &self.settings);
        }

        fn send(&mut self, is_taken: bool) {
            let Some(body) = self.pipeline.queue.next(self.now.instant, &self.settings) else { return };
            self.apply(&serde_json::from_slice(&body).expect("JSON"));
            if is_taken {
                self.pipeline.queue.delivered();
            } else {
                self.pipeline.queue.failed(self.now.instant, Duration::from_secs(1));
            }
        }

        fn apply(&mut self, body: &Value) {
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
                    self.told_online += 1;
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

        /// Whether the pipeline has a loss to report, now or when it looks again.
        fn knows_of_loss(&mut self) -> bool {
            self.pipeline.note_dropped(self.pending.len());
            self.pipeline.dropped.events > 0
        }

        /// Takes and delivers what waits.
        fn deliver_all(&mut self) {
            self.take(usize::MAX, Duration::from_secs(40));
            while !self.pipeline.queue.is_empty() || self.pipeline.grace.next_due().is_some() {
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
            world.deliver_all();
            prop_assert_eq!(&world.believed, &world.online);
            prop_assert_eq!((world.lost, world.progress.counts()[1]), (0, 0));
        }

        /// Every event is delivered, or counted as lost and reported as lost.
        #[test]
        fn what_is_lost_is_reported(steps in steps_with_loss()) {
            let mut world = World::new(4);
            steps.into_iter().for_each(|step| world.step(step));
            world.deliver_all();
            let [delivered, lost, _] = world.progress.counts();
            let (_, as_of) = world.progress.read_page();
            let dropped = lost + delivered - as_of.sequence;
            prop_assert!(world.lost >= lost, "reported {}, lost {}", world.lost, lost);
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
            world.deliver_all();
            let expected = if world.online.is_empty() { 2 } else { 1 };
            prop_assert_eq!(world.sequence, expected);
        }

        #[test]
        fn each_arrival_is_told_with_hook_returns(steps in steps()) {
            let mut world = World::new(1000);
            world.settings.returns = true;
            steps.into_iter().for_each(|step| world.step(step));
            world.deliver_all();
            prop_assert_eq!(&world.believed, &world.online);
            prop_assert_eq!(world.told_online, world.arrivals);
        }

        /// With events lost everywhere, pages read one after the other correct it, whatever happens between them.
        #[test]
        fn pages_put_right_what_was_lost(before in steps_with_loss(), between in steps(), after in steps()) {
            let mut world = World::new(4);
            before.into_iter().for_each(|step| world.step(step));
            // The service reads the pages when it learns of the loss, which is when the pipeline has reached it.
            world.settings.queue_max = 1000;
            while world.knows_of_loss() {
                world.take(1, Duration::ZERO);
            }
            let (sequence, mut listed) = world.page(false);
            world.aside = Some(Vec::new());
            between.into_iter().for_each(|step| world.step(step));
            listed.extend(world.page(true).1);
            (world.believed, world.sequence) = (listed, sequence);
            for body in world.aside.take().unwrap_or_default() {
                world.apply(&body);
            }
            after.into_iter().for_each(|step| world.step(step));
            world.deliver_all();
            prop_assert_eq!(&world.believed, &world.online);
        }
    }
}
