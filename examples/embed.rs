//! A node inside of another program: it binds any free port, and a push from Rust reaches a client.
//!
//! `cargo run --example embed`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use futures_util::{SinkExt, StreamExt};
use pombo::message::Kind;
use pombo::{Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], control: None, ..Config::default() })?;
    let url = format!("ws://{}/", server.addresses()[0]);
    let node = server.start()?;

    let (mut alice, _) = tokio_tungstenite::connect_async(url).await?;
    alice.send("alice".into()).await?;
    println!("{}", alice.next().await.ok_or("the node closed")??);

    println!("{:?}", node.push("alice", Kind::Text, "hi from Rust").await);
    println!("{}", alice.next().await.ok_or("the node closed")??);
    println!("{:?}", node.push("bob", Kind::Text, "hi").await);

    drop(alice);
    node.drain().await;
    Ok(())
}
