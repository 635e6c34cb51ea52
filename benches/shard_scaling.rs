//! The cost of a delivered message in a shard, and how it changes with the number of shards.
//!
//! Real shards on threads of their own, real turns, mailboxes, doorbells and wakes; only the sockets are
//! memory (`support/memory.rs`). The figure is **thread CPU time per delivered message**, summed over the
//! shard threads: it doesn't depend on how many cores there are, so more shards than cores still show
//! whether a shard's work grows with the number of its peers. Wall-clock rates are printed only for as
//! many shards as there are cores; more of them would measure the scheduler.
//!
//! Timed: polling (one `epoll_wait` per turn, a real sleep and one eventfd write per wake, with the kernel's
//! part of both), decoding, routing, the mail, outboxes and the log, the flush up to the call of the socket, the
//! sweep. Not timed: the kernel's TCP, which in production is 75 to 95 % of the CPU per message; logging in;
//! and the thread that drives this. Timed though it isn't the shard's: the stand-in itself, which copies a
//! burst where `recv` would, and counts. The last table says what that comes to with an empty loop around it.
//!
//! Loads. *Busy*: 64 clients a shard, each with two bursts of 16 messages under way, a burst per read.
//! *Single*: two clients a shard and one message at a time each way, so nothing can be shared: every message
//! across has a batch, and mostly a wake, of its own. *Unicast same*: a client's partner is on its own shard;
//! *cross*: on the next. *Broadcast spread*: 64 clients on each shard, one of which sends; *one shard*: all
//! clients on the first, so that the others only learn that they have nobody.
//!
//! Every message is accounted for: what the clients sent, what the shards counted, and what arrived must
//! agree, nothing may be shed, and a message that reaches the wrong client or gets stuck fails the run.
//!
//! `cargo bench --bench shard_scaling`; with `-- --test` (or `--quick`) each row takes a few milliseconds. The table is
//! printed, and written with a plot as a page below `target`, whose path is printed, too.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

#[path = "support/memory.rs"]
mod memory;

use std::hint::black_box;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use pombo::config::{Config, SessionSettings};
use pombo::mailbox::{self, Mailbox, ShardWaker};
use pombo::metrics::Stats;
use pombo::protocol::Protocol;
use pombo::rights::Rights;
use pombo::router::shard_of;
use pombo::shard::io::{Network, Socket};
use pombo::shard::{Admission, Handover, LoginNumbers, Parts, Poller, Request, SessionKey, Shard, Turn};
use pombo::uid::{BROADCAST, Uid, UidHasher};
use pombo_plots::{Axis, Line, Page, quantity};
use rustix::time::{ClockId, clock_gettime};

use self::memory::{MemoryNetwork, Script, Tag, burst, tag};

/// Time within which every message sent must have arrived, and every question must be answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pattern of senders and receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    UnicastSame,
    UnicastCross,
    BroadcastOneShard,
    BroadcastSpread,
}

/// How much is under way.
#[derive(Clone, Copy, Debug)]
struct Load {
    name: &'static str,
    /// Clients on each shard that has any; even.
    clients: usize,
    /// Messages in a read.
    burst: u64,
}

const BUSY: Load = Load { name: "busy", clients: 64, burst: 16 };
const SINGLE: Load = Load { name: "single", clients: 2, burst: 1 };

/// How long a row warms up and is measured.
#[derive(Clone, Copy, Debug)]
struct Pace {
    warm_up: Duration,
    measure: Duration,
}

/// Where a run is.
const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const DONE: u8 = 2;

/// The state that the driver and the shard threads share.
struct Course {
    /// Where the run is; written by the driver, looked at by each shard thread before every turn.
    phase: AtomicU8,
    /// Shard threads whose clients send no more.
    stopped: AtomicUsize,
    /// Where all wait until the clients are logged in.
    ready: Barrier,
}

/// A client that is to be made: its uid, and what it does.
struct Client {
    uid: Uid,
    to: String,
    burst: u64,
    burst_after: u64,
    /// What every message for it starts with.
    tag: Tag,
}

/// What a shard thread has used and done so far.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    cpu: Duration,
    arrived: u64,
    wakes: u64,
    stats: Stats,
}

/// What a shard thread hands back.
struct Outcome {
    begin: Reading,
    end: Reading,
    /// Over the whole run.
    sent: u64,
    arrived: u64,
}

/// One line of the table.
struct Row {
    load: Load,
    path: Path,
    shards: usize,
    cpu: Duration,
    wall: Duration,
    arrived: u64,
    wakes: u64,
    stats: Stats,
}

/// Sends requests to one shard thread.
struct Door {
    requests: flume::Sender<Request>,
    waker: ShardWaker,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    // `cargo bench` passes `--bench`; `cargo test --benches` doesn't.
    let is_quick = has("--test") || has("--quick") || !has("--bench");
    let millis = if is_quick { [5, 20] } else { [300, 1000] }.map(Duration::from_millis);
    let pace = Pace { warm_up: millis[0], measure: millis[1] };
    let cores = num_cpus::get();

    println!("{cores} cores; {} byte payloads; CPU of all shard threads per delivered message", memory::PAYLOAD_BYTES);
    println!();
    println!(
        "{:<8} {:<20} {:>6} {:>12} {:>14} {:>14} {:>13} {:>12}",
        "load", "path", "shards", "CPU ns/msg", "wakes/1000 msg", "letters/batch", "msgs/send", "msgs/s"
    );
    let mut rows = Vec::new();
    for (load, path) in [
        (BUSY, Path::UnicastSame),
        (BUSY, Path::UnicastCross),
        (SINGLE, Path::UnicastSame),
        (SINGLE, Path::UnicastCross),
        (BUSY, Path::BroadcastOneShard),
        (BUSY, Path::BroadcastSpread),
    ] {
        for shards in [1, 2, 4, 8] {
            if shards > 1 || path != Path::UnicastCross {
                let row = run(load, path, shards, pace);
                println!("{}", row.line(cores));
                rows.push(row);
            }
        }
    }
    println!();
    for load in [BUSY, SINGLE] {
        println!("of which the stand-in alone, {:<6} {:>6.1} ns/msg", load.name, stand_in_alone(load, pace));
    }
    let title = if is_quick { "Shard scaling: a quick look, not a measurement" } else { "Shard scaling" };
    println!();
    println!("plotted in {}", save(title, cores, &rows).display());
}

/// Writes the rows as a page, and returns where.
fn save(title: &str, cores: usize, rows: &[Row]) -> PathBuf {
    let mut names: Vec<String> = rows.iter().map(Row::name).collect();
    names.dedup();
    let lines: Vec<_> = names
        .iter()
        .map(|name| {
            let points = rows.iter().filter(|row| row.name() == *name).map(|row| (row.shards as f64, row.nanos()));
            Line { name, points: points.collect() }
        })
        .collect();
    let mut page = Page::new(title);
    page.text(&format!(
        "CPU time of all shard threads per delivered message, on {cores} cores, without the kernel's TCP."
    ));
    let shards = Axis { name: "shards", marks: Some(&[1.0, 2.0, 4.0, 8.0]), text: &quantity };
    let nanos = Axis { name: "CPU per message", marks: None, text: &|nanos| format!("{} ns", quantity(nanos)) };
    page.lines_of_all_sizes("Cost of a message as shards are added", &lines, &shards, &nanos);
    let head = ["load", "shards", "CPU ns/msg", "wakes/1000 msg", "letters/batch", "msgs/send"];
    page.figures(&head, rows.iter().map(Row::cells));
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("shard_scaling.html");
    page.save(&path).expect("the target directory can be written to");
    path
}

/// Runs one row; panics when a message is unaccounted for.
fn run(load: Load, path: Path, shards: usize, pace: Pace) -> Row {
    let hasher = UidHasher::fixed(7);
    let (phase, stopped) = (AtomicU8::new(WARM_UP), AtomicUsize::new(0));
    let course = Arc::new(Course { phase, stopped, ready: Barrier::new(shards + 1) });
    let pollers: Vec<_> = (0..shards).map(|_| Poller::new().expect("there are descriptors left")).collect();
    let wakes: Vec<Arc<AtomicU64>> = (0..shards).map(|_| Arc::default()).collect();
    let wakers: Vec<_> = pollers
        .iter()
        .zip(&wakes)
        .map(|((_, wake), wakes)| {
            let (wake, wakes) = (Arc::clone(wake), Arc::clone(wakes));
            ShardWaker::new(Arc::new(move || {
                // Relaxed: a count.
                wakes.fetch_add(1, Ordering::Relaxed);
                wake()
            }))
        })
        .collect();
    let mailboxes = mailbox::wire(&wakers, Config::default().mailbox_bytes_max);
    let mut plans = plan(load, path, shards, &hasher).into_iter();
    let sessions: usize = plans.as_slice().iter().map(Vec::len).sum();
    let (mut doors, mut threads) = (Vec::new(), Vec::new());
    for (index, (((poller, _), mailbox), waker)) in pollers.into_iter().zip(mailboxes).zip(wakers).enumerate() {
        let (sender, requests) = flume::bounded(16);
        doors.push(Door { requests: sender, waker });
        let clients = plans.next().expect("there is a plan for each shard");
        let (hasher, course, wakes) = (hasher.clone(), Arc::clone(&course), Arc::clone(&wakes[index]));
        threads.push(thread::spawn(move || {
            let network = MemoryNetwork::new(poller);
            drive(network, Seat { index, hasher, mailbox, requests, clients }, &course, &wakes)
        }));
    }

    course.ready.wait();
    thread::sleep(pace.warm_up);
    course.phase.store(MEASURE, Ordering::Release);
    let start = Instant::now();
    ask(&doors);
    thread::sleep(pace.measure);
    course.phase.store(DONE, Ordering::Release);
    let wall = start.elapsed();
    settle(&doors, path, &course);
    for door in &doors {
        door.requests.send(Request::Drain { time_out: Duration::from_millis(20) }).expect("the shard runs");
        door.waker.wake();
    }
    let outcomes: Vec<_> =
        threads.into_iter().map(|thread| thread.join().expect("a shard thread does not panic")).collect();
    account(path, sessions, &outcomes);

    let mut row = Row { load, path, shards, wall, cpu: Duration::ZERO, arrived: 0, wakes: 0, stats: Stats::default() };
    for Outcome { begin, end, .. } in &outcomes {
        row.cpu += end.cpu - begin.cpu;
        row.arrived += end.arrived - begin.arrived;
        row.wakes += end.wakes - begin.wakes;
        row.stats.mail_letters += end.stats.mail_letters - begin.stats.mail_letters;
        row.stats.mail_batches += end.stats.mail_batches - begin.stats.mail_batches;
        row.stats.sends += end.stats.sends - begin.stats.sends;
    }
    row
}

/// Decides which clients each shard has.
fn plan(load: Load, path: Path, shards: usize, hasher: &UidHasher) -> Vec<Vec<Client>> {
    let mut numbers = 0_u32..;
    let mut uid_on = |shard: usize| {
        numbers
            .by_ref()
            .map(|number| Uid::new(format!("user-{number}").as_bytes(), 256, hasher).expect("this is a uid"))
            .find(|uid| shard_of(uid.hash(), shards) == shard)
            .expect("every shard owns some uid")
    };
    let uids: Vec<Vec<Uid>> = (0..shards).map(|shard| (0..load.clients).map(|_| uid_on(shard)).collect()).collect();
    let mut plans: Vec<Vec<Client>> = (0..shards).map(|_| Vec::new()).collect();
    for (shard, own) in uids.iter().enumerate() {
        let half = load.clients / 2;
        for (index, uid) in own.iter().enumerate() {
            let to = match path {
                Path::UnicastSame => own[(index + half) % load.clients].as_str(),
                // The first half writes to the next shard's second half, which answers.
                Path::UnicastCross if index < half => uids[(shard + 1) % shards][index + half].as_str(),
                Path::UnicastCross => uids[(shard + shards - 1) % shards][index - half].as_str(),
                Path::BroadcastOneShard | Path::BroadcastSpread => BROADCAST,
            };
            let (burst, burst_after) = match path {
                Path::UnicastSame | Path::UnicastCross => (load.burst, load.burst),
                Path::BroadcastOneShard | Path::BroadcastSpread if index > 0 => (0, 0),
                Path::BroadcastOneShard => (load.burst, load.burst),
                // Each sender waits for everybody's burst: so all go round by round.
                Path::BroadcastSpread => (load.burst, load.burst * shards as u64),
            };
            let tag = tag(if to == BROADCAST { to } else { uid.as_str() });
            if path != Path::BroadcastOneShard || shard == 0 {
                plans[shard].push(Client { uid: uid.clone(), to: to.to_owned(), burst, burst_after, tag });
            }
        }
    }
    plans
}

/// What one shard thread is given.
struct Seat {
    index: usize,
    hasher: UidHasher,
    mailbox: Mailbox,
    requests: flume::Receiver<Request>,
    clients: Vec<Client>,
}

/// The body of a shard thread: logs its clients in, turns until drained.
fn drive(network: MemoryNetwork, seat: Seat, course: &Course, wakes: &AtomicU64) -> Outcome {
    let Seat { index, hasher, mailbox, requests, clients } = seat;
    let shared = network.shared();
    let count = clients.len();
    let (sender, handovers) = flume::bounded(count);
    let (admission, logins) = (Admission::default(), LoginNumbers::default());
    for client in clients {
        let script = Script {
            burst: burst(&client.to, client.burst),
            burst_messages: client.burst,
            burst_after: client.burst_after,
            tag: client.tag,
        };
        let permit = admission.admit(usize::MAX).expect("there is no bound");
        let (socket, login) = (network.client(script), logins.draw());
        sender
            .send(Handover {
                socket,
                unread: Vec::new(),
                uid: client.uid,
                protocol: Protocol::Plain,
                rights: Rights::ALL,
                expires: None,
                login,
                peer: None,
                permit,
            })
            .expect("there is room for all");
    }
    drop(sender);
    let settings = Arc::new(settings());
    let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence: None };
    let mut shard = Shard::new(network, parts);
    let mut readings = [Reading::default(); 3];
    let mut seen = WARM_UP;
    // Nobody writes to somebody who isn't there yet.
    while shard.stats().logins < count as u64 {
        assert_eq!(shard.turn(), Turn::Done);
    }
    course.ready.wait();
    shared.start();
    loop {
        let now = course.phase.load(Ordering::Acquire);
        if now != seen {
            seen = now;
            let (arrived, stats) = (shared.arrived.get(), shard.stats());
            let wakes = wakes.load(Ordering::Relaxed);
            readings[usize::from(now)] = Reading { cpu: thread_cpu(), arrived, wakes, stats };
            if now == DONE {
                shared.stop();
                course.stopped.fetch_add(1, Ordering::AcqRel);
            }
        }
        if shard.turn() == Turn::Last {
            break;
        }
    }
    let [_, begin, end] = readings;
    Outcome { begin, end, sent: shared.sent.get(), arrived: shared.arrived.get() }
}

fn settings() -> SessionSettings {
    // The shortest answer; and no heartbeat within a run.
    let heartbeat_interval = Duration::from_secs(3600);
    SessionSettings { login_reply: String::new(), heartbeat_interval, ..Config::default().session() }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// Reads the counts of every shard; panics when one doesn't answer.
fn ask(doors: &[Door]) -> Stats {
    let mut sum = Stats::default();
    for door in doors {
        let (answer, answered) = flume::bounded(1);
        door.requests.send(Request::Stats { answer }).expect("the shard runs");
        door.waker.wake();
        sum.add(&answered.recv_timeout(PATIENCE).expect("a shard answers in time"));
    }
    sum
}

/// Waits until nothing is under way any more; panics when messages are stuck.
fn settle(doors: &[Door], path: Path, course: &Course) {
    let deadline = Instant::now() + PATIENCE;
    // Asking wakes those that sleep. From here on nothing new is sent, so equal counts mean that all came through.
    while course.stopped.load(Ordering::Acquire) < doors.len() {
        ask(doors);
        assert!(Instant::now() < deadline, "{path:?}: a shard does not turn");
    }
    loop {
        let stats = ask(doors);
        let shed = stats.offline + stats.shed_newest + stats.shed_oldest + stats.shed_closed + stats.shed_shard_gone;
        assert_eq!(shed, 0, "{path:?}: {stats:?}");
        let (is, ought) = match path {
            Path::UnicastSame | Path::UnicastCross => (stats.delivered, stats.frames_in),
            Path::BroadcastOneShard | Path::BroadcastSpread => (stats.broadcasts, stats.frames_in * doors.len() as u64),
        };
        if is == ought {
            return;
        }
        assert!(Instant::now() < deadline, "{path:?}: messages are stuck, {is} of {ought} came through");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Compares what the clients sent with what arrived.
fn account(path: Path, sessions: usize, outcomes: &[Outcome]) {
    let sent: u64 = outcomes.iter().map(|outcome| outcome.sent).sum();
    let arrived: u64 = outcomes.iter().map(|outcome| outcome.arrived).sum();
    let due = match path {
        Path::UnicastSame | Path::UnicastCross => sent,
        Path::BroadcastOneShard | Path::BroadcastSpread => sent * sessions as u64,
    };
    assert_eq!(arrived, due, "{path:?}: messages that arrived, and that were due");
    assert!(sent > 0, "{path:?}: nothing was sent");
}

/// Measures the stand-in's own work and the empty turn around it, per message.
fn stand_in_alone(load: Load, pace: Pace) -> f64 {
    let (poller, _wake) = Poller::new().expect("there are descriptors left");
    let mut network = MemoryNetwork::new(poller);
    let tag = tag("user-0");
    let script =
        Script { burst: burst("user-0", load.burst), burst_messages: load.burst, burst_after: load.burst, tag };
    let mut sockets: Vec<_> = (0..load.clients).map(|_| network.client(script.clone())).collect();
    let reply = [0x81, 0];
    let mut delivered = vec![0x81, memory::PAYLOAD_BYTES as u8];
    delivered.extend_from_slice(&tag);
    delivered.resize(2 + memory::PAYLOAD_BYTES, b'.');
    let delivered = delivered.repeat(load.burst as usize);
    for (index, socket) in sockets.iter_mut().enumerate() {
        network.add(socket, SessionKey::new(index as u32, 0)).expect("this can't fail");
        socket.send(&[IoSlice::new(&reply)]).expect("this can't fail");
    }
    let (mut scratch, mut ready) = (vec![0; 64 << 10], Vec::new());
    let (shared, start, cpu) = (network.shared(), Instant::now(), thread_cpu());
    shared.start();
    while start.elapsed() < pace.measure {
        network.poll(None, &mut ready).expect("the poller works");
        for readiness in ready.drain(..) {
            let socket = &mut sockets[readiness.session.slot() as usize];
            black_box(socket.receive(&mut scratch)).expect("it is ready");
            black_box(socket.send(&[IoSlice::new(&delivered)])).expect("it takes everything");
        }
    }
    (thread_cpu() - cpu).as_nanos() as f64 / shared.arrived.get() as f64
}

impl Row {
    fn path(&self) -> &'static str {
        match self.path {
            Path::UnicastSame => "unicast same",
            Path::UnicastCross => "unicast cross",
            Path::BroadcastOneShard => "broadcast one shard",
            Path::BroadcastSpread => "broadcast spread",
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.load.name, self.path())
    }

    /// CPU nanoseconds per message.
    fn nanos(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.arrived as f64
    }

    fn wakes_per_thousand(&self) -> f64 {
        1000.0 * self.wakes as f64 / self.arrived as f64
    }

    fn letters_per_batch(&self) -> String {
        match self.stats.mail_batches {
            0 => "–".to_owned(),
            batches => format!("{:.1}", self.stats.mail_letters as f64 / batches as f64),
        }
    }

    fn messages_per_send(&self) -> f64 {
        self.arrived as f64 / self.stats.sends as f64
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name(),
            self.shards.to_string(),
            format!("{:.1}", self.nanos()),
            format!("{:.2}", self.wakes_per_thousand()),
            self.letters_per_batch(),
            format!("{:.1}", self.messages_per_send()),
        ]
    }

    fn line(&self, cores: usize) -> String {
        let rate = if self.shards > cores {
            "–".to_owned()
        } else {
            format!("{:.0}", self.arrived as f64 / self.wall.as_secs_f64())
        };
        format!(
            "{:<8} {:<20} {:>6} {:>12.1} {:>14.2} {:>14} {:>13.1} {rate:>12}",
            self.load.name,
            self.path(),
            self.shards,
            self.nanos(),
            self.wakes_per_thousand(),
            self.letters_per_batch(),
            self.messages_per_send(),
        )
    }
}
