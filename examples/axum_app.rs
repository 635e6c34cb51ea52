//! An axum application with a node inside: its own routes push to users, without another process or a network between.
//!
//! `cargo run --example axum_app`, then `pombo connect 127.0.0.1:1234 alice`, and
//! `curl -d 'order 7 is ready' http://127.0.0.1:3000/users/alice/notices`.
//!
//! The addresses may be given: `cargo run --example axum_app -- 127.0.0.1:3000 127.0.0.1:1234`. SIGINT drains the node.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use pombo::message::{Delivery, Kind};
use pombo::{Config, Handle, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let web = arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:1234".to_owned()).parse()?;

    // Only this program pushes, so the node needs no control listener.
    let server = Server::bind(Config { listen: vec![listen], control: None, ..Config::default() })?;
    let websockets = server.addresses()[0].to_string();
    let node = server.start()?;

    let app = Router::new()
        .route("/", get(|| async { "an application\n" }))
        .route("/users/{uid}/notices", post(notice))
        .with_state(node.clone());
    let listener = tokio::net::TcpListener::bind(web).await?;
    println!("application on http://{}, websockets on ws://{websockets}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(interrupted()).await?;
    node.drain().await;
    Ok(())
}

/// Pushes the body to a user, and says what became of it. A real application would ask who is calling.
async fn notice(State(node): State<Handle>, Path(uid): Path<String>, message: String) -> (StatusCode, String) {
    match node.push(&uid, Kind::Text, message).await {
        Delivery::Delivered { sessions } => (StatusCode::OK, format!("taken by {sessions}\n")),
        // Nothing is kept for the offline: an application would store it, and show it at the next visit.
        Delivery::Offline => (StatusCode::ACCEPTED, format!("{uid} is offline\n")),
        other => (StatusCode::SERVICE_UNAVAILABLE, format!("not taken: {other:?}\n")),
    }
}

async fn interrupted() {
    // Without signals there is nothing to wait for but the process's end.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
