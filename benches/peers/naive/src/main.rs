//! The server that most people would write first: tokio and tokio-tungstenite with default settings, two tasks and a
//! channel per connection, one shared map from uid to channel. It speaks the plain protocol and is here to be measured.
//!
//! `cargo run --release -- 1234`

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;

type Users = Arc<Mutex<HashMap<String, UnboundedSender<Message>>>>;
type AnyError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let port = std::env::args().nth(1).unwrap_or_else(|| "1234".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("naive: 127.0.0.1:{port}");
    let users = Users::default();
    loop {
        let (stream, _) = listener.accept().await?;
        let users = users.clone();
        tokio::spawn(async move {
            let _ = serve(stream, users).await;
        });
    }
}

async fn serve(stream: TcpStream, users: Users) -> Result<(), AnyError> {
    stream.set_nodelay(true)?;
    let (mut sink, mut source) = tokio_tungstenite::accept_async(stream).await?.split();
    let Some(first) = source.next().await else { return Ok(()) };
    let uid = first?.into_text()?.to_string();
    let (outbox, mut due) = unbounded_channel::<Message>();
    outbox.send(Message::text(format!("Login realizado com sucesso, seu uid é {uid}")))?;
    users.lock().expect("no panic holds the lock").insert(uid.clone(), outbox.clone());
    tokio::spawn(async move {
        while let Some(message) = due.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });
    while let Some(Ok(message)) = source.next().await {
        let payload = match &message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            _ => continue,
        };
        let Some(colon) = payload.iter().position(|&byte| byte == b':') else { continue };
        let body = payload[colon + 1..].to_vec();
        let reply = match &message {
            Message::Text(_) => Message::text(String::from_utf8(body)?),
            _ => Message::binary(body),
        };
        let users = users.lock().expect("no panic holds the lock");
        if &payload[..colon] == b"all" {
            for user in users.values() {
                let _ = user.send(reply.clone());
            }
        } else if let Some(user) = std::str::from_utf8(&payload[..colon]).ok().and_then(|uid| users.get(uid)) {
            let _ = user.send(reply);
        }
    }
    let mut users = users.lock().expect("no panic holds the lock");
    if users.get(&uid).is_some_and(|user| user.same_channel(&outbox)) {
        users.remove(&uid);
    }
    Ok(())
}
