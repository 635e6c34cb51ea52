//! A node whose sessions get back what they send, for suites that test WebSocket servers: nobody logs in.
//!
//! `cargo run --release --example echo [ADDRESS]`, by default on 127.0.0.1:9001. All else is a node as it always is:
//! what comes back went through the gateway's handshake, the shard's reader, an outbox and the flush.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::num::NonZeroUsize;
use std::time::Duration;

use pombo::protocol::Protocol;
use pombo::{Config, Server};

/// Longest message taken: what the suites send is not longer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let server = Server::bind(Config {
        listen: vec![address.parse()?],
        control: None,
        shards: NonZeroUsize::new(2).ok_or("two is not zero")?,
        protocol: Protocol::Echo,
        message_bytes_max: MESSAGE_BYTES_MAX,
        outbox_bytes_max: 2 * MESSAGE_BYTES_MAX,
        // The suites count frames, and take their time.
        heartbeat_interval: Duration::from_secs(3600),
        ..Config::default()
    })?;
    println!("listening on {}", server.addresses()[0]);
    let node = server.start()?;
    tokio::signal::ctrl_c().await?;
    node.drain().await;
    Ok(())
}
