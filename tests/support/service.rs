//! A service that authenticates, as the operator of a node would write one: it is asked over HTTP, and answers as told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// What the service answers to a question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// This status with this body.
    Status(u16, String),
    /// This as JSON if it is the connection's first question; else as [`Reply::HangUp`].
    Once(Value),
    /// Nothing: the connection is closed.
    HangUp,
    /// Nothing: the connection is held open.
    Silence,
    /// The connection is closed in the middle of the answer.
    Cut,
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self::Status(200, value.to_string())
    }
}

/// A running service; it ends with the test's process.
pub(crate) struct Service {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    questions: Mutex<Vec<Value>>,
    asking: AtomicUsize,
    asking_most: AtomicUsize,
}

impl Service {
    /// Starts one that answers as `answer` says, which may block.
    pub(crate) fn start(answer: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_over(None, answer)
    }

    /// Starts one that is asked over TLS, and shows the certificate of `config`.
    pub(crate) fn start_tls(
        config: Arc<ServerConfig>,
        answer: impl Fn(&Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_over(Some(config), answer)
    }

    fn start_over(tls: Option<Arc<ServerConfig>>, answer: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let (answer, state) = (Arc::new(answer), Arc::clone(&shared));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, state) = (Arc::clone(&answer), Arc::clone(&state));
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    None => serve(stream, &state, &*answer),
                    Some(config) => {
                        let connection = ServerConnection::new(config).expect("the config makes connections");
                        serve(StreamOwned::new(connection, stream), &state, &*answer);
                    }
                });
            }
        });
        Self { address, scheme, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/who", self.scheme, self.address)
    }

    /// What it was asked, in order.
    pub(crate) fn questions(&self) -> Vec<Value> {
        self.shared.questions.lock().expect("no holder panics").clone()
    }

    /// How many questions it had at a time, at most.
    pub(crate) fn asking_most(&self) -> usize {
        self.shared.asking_most.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one connection, until either side has enough.
fn serve(mut stream: impl Read + Write, shared: &Shared, answer: &dyn Fn(&Value) -> Reply) {
    let mut received = Vec::new();
    let mut answered = 0;
    while let Some(question) = next_question(&mut stream, &mut received) {
        shared.questions.lock().expect("no holder panics").push(question.clone());
        let asking = shared.asking.fetch_add(1, Ordering::SeqCst) + 1;
        shared.asking_most.fetch_max(asking, Ordering::SeqCst);
        let reply = answer(&question);
        shared.asking.fetch_sub(1, Ordering::SeqCst);
        let reply = match reply {
            Reply::Once(value) if answered == 0 => Reply::json(&value),
            Reply::Once(_) => Reply::HangUp,
            reply => reply,
        };
        answered += 1;
        let sent = match reply {
            Reply::Status(status, body) => {
                let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
            }
            Reply::Once(_) | Reply::HangUp => return,
            Reply::Silence => loop {
                thread::sleep(Duration::from_secs(3600));
            },
            Reply::Cut => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").ok();
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads a request with a body of JSON; `None` at the connection's end.
fn next_question(stream: &mut impl Read, received: &mut Vec<u8>) -> Option<Value> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            assert!(head.starts_with("post /who http/1.1\r\n"), "{head}");
            assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
            if received.len() >= end + 4 + length {
                let body = received.drain(..end + 4 + length).skip(end + 4).collect::<Vec<_>>();
                return Some(serde_json::from_slice(&body).expect("the question is JSON"));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => received.extend(&buffer[..length]),
        }
    }
}
