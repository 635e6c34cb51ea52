//! Tells a service which uids come online and go offline: in batches, signed, in order, again until it has them.
//!
//! ```text
//!   shards ── events ──▶ Desk: grace ─▶ queue ── batch ──▶ Poster ── POST ──▶ hook_url
//!                                         ▲                  │
//!                                         └──── failed ──────┘
//! ```
//! One task on the thread of control, with one batch under way at a time. It takes the shards' events while the service
//! is slow, and its memory is bounded by `hook_queue_max`; what does not fit is lost, counted, and told in the next batch.

mod desk;
mod grace;
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

use self::desk::{Desk, Now};
use self::post::Poster;
use self::signature::Keys;
pub(crate) use self::signature::SecretError;
use crate::config::{ControlSettings, HookSettings};
use crate::presence::{self, Event, HookProgress, PresenceSender};
use crate::roots::RootsError;

/// How long the shards are not listened to after their events were taken, so that a storm does not cost a wake for each.
const REST: Duration = Duration::from_millis(10);

/// Most events taken at a time, before others on this thread have their turn.
const INTAKE_MAX: usize = 1024;

/// Longest time until the next look at what the shards have dropped, and at the settings.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the service can't be told anything; the operator's to mend.
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
    desk: Desk,
    poster: Poster,
    /// What the poster signs with.
    keys: watch::Sender<Keys>,
    settings: HookSettings,
}

/// What the shards and those who read pages of uids need of the hook.
#[derive(Clone, Debug)]
pub(crate) struct HookEnds {
    pub(crate) presence: PresenceSender,
    pub(crate) progress: Arc<HookProgress>,
}

/// An attempt under way; it brings the way to the service back.
type Attempt = Pin<Box<dyn Future<Output = (Poster, bool)> + Send>>;

/// What taking events has come to.
enum Intake {
    /// There are none now.
    All,
    /// There may be more.
    Some,
    /// There will be none: the shards have ended.
    Ended,
}

impl Hooks {
    /// Reads the secrets and whom to trust, and names the node.
    ///
    /// # Errors
    /// See [`HookError`].
    pub(crate) fn new(settings: HookSettings) -> Result<(Self, HookEnds), HookError> {
        let (poster, keys) = Poster::new(&settings)?;
        let mut name = [0; 16];
        rand::fill(&mut name).map_err(|_| HookError::Random)?;
        let (presence, events, progress) = presence::channel(format!("{:032x}", u128::from_be_bytes(name)).into());
        let desk = Desk::new(Arc::clone(&progress));
        Ok((Self { events, desk, poster, keys, settings }, HookEnds { presence, progress }))
    }

    /// Tells the service until the shards have ended and all is told, or `hook_timeout` has passed since.
    pub(crate) async fn run(self, changes: watch::Receiver<Arc<ControlSettings>>) {
        let keys = self.keys.clone();
        tokio::select! {
            () = signature::keep(keys) => {}
            () = self.tell(changes) => {}
        }
    }

    async fn tell(self, mut changes: watch::Receiver<Arc<ControlSettings>>) {
        let Self { events, mut desk, poster, mut settings, .. } = self;
        let (mut poster, mut attempt) = (Some(poster), None::<Attempt>);
        let mut end = None;
        desk.start(Now::read(), &settings);
        loop {
            if changes.has_changed().unwrap_or(false) {
                settings = changes.borrow_and_update().hooks.clone().unwrap_or(settings);
            }
            let now = Now::read();
            desk.look(events.len());
            let mut listen_at = now.instant + REST;
            match take(&events, &mut desk, now, &settings) {
                Intake::Ended if end.is_none() => {
                    desk.stop(now, &settings);
                    end = Some(now.instant + settings.timeout);
                }
                Intake::Some => {
                    listen_at = now.instant;
                    yield_now().await;
                }
                Intake::Ended | Intake::All => {}
            }
            desk.settle(now, &settings);
            if let Some(end) = end {
                // There is nothing to wait for.
                settings.delay = Duration::ZERO;
                if desk.queue.is_empty() {
                    return;
                }
                if end <= now.instant {
                    let events = desk.queue.abandon();
                    return warn!(events, "the service of hook_url was not told of the last events");
                }
            }
            if poster.is_some()
                && let Some(body) = desk.queue.next(now.instant, &settings)
            {
                attempt = poster.take().map(|poster| begin(poster, body, settings.timeout));
            }
            let look_at = desk.next_due(&settings).into_iter().chain(end).fold(now.instant + LOOK_INTERVAL, Ord::min);
            tokio::select! {
                event = next(&events, listen_at), if end.is_none() => {
                    if let Some(event) = event {
                        desk.take(event, Now::read(), &settings);
                    }
                }
                (returned, is_taken) = outcome(&mut attempt) => {
                    (poster, attempt) = (Some(returned), None);
                    if is_taken {
                        desk.queue.delivered();
                    } else if desk.queue.failed(Instant::now(), settings.retry_time) {
                        warn!("a batch for the service of hook_url was given up");
                    }
                }
                () = sleep_until(look_at.into()) => {}
            }
        }
    }
}

/// Takes the events that are there, up to a bound.
fn take(events: &flume::Receiver<Event>, desk: &mut Desk, now: Now, settings: &HookSettings) -> Intake {
    for _ in 0..INTAKE_MAX {
        match events.try_recv() {
            Ok(event) => desk.take(event, now, settings),
            Err(TryRecvError::Empty) => return Intake::All,
            Err(TryRecvError::Disconnected) => return Intake::Ended,
        }
    }
    Intake::Some
}

/// Waits for an event, from `listen_at` on; `None` when there will be none.
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

/// Waits for the end of the attempt under way; for ever if there is none.
async fn outcome(attempt: &mut Option<Attempt>) -> (Poster, bool) {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}
