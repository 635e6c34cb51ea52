//! The hook: sends a service the uids that come online and go offline, in signed batches, in order, each until it is taken.
//!
//! ```text
//!   shards ── events ──▶ EventPipeline: grace ─▶ queue ── batch ──▶ Poster ── POST ──▶ hook_url
//!                                         ▲                  │
//!                                         └──── failed ──────┘
//! ```
//! One task on the control thread, which sends one batch at a time. It receives the shards' events even while the service is
//! slow. `hook_queue_max` bounds its memory; events past it are lost, counted, and reported in the next batch.

mod grace;
mod pipeline;
mod post;
mod queue;
mod signature;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use bytes::Bytes;
use flume::TryRecvError;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::warn;

use self::pipeline::{EventPipeline, Now};
use self::post::Poster;
use self::signature::Keys;
pub(crate) use self::signature::SecretError;
use crate::config::{ControlSettings, HookSettings};
use crate::presence::{self, Event, HookProgress, PresenceSender};
use crate::roots::RootsError;

/// Pause between two receptions of events, so that a storm of events doesn't cost a wake for each.
const INTAKE_PAUSE: Duration = Duration::from_millis(10);

/// Most events received before the task yields to others on this thread.
const INTAKE_MAX: usize = 1024;

/// Longest time between two looks at the count of dropped events, and at the settings.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the hook can't start; the operator has to correct it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("cannot draw a name for the node")]
    Random,
}

/// The hook's task, which does not run yet.
#[derive(Debug)]
pub(crate) struct Hooks {
    events: flume::Receiver<Event>,
    pipeline: EventPipeline,
    poster: Poster,
    /// The keys that sign batches; the poster has the receiver.
    keys: watch::Sender<Keys>,
    settings: HookSettings,
}

/// The ends of the hook for the rest of the node: the shards send events, and the pages of uids read the progress.
#[derive(Clone, Debug)]
pub(crate) struct HookEnds {
    pub(crate) presence: PresenceSender,
    pub(crate) progress: Arc<HookProgress>,
}

/// An attempt to send a batch; it returns the poster, and whether the service has taken the batch.
type Attempt = Pin<Box<dyn Future<Output = (Poster, bool)> + Send>>;

/// How the reception of events has ended.
enum Intake {
    /// The channel is empty.
    All,
    /// The bound is reached; there may be more.
    Some,
    /// The shards have ended, and no more events will come.
    Ended,
}

impl Hooks {
    /// Reads the secrets and the root certificates, and draws the node's name.
    ///
    /// # Errors
    /// See [`HookError`].
    pub(crate) fn new(settings: HookSettings) -> Result<(Self, HookEnds), HookError> {
        let (poster, keys) = Poster::new(&settings)?;
        let mut name = [0; 16];
        rand::fill(&mut name).map_err(|_| HookError::Random)?;
        let (presence, events, progress) = presence::channel(format!("{:032x}", u128::from_be_bytes(name)).into());
        let pipeline = EventPipeline::new(Arc::clone(&progress));
        Ok((Self { events, pipeline, poster, keys, settings }, HookEnds { presence, progress }))
    }

    /// Sends events until the shards have ended and the service has all events, or until `hook_timeout` after the shards' end.
    pub(crate) async fn run(self, changes: watch::Receiver<Arc<ControlSettings>>) {
        let keys = self.keys.clone();
        tokio::select! {
            () = signature::watch(keys) => {}
            () = self.run_pipeline(changes) => {}
        }
    }

    async fn run_pipeline(self, mut changes: watch::Receiver<Arc<ControlSettings>>) {
        let Self { events, mut pipeline, poster, mut settings, .. } = self;
        let (mut poster, mut attempt) = (Some(poster), None::<Attempt>);
        let mut end = None;
        pipeline.start(Now::read(), &settings);
        loop {
            refresh(&mut settings, &mut changes);
            let now = Now::read();
            pipeline.note_dropped(events.len());
            let mut listen_at = now.instant + INTAKE_PAUSE;
            match take(&events, &mut pipeline, now, &settings) {
                Intake::Ended if end.is_none() => {
                    pipeline.stop(now, &settings);
                    end = Some(now.instant + settings.timeout);
                }
                Intake::Some => {
                    listen_at = now.instant;
                    yield_now().await;
                }
                Intake::Ended | Intake::All => {}
            }
            pipeline.advance(now, &settings);
            if let Some(end) = end {
                // No more events will come that the delay could gather.
                settings.delay = Duration::ZERO;
                if pipeline.queue.is_empty() {
                    return;
                }
                if end <= now.instant {
                    let events = pipeline.queue.abandon();
                    return warn!(events, "the last events did not reach the service of hook_url");
                }
            }
            if poster.is_some()
                && let Some(body) = pipeline.queue.next(now.instant, &settings)
            {
                attempt = poster.take().map(|poster| begin(poster, body, settings.timeout));
            }
            let look_at =
                pipeline.next_due(&settings).into_iter().chain(end).fold(now.instant + LOOK_INTERVAL, Ord::min);
            tokio::select! {
                event = next(&events, listen_at), if end.is_none() => {
                    if let Some(event) = event {
                        // A reload before the event applies to it.
                        refresh(&mut settings, &mut changes);
                        pipeline.receive(event, Now::read(), &settings);
                    }
                }
                (returned, is_taken) = outcome(&mut attempt) => {
                    (poster, attempt) = (Some(returned), None);
                    if is_taken {
                        pipeline.queue.delivered();
                    } else if pipeline.queue.failed(Instant::now(), settings.retry_time) {
                        warn!("a batch for the service of hook_url was given up");
                    }
                }
                () = sleep_until(look_at.into()) => {}
            }
        }
    }
}

/// Takes the settings of a reload, if there was one.
fn refresh(settings: &mut HookSettings, changes: &mut watch::Receiver<Arc<ControlSettings>>) {
    if changes.has_changed().unwrap_or(false)
        && let Some(hooks) = &changes.borrow_and_update().hooks
    {
        settings.clone_from(hooks);
    }
}

/// Receives the events in the channel, up to [`INTAKE_MAX`].
fn take(events: &flume::Receiver<Event>, pipeline: &mut EventPipeline, now: Now, settings: &HookSettings) -> Intake {
    for _ in 0..INTAKE_MAX {
        match events.try_recv() {
            Ok(event) => pipeline.receive(event, now, settings),
            Err(TryRecvError::Empty) => return Intake::All,
            Err(TryRecvError::Disconnected) => return Intake::Ended,
        }
    }
    Intake::Some
}

/// Waits until `listen_at`, then for an event; `None` when the shards have ended.
async fn next(events: &flume::Receiver<Event>, listen_at: Instant) -> Option<Event> {
    sleep_until(listen_at.into()).await;
    events.recv_async().await.ok()
}

fn begin(mut poster: Poster, body: Bytes, time: Duration) -> Attempt {
    Box::pin(async move {
        let is_taken = poster.post(body, time).await;
        (poster, is_taken)
    })
}

/// Waits for the end of the attempt; for ever if there is none.
async fn outcome(attempt: &mut Option<Attempt>) -> (Poster, bool) {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}
