//! The HTTP API, under `/v1`.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tracing::debug;

use super::Control;
use super::accept::accept;
use crate::dispatcher::Push;
use crate::listener::Listener;
use crate::message::{Delivery, Kind};

/// Most connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1024;

/// Time that a request's head may take.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Answers on `listener` until the future is dropped.
pub(super) async fn serve(control: Control, listener: Listener) {
    let routes = routes(&control);
    accept(listener, control.tls, CONNECTIONS_MAX, move |stream, _peer| {
        let service = TowerToHyperService::new(routes.clone());
        async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(error = %error, "control connection lost");
            }
        }
    })
    .await;
}

fn routes(control: &Control) -> Router {
    Router::new().route("/v1/push/{uid}", post(push)).with_state(control.clone())
}

async fn push(State(control): State<Control>, Path(uid): Path<String>, body: Bytes) -> (StatusCode, String) {
    if uid.len() > control.settings.borrow().uid_bytes_max {
        return (StatusCode::OK, "{\"offline\":true}\n".to_owned());
    }
    let push = Push { uid: uid.into(), kind: Kind::Text, payload: body };
    match control.dispatcher.push(push).await {
        Ok(Delivery::Delivered { sessions }) => (StatusCode::OK, format!("{{\"sessions\":{sessions}}}\n")),
        Ok(Delivery::Offline) => (StatusCode::OK, "{\"offline\":true}\n".to_owned()),
        Ok(Delivery::Shed(reason)) => (StatusCode::OK, format!("{{\"shed\":\"{}\"}}\n", reason.name())),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}
