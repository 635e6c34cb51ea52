//! What other programs reach: pushes, queries and actions over HTTP, and pushes by lines of JSON.
//!
//! Runs on a thread and a tokio runtime of its own, `pombo-control`, so that it answers while the shards are busy. It
//! asks them through the [`Dispatcher`], like the program around the node does.
//!
//! ```text
//!   HTTP ─────▶ http ──┐
//!                      ├─▶ dispatcher ─▶ shards
//!   lines ────▶ text ──┘
//! ```

mod accept;
mod http;
mod text;
mod tokens;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use self::http::Problem;
pub use self::tokens::ControlTokensError;
pub(crate) use self::tokens::TokenSet;

use crate::config::ControlSettings;
use crate::dispatcher::Dispatcher;
use crate::listener::BoundListener;

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
    /// Who may use the HTTP API; nobody in it lets in everybody.
    pub(crate) tokens: watch::Sender<Arc<TokenSet>>,
    /// When the drain will be over, from its begin on.
    pub(crate) draining: watch::Receiver<Option<Instant>>,
    /// Subscribed to by each connection that is open; nothing is ever sent.
    pub(crate) open: watch::Sender<()>,
    /// What TLS handshakes are made by; nothing where TCP listeners speak plainly.
    pub(crate) tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
}

/// How long connections may take to end behind the last shard: for answers on their way, no more.
const END: Duration = Duration::from_secs(1);

impl Control {
    /// Serves on all listeners until `served` has come, and what was asked before is answered.
    ///
    /// # Errors
    /// When a listener can't be moved to the runtime that this is called in.
    pub(crate) async fn run(self, listeners: ControlListeners, served: impl Future) -> io::Result<()> {
        let open = self.open.clone();
        let ControlListeners { http, text } = listeners;
        if let Some(listener) = http {
            tokio::spawn(tokens::keep(self.settings.clone(), self.tokens.clone()));
            tokio::spawn(http::serve(self.clone(), listener.into_listener()?));
        }
        if let Some(listener) = text {
            tokio::spawn(text::serve(self, listener.into_listener()?));
        }
        served.await;
        timeout(END, open.closed()).await.ok();
        Ok(())
    }
}
