//! The interfaces for other programs: pushes, queries and actions over HTTP, and pushes as lines of JSON.
//!
//! Runs on a thread and a tokio runtime of its own, `pombo-control`, so that it answers while the shards are busy. It sends
//! requests to the shards through the [`Dispatcher`], as the program around the node does.
//!
//! ```text
//!   HTTP ─────▶ http ──┐
//!                      ├─▶ dispatcher ─▶ shards
//!   lines ────▶ text ──┘
//!   a service ◀── hooks ◀── events ── shards
//! ```

mod accept;
mod counts;
mod history;
mod hooks;
mod http;
mod lines;

mod problem;
mod process;
mod prometheus;
mod reserved;
mod slots;
mod text;
mod tokens;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::problem::Problem;
pub use self::tokens::ControlTokensError;
pub(crate) use self::tokens::TokenSet;

pub(crate) use self::counts::Counts;
pub(crate) use self::history::History;
pub(crate) use self::hooks::{HookEnds, HookError, Hooks};
pub(crate) use self::process::Process;
pub(crate) use self::slots::Occupants;
use crate::config::{ConnectionLimit, ControlSettings};
use crate::descriptors::{self, Reserve};
use crate::dispatcher::{Dispatcher, Unanswered};
use crate::gateway::{Reason, Refusals, Shortages};
use crate::listener::BoundListener;
use crate::log_sink::LogSink;
use crate::refused_clients::RefusedClients;
use crate::shard::Admission;
use crate::vital::Vital;

/// Time for connections to end after the shards have ended.
const END_TIME: Duration = Duration::from_secs(1);

/// Listeners that are bound and not accepted on yet.
#[derive(Debug, Default)]
pub(crate) struct ControlListeners {
    /// For HTTP.
    pub(crate) http: Option<BoundListener>,
    /// For lines of JSON.
    pub(crate) text: Option<BoundListener>,
}

/// What every connection's task needs.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) settings: watch::Receiver<Arc<ControlSettings>>,
    pub(crate) dispatcher: Dispatcher,
    /// The tokens of the HTTP API; if the set is empty, requests need none.
    pub(crate) tokens: watch::Sender<Arc<TokenSet>>,
    /// End of the drain; `None` while the node doesn't drain.
    pub(crate) draining: watch::Receiver<Option<Instant>>,
    /// When the node started.
    pub(crate) started: Instant,
    /// Each open connection holds a receiver; nothing is ever sent. `closed` completes when the last connection has ended.
    pub(crate) open: watch::Sender<()>,
    /// Connections on the node.
    pub(crate) admission: Admission,
    /// The gateway's refusals, by reason.
    pub(crate) refusals: Refusals,
    /// Logs clients that send wrong tokens.
    pub(crate) refused_clients: RefusedClients,
    /// Listeners of the gateway that can't accept now.
    pub(crate) shortages: Shortages,
    /// The sink of the program's log; `None` if the program gave none.
    pub(crate) log: Option<LogSink>,
    /// Control's own counts.
    pub(crate) counts: Counts,
    /// The kernel's figures of the process.
    pub(crate) process: Process,
    /// Descriptors that the node needs for everything except connections of clients.
    pub(crate) other_descriptors: u64,
    /// Control's own connections.
    pub(crate) occupants: Occupants,
    /// The node's totals over the last hours.
    pub(crate) history: History,
    /// Address of the page for trying the node, where it is served; `None` if clients connect over Unix sockets only.
    pub(crate) page_address: Option<Arc<str>>,
    /// Descriptors held back for control's connections.
    pub(crate) reserve: Reserve,
    /// Configuration of TLS handshakes, the newest; `None` if the HTTP listener is plain.
    pub(crate) tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
}

impl Control {
    /// Returns a dispatcher whose answers come within `control_answer_timeout`.
    fn dispatcher_in_time(&self) -> Dispatcher {
        self.dispatcher.by(Instant::now() + self.settings.borrow().answer_timeout)
    }

    /// Returns the most connections that the node can have, and the limit that they come from.
    fn ceiling(&self) -> (ConnectionLimit, u64) {
        self.settings.borrow().connection_limits.ceiling(descriptors::left_beside(self.other_descriptors))
    }

    /// Returns why the node accepts no connections; nothing if it accepts them.
    fn unready_reasons(&self) -> Vec<String> {
        let (connections, connections_max) = (self.admission.count(), self.settings.borrow().node_connections_max);
        let reasons = [
            self.draining.borrow().is_some().then(|| "the node drains".to_owned()),
            (self.shortages.count() > 0).then(|| "no descriptor is free for another connection".to_owned()),
            (connections >= connections_max)
                .then(|| format!("{connections} connections are open, of connections_max = {connections_max}")),
        ];
        reasons.into_iter().flatten().collect()
    }

    /// Collects all counts, and writes them for Prometheus.
    ///
    /// # Errors
    /// When a shard has not answered: sums without its counts would look like counters that were reset.
    async fn scrape(&self) -> Result<String, Unanswered> {
        let shards = self.dispatcher_in_time().stats().await.into_iter().collect::<Result<_, _>>()?;
        let refusals = Reason::ALL.iter().map(|reason| (reason.name(), self.refusals.count(*reason))).collect();
        let settings = Arc::clone(&self.settings.borrow());
        let limits = settings.connection_limits.all(descriptors::left_beside(self.other_descriptors));
        let scrape = prometheus::Scrape {
            shards,
            own: self.counts.of_node(&self.dispatcher),
            connections: self.admission.count() as u64,
            connections_max: settings.node_connections_max as u64,
            connection_limits: limits.map(|(limit, connections)| (limit.name(), connections)).collect(),
            memory_bytes_max: settings.memory_bytes_max as u64,
            process: self.process.figures(),
            starved_listeners: self.shortages.count() as u64,
            log_lines_dropped: self.log.as_ref().map_or(0, LogSink::dropped),
            problems: self.counts.problems(),
            refusals,
        };
        Ok(scrape.text())
    }

    /// Serves on all listeners until `served` completes: the gateway and all shards have ended. Then answers the requests that
    /// were received by then, for at most [`END_TIME`].
    ///
    /// # Errors
    /// When a listener can't be moved to the runtime that this is called in.
    pub(crate) async fn run(self, listeners: ControlListeners, served: impl Future) -> io::Result<()> {
        let (open, vital) = (self.open.clone(), Vital::new(self.log.clone()));
        let ControlListeners { http, text } = listeners;
        // Nothing is ever sent: dropping the sender ends the accept loops.
        let (serving, ending) = watch::channel(());
        let http = match http {
            Some(listener) => {
                tokio::spawn(
                    vital.task("control tokens", tokens::watch_files(self.settings.clone(), self.tokens.clone())),
                );
                tokio::spawn(vital.task("history", history::record(self.clone())));
                let serve = http::serve(self.clone(), listener.into_listener()?, ending.clone());
                Some(tokio::spawn(vital.task("control", serve)))
            }
            None => None,
        };
        let text = match text {
            Some(listener) => {
                let serve = text::serve(self, listener.into_listener()?, ending);
                Some(tokio::spawn(vital.task("text port", serve)))
            }
            None => None,
        };
        served.await;
        drop(serving);
        let ended = async {
            // Later connections wait for the next node if a service manager holds the socket.
            for accepting in http.into_iter().chain(text) {
                accepting.await.ok();
            }
            open.closed().await;
        };
        timeout(END_TIME, ended).await.ok();
        Ok(())
    }
}
