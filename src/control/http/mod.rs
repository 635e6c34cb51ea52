//! The HTTP API under `/v1`: pushes, queries, actions. Beside it metrics, health, and the console, a page that uses the API.
//!
//! Every connection is a task on the control thread, with one request at a time. A request that acts waits for the shards until
//! a deadline; then its answer names the parts whose outcome is unknown. Nothing here blocks. Probes have slots of their own,
//! so they are answered while other connections hold all ordinary slots.

mod access;
mod batch;
mod body;
mod console;
mod docs;
mod health;
mod history;
mod idempotency;
mod metrics;
mod openapi;
mod outcome;
mod parameters;
mod push;
mod reply;
mod request;
mod settings;
mod slot;
mod spans;
mod stats;
mod uids;

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_io_timeout::TimeoutWriter;
use tracing::debug;

use self::access::Peer;
use self::idempotency::Answers;
use super::Control;
use super::accept::{Duplex, accept};
use super::problem::{Failure, Problem};
use super::slots::{Paced, Slot, Slots};
use crate::config::ControlSettings;
use crate::dispatcher::Dispatcher;
use crate::linger::linger;
use crate::listener::Listener;

/// Most bytes of a request's head; a longer one is answered with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Time and bytes for which input is discarded after the last answer. Closing with unread input would reset the connection,
/// and the answer could be lost.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Slots that are kept for probes; docs/operations.md names the number.
const PROBE_SLOTS: usize = 16;

/// How long a connection without a request stays open after a drain has begun.
const SILENT_PEER_GRACE: Duration = Duration::from_millis(100);

/// The state that every request's handler gets.
#[derive(Clone)]
struct Api {
    control: Control,
    answers: Arc<Answers>,
}

impl Api {
    /// Returns the current settings.
    fn settings(&self) -> Arc<ControlSettings> {
        Arc::clone(&self.control.settings.borrow())
    }

    /// Returns a dispatcher whose answers come within `control_answer_timeout`.
    fn dispatcher(&self) -> Dispatcher {
        self.control.dispatcher_in_time()
    }

    /// Returns the longest JSON of a message: base64 takes 4 bytes for 3, and text may have escapes.
    fn line_bytes_max(&self) -> usize {
        self.control.settings.borrow().push_bytes_max.saturating_mul(2).saturating_add(4096)
    }
}

/// Serves connections on `listener` until the sender of `ending` is dropped; then accepts no more.
pub(super) async fn serve(control: Control, listener: Listener, ending: watch::Receiver<()>) {
    let api = Api { control: control.clone(), answers: Arc::default() };
    let service = TowerToHyperService::new(routes(api));
    let slots = Slots::new(control.settings.borrow().connections_max, PROBE_SLOTS, control.occupants.clone());
    let (tls, open, reserve) = (control.tls.clone(), control.open.clone(), control.reserve.clone());
    accept(listener, tls, slots, reserve, &open, ending, move |stream, peer, slot| {
        let (service, control) = (service.clone(), control.clone());
        async move {
            let head_time = control.settings.borrow().body_timeout;
            let stream: Duplex = Box::pin(Paced::new(stream, slot.clone(), head_time));
            let service = service_fn(move |request| Box::pin(answer(request, service.clone(), peer, slot.clone())));
            serve_connection(stream, service, &control).await;
        }
    })
    .await;
}

/// Answers one request, and notes in its connection's slot when it waits for the client.
async fn answer(
    mut request: hyper::Request<Incoming>,
    service: TowerToHyperService<Router>,
    peer: Option<SocketAddr>,
    slot: Slot,
) -> Result<Response, Infallible> {
    slot.begins_request();
    request.extensions_mut().insert(Peer(peer));
    request.extensions_mut().insert(slot.clone());
    let span = spans::request(&request);
    let request = request.map(|body| slot::TrackedRequestBody::new(body, slot.clone()));
    let response = spans::answer(span, service.call(request)).await?;
    Ok(response.map(|body| Body::new(slot::TrackedResponseBody::new(body, slot))))
}

/// Answers the requests of one connection, one after the other.
async fn serve_connection<S>(stream: Duplex, service: S, control: &Control)
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    let idle_timeout = control.settings.borrow().idle_timeout;
    let mut stream = TimeoutWriter::new(stream);
    // Beside the kernel's TCP_USER_TIMEOUT, which covers neither Unix sockets nor other systems than Linux.
    stream.set_timeout(Some(idle_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client may end its sending behind a request and still wait for the answer. A client that is gone is noticed when
        // the body is read or the answer is written, and both have a time-out.
        .half_close(true)
        .header_read_timeout(idle_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let served = tokio::select! {
        served = poll_fn(|context| connection.poll_without_shutdown(context)) => served,
        () = drain_begun(control.draining.clone()) => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    match served {
        Ok(()) => {
            let mut stream = connection.into_parts().io.into_inner();
            // The connection is closed either way.
            timeout(LINGER_TIME, linger(&mut stream, LINGER_BYTES_MAX)).await.ok();
        }
        Err(error) => debug!(error = %error, "control connection lost"),
    }
}

/// Waits until a drain begins, and [`SILENT_PEER_GRACE`] longer: a request may be on its way, and closing would lose it.
///
/// Never returns for a connection that was accepted during the drain: the answer to its first request closes it.
async fn drain_begun(mut draining: watch::Receiver<Option<Instant>>) {
    let has_begun = draining.borrow().is_some();
    if has_begun || draining.wait_for(Option::is_some).await.is_err() {
        pending::<()>().await;
    }
    sleep(SILENT_PEER_GRACE).await;
}

fn routes(api: Api) -> Router {
    Router::new()
        .route("/", get(console::to_page))
        .route(console::PATH, get(console::page))
        .route("/docs/{page}", get(docs::page))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/push", post(push::list))
        .route("/v1/push/{uid}", post(push::one))
        .route("/v1/broadcast", post(push::broadcast))
        .route("/v1/batch", post(batch::batch))
        .route("/v1/uids", get(uids::page))
        .route("/v1/uids/{uid}", get(uids::sessions).delete(uids::close))
        .route("/v1/counts", get(uids::counts))
        .route("/v1/stats", get(stats::stats))
        .route("/v1/history", get(history::history))
        .route("/v1/settings", get(settings::settings))
        .route("/v1/openapi.json", get(openapi::description))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(slot::acquire))
        .layer(middleware::from_fn_with_state(api.clone(), access::admit))
        // Outside of the access layer: probes need no token.
        .route("/healthz", get(health::live).fallback(method_not_allowed))
        .route("/readyz", get(health::ready).fallback(method_not_allowed))
        .layer(middleware::from_fn_with_state(api.clone(), request::check))
        .with_state(api)
}

async fn not_found() -> Failure {
    Problem::NotFound.with_detail(format!(
        "expected one of these: {}; who is online is at /v1/uids, and /v1/openapi.json describes all; a uid can't be empty",
        *openapi::PATHS
    ))
}

async fn method_not_allowed() -> Failure {
    Problem::MethodNotAllowed.with_detail("the header Allow lists the methods of this path")
}
