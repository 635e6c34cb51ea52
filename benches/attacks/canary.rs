//! Well-behaved users who notice when something is wrong: they number what they send, and count what comes.
//!
//! ```text
//!   pairs        each writes to the other at a rate
//!   the first    also to everybody, at a tenth of it
//! ```
//! They are written on tokio and tungstenite, so nothing of theirs is ours. What others send to everybody is read and
//! not counted. Latency is from when a message was due by its schedule: a node that stalls can't hide it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use pombo::Listen;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Users, two of whom are a pair.
const USERS: usize = 16;

/// Time between two messages of a user, and how many come to one broadcast.
const INTERVAL: Duration = Duration::from_millis(20);
const BROADCAST_EVERY: u64 = 10;

/// How long what is under way at the end is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the canaries have found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// Deliveries that were due: one for a message to a user, one for each user for a broadcast.
    pub(crate) due: u64,
    /// Of these, those that never came.
    pub(crate) lost: u64,
    /// Deliveries that came twice, or behind a younger one.
    pub(crate) doubled: u64,
    /// How connections ended that should not have.
    pub(crate) ended: Vec<String>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Findings {
    /// Whether nobody has noticed anything but time.
    pub(crate) fn is_well(&self) -> bool {
        self.due > 0 && self.lost == 0 && self.doubled == 0 && self.ended.is_empty()
    }
}

/// What has been sent and has come, by all of them.
struct Books {
    start: Instant,
    /// Messages to its partner, by sender; and broadcasts.
    sent: [u64; USERS],
    broadcasts: u64,
    /// By receiver, what must come next: of its partner, and of the broadcasts.
    next: [[u64; 2]; USERS],
    findings: Findings,
    latency: Histogram<u64>,
    is_over: bool,
}

impl Books {
    /// Enters what has come, if it is a canary's: `canary kind number microseconds`.
    fn enter(&mut self, receiver: usize, text: &str) {
        let mut words = text.split(' ');
        let kind = match (words.next(), words.next()) {
            (Some("canary"), Some("pair")) => 0,
            (Some("canary"), Some("all")) => 1,
            _ => return,
        };
        let mut numbers = words.map_while(|word| word.parse::<u64>().ok());
        let (Some(number), Some(due)) = (numbers.next(), numbers.next()) else { return };
        let next = &mut self.next[receiver][kind];
        if number < *next {
            self.findings.doubled += 1;
            return;
        }
        self.findings.lost += number - *next;
        *next = number + 1;
        let now = self.start.elapsed().as_micros() as u64;
        self.latency.saturating_record(now.saturating_sub(due));
    }

    /// Deliveries due that are not here.
    fn missing(&self) -> u64 {
        let missing = |receiver: usize| {
            let [pair, all] = self.next[receiver];
            self.sent[receiver ^ 1].saturating_sub(pair) + self.broadcasts.saturating_sub(all)
        };
        (0..USERS).map(missing).sum()
    }

    fn close(&mut self) -> Findings {
        let mut findings = self.findings.clone();
        findings.due = self.sent.iter().sum::<u64>() + self.broadcasts * USERS as u64;
        findings.lost += self.missing();
        let milliseconds = |micros: u64| micros as f64 / 1000.0;
        findings.p50_ms = milliseconds(self.latency.value_at_quantile(0.5));
        findings.p99_ms = milliseconds(self.latency.value_at_quantile(0.99));
        findings.max_ms = milliseconds(self.latency.max());
        findings
    }
}

type Shared = Rc<RefCell<Books>>;

/// Logs the canaries in, says that they are there, and lets them write to each other until `stop`.
pub(crate) fn run(listen: &Listen, is_there: impl FnOnce(), stop: impl Future<Output = ()>) -> Findings {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let books = Rc::new(RefCell::new(Books {
            start: Instant::now(),
            sent: [0; USERS],
            broadcasts: 0,
            next: [[0; 2]; USERS],
            findings: Findings::default(),
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).expect("sound bounds"),
            is_over: false,
        }));
        let (go, wait) = watch::channel(false);
        for user in 0..USERS {
            match listen {
                Listen::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.expect("the node takes canaries");
                    stream.set_nodelay(true).expect("a socket can be changed");
                    user_over(stream, user, &books, wait.clone()).await;
                }
                Listen::Abstract(name) => panic!("canaries come by TCP or by a path, not by {name}"),
                Listen::Unix(path) => {
                    let stream = UnixStream::connect(path).await.expect("the node takes canaries");
                    user_over(stream, user, &books, wait.clone()).await;
                }
            }
        }
        is_there();
        books.borrow_mut().start = Instant::now();
        go.send_replace(true);
        stop.await;
        books.borrow_mut().is_over = true;
        let late = Instant::now() + PATIENCE;
        while books.borrow().missing() > 0 && Instant::now() < late {
            sleep(Duration::from_millis(5)).await;
        }
        // What nobody sent would come about now.
        sleep(Duration::from_millis(50)).await;
        books.borrow_mut().close()
    })
}

/// Logs a user in, and leaves it to two tasks.
async fn user_over<S>(stream: S, user: usize, books: &Shared, go: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut socket, _) = client_async("ws://localhost/", stream).await.expect("the node upgrades canaries");
    let uid = |user: usize| format!("canary-{}-{user}", std::process::id());
    socket.send(Message::text(uid(user))).await.expect("a login is taken");
    let reply = timeout(PATIENCE, socket.next()).await.expect("a login is answered in time");
    assert!(matches!(reply, Some(Ok(Message::Text(_)))), "a login is answered, got {reply:?}");
    let (sink, mut stream) = socket.split();
    spawn_local(write(sink, user, uid(user ^ 1), Rc::clone(books), go));
    let books = Rc::clone(books);
    spawn_local(async move {
        loop {
            let end = match stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    books.borrow_mut().enter(user, &text);
                    continue;
                }
                Some(Ok(Message::Close(frame))) => format!("{frame:?}"),
                Some(Ok(_)) => continue,
                Some(Err(error)) => error.to_string(),
                None => return,
            };
            books.borrow_mut().findings.ended.push(end);
        }
    });
}

async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    user: usize,
    partner: String,
    books: Shared,
    mut go: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if go.wait_for(|go| *go).await.is_err() {
        return;
    }
    // Not all in one moment.
    sleep(INTERVAL / USERS as u32 * user as u32).await;
    let mut ticks = interval(INTERVAL);
    for number in 0.. {
        let due = ticks.tick().await;
        let (due, broadcast) = {
            let mut books = books.borrow_mut();
            if books.is_over {
                break;
            }
            books.sent[user] += 1;
            let broadcast = (user == 0 && number % BROADCAST_EVERY == 0).then_some(books.broadcasts);
            books.broadcasts += u64::from(broadcast.is_some());
            (due.saturating_duration_since(books.start).as_micros(), broadcast)
        };
        let text = Message::text(format!("{partner}:canary pair {number} {due}"));
        if sink.send(text).await.is_err() {
            return;
        }
        if let Some(number) = broadcast
            && sink.send(Message::text(format!("all:canary all {number} {due}"))).await.is_err()
        {
            return;
        }
    }
    // Keeps its half: a connection that ends would be noted.
    std::future::pending::<()>().await;
}
