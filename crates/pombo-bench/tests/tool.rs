//! Promise: `pombo-bench` finds every message that is lost, doubled, out of order or misdelivered, and no other.
//!
//! It runs against a small server which speaks the plain protocol over tokio-tungstenite and misbehaves on purpose.

#[path = "../../../tests/support/sibling.rs"]
mod sibling;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use pombo_bench::{BenchError, Report, ScenarioArgs, Tally, measure};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept};

/// The program that is tested.
const BENCH: &str = env!("CARGO_BIN_EXE_pombo-bench");

/// The server that a user would measure, if it was built.
fn pombo() -> Option<PathBuf> {
    sibling::sibling(BENCH, "pombo")
}

/// Connections that a server takes in its life; no test opens more.
const CLIENTS_MAX: usize = 4096;

/// What the server does with every `EVERY`th message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Behave,
    Drop,
    Double,
    /// Delivers it behind the next message from the same sender.
    Swap,
    /// Delivers it to the sender.
    Misdeliver,
    /// Changes its last byte.
    Damage,
    /// Delivers nothing from here on.
    Stop,
    /// Waits a fifth of a second before it delivers the first.
    Stall,
    /// Closes its sender's connection.
    Close,
    /// Behaves, and adds a ping, and cuts the message into three frames.
    Fragment,
    /// Delivers every broadcast behind the next message from the same sender.
    Overtake,
    /// Never ends a connection.
    Cling,
}

const EVERY: u64 = 10;

/// What goes out to a connection: a message, or the end of it.
type Outbox = std::sync::mpsc::SyncSender<Message>;
type Users = Arc<Mutex<HashMap<String, Outbox>>>;

/// Serves on a port of its own until the test's process ends.
fn server(conduct: Conduct) -> SocketAddr {
    server_of(conduct, Users::default())
}

/// The same, with a map of users that the test looks into.
fn server_of(conduct: Conduct, users: Users) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for stream in listener.incoming().take(CLIENTS_MAX) {
            let users = users.clone();
            let stream = stream.expect("a client");
            stream.set_nodelay(true).expect("a socket option");
            let sending = stream.try_clone().expect("a descriptor");
            let socket = accept(stream).expect("an upgrade");
            thread::spawn(move || serve(socket, sending, conduct, &users));
        }
    });
    address
}

fn serve(mut socket: WebSocket<std::net::TcpStream>, sending: std::net::TcpStream, conduct: Conduct, users: &Users) {
    use tokio_tungstenite::tungstenite::protocol::Role;
    let uid = socket.read().expect("a login").into_text().expect("a uid").to_string();
    let (outbox, due) = std::sync::mpsc::sync_channel::<Message>(100_000);
    thread::spawn(move || {
        let mut sink = WebSocket::from_raw_socket(sending, Role::Server, None);
        while let Ok(message) = due.recv() {
            let last = message.is_close();
            if send(&mut sink, message, conduct).is_err() || last {
                break;
            }
        }
    });
    {
        // Who is welcome can be reached, and nothing comes before the welcome.
        let mut users = users.lock().expect("sound");
        outbox.send(Message::text("welcome")).expect("the writer lives");
        users.insert(uid, outbox.clone());
    }
    let mut held: Option<(String, Message)> = None;
    let mut count = 0;
    while let Ok(message) = socket.read() {
        if message.is_close() && conduct == Conduct::Cling {
            loop {
                thread::park();
            }
        }
        if message.is_close() {
            let _ = outbox.send(message);
            return;
        }
        if !message.is_text() && !message.is_binary() {
            continue;
        }
        let bytes = message.clone().into_data();
        let colon = bytes.iter().position(|byte| *byte == b':').expect("an address");
        let to = String::from_utf8(bytes[..colon].to_vec()).expect("a uid");
        let mut body = bytes[colon + 1..].to_vec();
        count += 1;
        let odd = count % EVERY == 0;
        if odd && conduct == Conduct::Damage {
            *body.last_mut().expect("not empty") ^= 1;
        }
        let body = if message.is_text() {
            Message::text(String::from_utf8(body).expect("text"))
        } else {
            Message::binary(body)
        };
        match conduct {
            Conduct::Drop if odd => continue,
            Conduct::Double if odd => deliver(users, &to, &body),
            Conduct::Swap if odd => {
                held = Some((to, body));
                continue;
            }
            Conduct::Overtake if to == "all" => {
                if let Some((to, body)) = held.replace((to, body)) {
                    deliver(users, &to, &body);
                }
                continue;
            }
            Conduct::Misdeliver if odd => {
                let _ = outbox.send(body);
                continue;
            }
            Conduct::Stall if count == 1 => thread::sleep(Duration::from_millis(200)),
            Conduct::Stop if count >= EVERY => continue,
            Conduct::Close if odd => {
                let _ = outbox.send(Message::Close(Some(CloseFrame { code: 4008.into(), reason: "too slow".into() })));
                return;
            }
            _ => {}
        }
        deliver(users, &to, &body);
        if let Some((to, body)) = held.take() {
            deliver(users, &to, &body);
        }
    }
}

fn deliver(users: &Users, to: &str, body: &Message) {
    let users = users.lock().expect("sound");
    if to == "all" {
        for outbox in users.values() {
            let _ = outbox.send(body.clone());
        }
    } else if let Some(outbox) = users.get(to) {
        let _ = outbox.send(body.clone());
    }
}

/// Sends a message, in three frames around a ping if that is the conduct.
fn send(
    sink: &mut WebSocket<std::net::TcpStream>,
    message: Message,
    conduct: Conduct,
) -> tokio_tungstenite::tungstenite::Result<()> {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    if conduct != Conduct::Fragment || message.is_close() {
        return sink.send(message);
    }
    let data = message.into_data();
    let (first, rest) = data.split_at(data.len() / 2);
    sink.send(Message::Frame(Frame::message(first.to_vec(), OpCode::Data(Data::Text), false)))?;
    sink.send(Message::Ping("are you there".into()))?;
    sink.send(Message::Frame(Frame::message(rest.to_vec(), OpCode::Data(Data::Continue), false)))?;
    sink.send(Message::Frame(Frame::message("", OpCode::Data(Data::Continue), true)))
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: ScenarioArgs,
}

#[track_caller]
fn bench(address: SocketAddr, arguments: &str) -> Result<Report, BenchError> {
    let address = address.to_string();
    let mut words = arguments.split(' ');
    let scenario = words.next().expect("a scenario");
    let words = ["bench", scenario, &address, "--deadline", "60", "--patience", "4"].into_iter().chain(words);
    measure(&Cli::try_parse_from(words).expect("good arguments").bench)
}

/// Compares the books of a run against a server of this conduct, and what the report makes of them.
#[track_caller]
fn check(conduct: Conduct, arguments: &str, expected: Tally) {
    let report = bench(server(conduct), arguments).expect("the run comes to an end");
    assert_eq!(report.tally.as_ref(), Some(&expected), "{report}");
    assert_eq!(report.is_sound(), expected.faults() == 0, "{report}");
    assert_eq!(report.to_string().contains("FAILED"), expected.faults() > 0, "{report}");
}

/// 400 messages among four connections.
const UNICAST: &str = "unicast -c 4 --window 4 --messages 400 --warmup 0 --targets next";

/// 100 broadcasts to four connections.
const BROADCAST: &str = "broadcast -c 4 --window 4 --messages 100 --warmup 0";

fn sent(messages: u64, owed: u64, delivered: u64) -> Tally {
    Tally { sent: messages, owed, delivered, ..Tally::default() }
}

#[test]
fn a_sound_server_passes() {
    for targets in ["pairs", "next", "self", "random"] {
        check(
            Conduct::Behave,
            &format!("unicast -c 4 --window 4 --messages 400 --warmup 0 --targets {targets}"),
            sent(400, 400, 400),
        );
    }
    check(Conduct::Behave, BROADCAST, sent(100, 400, 400));
}

/// A second run logged in under the uids of the first, and ended its connections.
#[test]
fn runs_at_the_same_time_have_uids_of_their_own() {
    let users = Users::default();
    let address = server_of(Conduct::Behave, users.clone());
    let first = thread::spawn(move || bench(address, "unicast -c 4 --rate 400 --seconds 1 --warmup 0"));
    let patience = Instant::now() + Duration::from_secs(30);
    while users.lock().expect("sound").len() < 4 && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
    let second = bench(address, UNICAST).expect("it ends");
    let first = first.join().expect("it does not panic").expect("it ends");
    for report in [&first, &second] {
        assert!(report.is_sound(), "{report}");
        assert!(report.uid_prefix.starts_with("bench-"), "{report}");
        assert!(report.to_string().contains(&format!("{} and a number", report.uid_prefix)), "{report}");
    }
    assert_ne!(first.uid_prefix, second.uid_prefix);
    assert_eq!(users.lock().expect("sound").len(), 8);
    assert_eq!(bench(address, "connect -c 1 --prefix mine").expect("it ends").uid_prefix, "mine");
    assert!(users.lock().expect("sound").contains_key("mine0"));
}

#[test]
fn sizes_and_kinds_pass() {
    for rest in ["--size 24", "--size 119", "--size 130 --binary", "--size 70000 --text", "--size 70000 --binary"] {
        check(Conduct::Behave, &format!("{UNICAST} {rest}"), sent(400, 400, 400));
    }
}

#[test]
fn fragments_and_pings_pass() {
    check(Conduct::Fragment, UNICAST, sent(400, 400, 400));
    check(Conduct::Fragment, BROADCAST, sent(100, 400, 400));
}

#[test]
fn a_warm_up_and_a_time_pass() {
    let report = bench(server(Conduct::Behave), "unicast -c 4 --seconds 0.3 --warmup 0.2").expect("it ends");
    let tally = report.tally.as_ref().expect("messages were sent");
    let messages = report.messages.as_ref().expect("messages were measured");
    assert!(report.is_sound(), "{report}");
    assert_eq!(tally.sent, tally.delivered);
    assert!(messages.delivered > 0 && messages.delivered < tally.delivered, "{report}");
    assert!((0.3..5.0).contains(&messages.seconds), "{report}");
    let over_time = &messages.over_time;
    assert!(!over_time.is_empty() && over_time.iter().any(|sample| sample.per_second > 0.0), "{over_time:?}");
    assert!(messages.latency.p50_us > 0.0 && messages.latency.p50_us <= messages.latency.max_us, "{report}");
}

#[test]
fn a_rate_is_kept_and_checked() {
    let arguments = "unicast -c 4 --rate 2000 --seconds 0.5 --warmup 0.1 --targets next";
    let report = bench(server(Conduct::Behave), arguments).expect("it ends");
    let messages = report.messages.as_ref().expect("messages were measured");
    assert!(report.is_sound(), "{report}");
    // The schedule goes on without us while the machine is busy, and catches up.
    assert!((800..=1200).contains(&messages.delivered), "{report}");
    assert!(messages.late.as_ref().is_some_and(|late| late.p50_us <= messages.latency.p50_us), "{report}");
    assert!(report.to_string().contains("2,000 messages a second"), "{report}");

    let arguments = "unicast -c 1 --rate 1000 --messages 99 --warmup 0 --targets self";
    check(Conduct::Behave, arguments, sent(99, 99, 99));
    check(Conduct::Drop, arguments, Tally { lost: 9, ..sent(99, 99, 90) });
    check(Conduct::Double, arguments, Tally { duplicated: 9, ..sent(99, 99, 99) });
}

#[test]
fn a_stall_shows_in_the_latency_of_a_rate() {
    // Nothing is delivered for the first fifth of the time: in a closed loop that would be one late message.
    let report = bench(server(Conduct::Stall), "unicast -c 1 --rate 500 --seconds 1 --warmup 0 --targets self");
    let report = report.expect("it ends");
    let latency = &report.messages.as_ref().expect("messages were measured").latency;
    assert!(report.is_sound(), "{report}");
    assert!(latency.p90_us > 50_000.0, "{report}");
}

/// 99 messages from one connection to itself, so exactly nine are odd, and another follows each of them.
const ALONE: &str = "unicast -c 1 --window 4 --messages 99 --warmup 0 --targets self";

#[test]
fn lost_messages_are_counted() {
    check(Conduct::Drop, ALONE, Tally { lost: 9, ..sent(99, 99, 90) });
    check(
        Conduct::Drop,
        "broadcast -c 4 --window 4 --messages 99 --warmup 0",
        Tally { lost: 36, ..sent(99, 396, 360) },
    );
}

#[test]
fn doubled_messages_are_counted() {
    check(Conduct::Double, ALONE, Tally { duplicated: 9, ..sent(99, 99, 99) });
    check(
        Conduct::Double,
        "broadcast -c 4 --window 4 --messages 99 --warmup 0",
        Tally { duplicated: 36, ..sent(99, 396, 396) },
    );
}

#[test]
fn swapped_messages_are_counted() {
    check(Conduct::Swap, ALONE, Tally { reordered: 9, ..sent(99, 99, 99) });
    check(
        Conduct::Swap,
        "broadcast -c 4 --window 4 --messages 99 --warmup 0",
        Tally { reordered: 36, ..sent(99, 396, 396) },
    );
}

#[test]
fn misdelivered_messages_are_counted() {
    // Both send; every tenth message of each is misdelivered, wherever the loop ends.
    let report =
        bench(server(Conduct::Misdeliver), "unicast -c 2 --window 4 --messages 200 --warmup 0 --targets pairs")
            .expect("it ends");
    let tally = report.tally.as_ref().expect("messages were sent");
    assert!((19..=20).contains(&tally.misdelivered), "{report}");
    assert_eq!(*tally, Tally { misdelivered: tally.misdelivered, ..sent(200, 200, 200 - tally.misdelivered) });
    assert!(!report.is_sound());
}

#[test]
fn damaged_messages_are_counted() {
    // A damaged message is not the one that was sent: that one is lost as well.
    check(Conduct::Damage, ALONE, Tally { damaged: 9, lost: 9, ..sent(99, 99, 90) });
}

#[test]
fn a_server_that_stops_delivering_fails_the_run() {
    let report = bench(server(Conduct::Stop), ALONE).expect("it ends");
    assert_eq!(report.tally, Some(Tally { lost: 4, ..sent(13, 13, 9) }), "{report}");
    assert_eq!(report.failures[0], "nothing arrived for 4s with 4 messages in flight");
}

#[test]
fn a_connection_that_is_closed_fails_the_run() {
    let report = bench(server(Conduct::Close), &format!("{ALONE} --prefix u")).expect("it ends");
    let tally = report.tally.as_ref().expect("messages were sent");
    assert_eq!((tally.closed, tally.delivered), (1, 9), "{report}");
    assert_eq!(report.failures[0], "the connection of u0 was closed with code 4008, \"too slow\"");
}

#[test]
fn a_fan_out_passes() {
    let arguments = "unicast -c 5 --window 4 --messages 400 --warmup 0 --fan-out 3";
    check(Conduct::Behave, arguments, sent(400, 400, 400));
    let report = bench(server(Conduct::Behave), arguments).expect("it ends");
    assert!(report.to_string().contains("targets next, fan-out 3"), "{report}");
}

/// Unicasts among four connections, and broadcasts from one of them to eight.
const MIXED: &str = "mixed --active 4 --idle 4 --window 4 --broadcasts 100 --seconds 0.6 --warmup 0.1";

/// The same, and three connections that come and go.
const SOAK: &str = "soak --active 4 --idle 4 --visitors 3 --stay 0.1 --window 4 --broadcasts 100 --warmup 0 --json \
                    --seconds 1.2 --every 0.3";

/// Runs a mixed load and a soak against a server of this conduct, and returns their books.
#[track_caller]
fn mixed(conduct: Conduct) -> [(Tally, Report); 2] {
    [MIXED, SOAK].map(|arguments| {
        let arguments = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
        let report = bench(server(conduct), &arguments).expect("it ends");
        let tally = report.tally.expect("messages were sent");
        assert_eq!(report.is_sound(), tally.faults() == 0 && report.failures.is_empty(), "{report}");
        (tally, report)
    })
}

/// Expects faults of this kind and no others but those of `more`.
#[track_caller]
fn check_mixed(conduct: Conduct, kind: fn(&mut Tally) -> &mut u64, more: &[fn(&mut Tally) -> &mut u64]) {
    for (mut tally, report) in mixed(conduct) {
        assert!(*kind(&mut tally) > 0, "{report}");
        assert!(!report.is_sound(), "{report}");
        *kind(&mut tally) = 0;
        for kind in more {
            *kind(&mut tally) = 0;
        }
        assert_eq!(tally.faults(), 0, "{report}");
    }
}

#[test]
fn a_mixed_load_and_a_soak_pass() {
    let [(mixed, mixed_report), mut of_soak] = mixed(Conduct::Behave);
    if of_soak.1.soak.as_ref().is_none_or(|soak| soak.visits <= 3) {
        // Visitors wait for their log-ins; on a busy machine they need more time.
        let longer = SOAK.replace("--seconds 1.2 --every 0.3", "--seconds 24 --every 6");
        let report = bench(server(Conduct::Behave), &longer).expect("it ends");
        of_soak = (report.tally.expect("messages were sent"), report);
    }
    let (soak, soak_report) = of_soak;
    for (tally, report) in [(mixed, &mixed_report), (soak, &soak_report)] {
        assert!(report.is_sound(), "{report}");
        assert_eq!((tally.faults(), tally.owed), (0, tally.delivered), "{report}");
        // A broadcast is owed eight times.
        assert!(tally.owed > tally.sent, "{report}");
        let messages = report.messages.as_ref().expect("messages were measured");
        assert!(messages.latency.p50_us > 0.0, "{report}");
        assert!(messages.broadcasts.as_ref().is_some_and(|latency| latency.p50_us > 0.0), "{report}");
        assert!(messages.to_last_receiver.as_ref().is_some_and(|latency| latency.max_us > 0.0), "{report}");
    }
    assert!(mixed_report.soak.is_none());
    let soak = soak_report.soak.as_ref().expect("a soak");
    assert!(soak.visits > 3, "{soak_report}");
    // The last line may be of the time in which the last deliveries were awaited.
    assert!((2..=5).contains(&soak.lines.len()), "{:?}", soak.lines);
    assert!(soak.lines.is_sorted_by(|one, next| one.at_seconds < next.at_seconds && one.visits <= next.visits));
    assert!(soak.lines.iter().all(|line| line.faults == 0), "{:?}", soak.lines);
    assert!(soak.lines.iter().filter(|line| line.per_second > 0.0).count() >= 2, "{:?}", soak.lines);
}

#[test]
fn a_mixed_load_at_a_rate_passes() {
    let report = bench(server(Conduct::Behave), "mixed --active 4 --idle 4 --rate 1000 --seconds 0.4 --warmup 0");
    let report = report.expect("it ends");
    assert!(report.is_sound() && report.messages.as_ref().is_some_and(|messages| messages.late.is_some()), "{report}");
}

#[test]
fn faults_of_a_mixed_load_are_counted() {
    check_mixed(Conduct::Drop, |tally| &mut tally.lost, &[]);
    check_mixed(Conduct::Double, |tally| &mut tally.duplicated, &[]);
    let others: [fn(&mut Tally) -> &mut u64; 2] = [|tally| &mut tally.lost, |tally| &mut tally.duplicated];
    // The last message that a connection holds back never comes. A visitor compares a broadcast with the latest that it saw
    // only, so a broadcast that comes late counts as one that comes twice.
    check_mixed(Conduct::Swap, |tally| &mut tally.reordered, &others);
    // A visitor's broadcast that its sender gets in its place is one that it gets twice.
    check_mixed(Conduct::Misdeliver, |tally| &mut tally.misdelivered, &others);
    check_mixed(Conduct::Damage, |tally| &mut tally.damaged, &[|tally| &mut tally.lost]);
    check_mixed(Conduct::Close, |tally| &mut tally.closed, &[|tally| &mut tally.lost]);
}

#[test]
fn order_between_unicasts_and_broadcasts_is_checked() {
    // Each kind for itself is in order.
    check_mixed(Conduct::Overtake, |tally| &mut tally.reordered, &[|tally| &mut tally.lost]);
}

#[test]
fn a_server_that_does_not_let_go_fails_a_soak() {
    let arguments = SOAK.split_whitespace().collect::<Vec<_>>().join(" ");
    let report = bench(server(Conduct::Cling), &arguments).expect("it ends");
    assert_eq!(report.failures, ["connections that left were not closed, or could not log in again, for 4s"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_soak_of_a_real_server_is_sound() {
    let Some(pombo) = pombo() else { return };
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let address = port.to_string();
    let mut server = Command::new(pombo)
        .args(["--control", "off", "--listen", &address, "--shards", "2"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let patience = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(port).is_err() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("soak.html");
    let output = Command::new(BENCH)
        .args(["soak", &address, "--pid", &server.id().to_string()])
        .args(["--active", "8", "--idle", "40", "--visitors", "8", "--stay", "0.2", "--broadcasts", "50"])
        .args(["--seconds", "2", "--every", "0.3", "--warmup", "0.2", "--report"])
        .arg(&page)
        .output()
        .expect("it starts");
    server.kill().and_then(|()| server.wait()).expect("it is ours");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = said.lines().filter(|line| line.contains(" deliveries/s ")).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|line| line.contains(" 0 faults ")), "{said}");
    assert!(lines.iter().all(|line| line.contains(" KiB private ") && line.contains(" descriptors")), "{said}");
    assert!(said.contains("private memory's growth"), "{said}");
    let page = fs::read_to_string(page).expect("a page");
    // Latency twice, throughput, CPU, memory, descriptors.
    assert_eq!(page.matches("class=\"plot\"").count(), 6);
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_inside_tells_same_shard_and_cross_shard_apart() {
    let none = "127.0.0.1:1".parse().expect("an address");
    let cost = |placement: &str| {
        let words = ["bench", "unicast", "--in-process", "4", "--placement", placement, "-c", "16", "-w", "4"];
        let words = words.into_iter().chain(["--messages", "4000", "--warmup", "0"]);
        let report = measure(&Cli::try_parse_from(words).expect("good arguments").bench).expect("it ends");
        assert!(report.is_sound(), "{report}");
        assert_eq!(report.tally.map(|tally| tally.delivered), Some(4000), "{report}");
        assert!(report.server_cost.as_ref().is_some_and(|cost| cost.cpu_per_delivery.is_some()), "{report}");
        report.to_string()
    };
    assert!(cost("same").contains("4 shards in this process, pairs on the same shard"));
    assert!(cost("cross").contains("4 shards in this process, pairs across shards"));
    let words = ["bench", "unicast", "127.0.0.1:1", "--in-process", "4"];
    assert!(Cli::try_parse_from(words).is_err(), "one server or the other");
    assert!(
        bench(none, "unicast --targets next --fan-out 2").is_err_and(|error| error.to_string().contains("connect"))
    );
}

#[test]
#[cfg(target_os = "linux")]
fn deliveries_per_send_tell_servers_that_coalesce() {
    // On the wire of the whole machine: others' traffic can only make it less.
    let report = bench(server(Conduct::Behave), "unicast -c 2 --window 1 --seconds 0.3 --warmup 0").expect("it ends");
    let per_segment = report.messages.as_ref().and_then(|messages| messages.delivered_per_segment);
    assert!(per_segment.is_some_and(|count| count > 0.0 && count < 1.2), "one at a time: {report}");
}

#[test]
fn logins_are_counted() {
    let report = bench(server(Conduct::Behave), "connect -c 20 --connecting 3 --hold 0.1").expect("it ends");
    assert!(report.is_sound(), "{report}");
    assert!(report.tally.is_none() && report.messages.is_none());
    assert!(report.logins.per_second > 0.0 && report.logins.latency.max_us > 0.0);
}

#[test]
fn a_process_is_measured() {
    // The server runs in this very process.
    let pid = std::process::id();
    // So many that their CPU time is many ticks of the kernel's clock, 10 ms each.
    let arguments = format!("unicast -c 4 --window 4 --messages 20000 --warmup 0 --pid {pid}");
    let report = bench(server(Conduct::Behave), &arguments).expect("it ends");
    let cost = report.server_cost.as_ref().expect("the process is known");
    let cpu = cost.cpu_per_delivery.expect("messages were delivered");
    assert!(cpu.total_us > 0.0, "{report}");
    if let Some((user, system)) = cpu.user_us.zip(cpu.system_us) {
        assert!((user + system - cpu.total_us).abs() < 1e-6, "{report}");
    }
    assert!(cost.private_bytes_before > 0 && cost.private_bytes_idle > 0, "{report}");
    assert!(report.logins.server_cpu_us.is_some());
    // Four connections are too few to tell what one takes.
    assert!(cost.private_bytes_per_connection.is_none(), "{report}");
    assert!(!report.to_string().contains("bytes a connection"), "{report}");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_told_per_connection_of_a_thousand() {
    // The server of this test has two threads for each connection, too many of which to wait for on a busy machine.
    let words =
        ["bench", "unicast", "--in-process", "1", "-c", "1000", "-w", "1", "--messages", "1000", "--warmup", "0"];
    let words = words.into_iter().chain(["--patience", "30"]);
    let report = measure(&Cli::try_parse_from(words).expect("good arguments").bench).expect("it ends");
    let cost = report.server_cost.as_ref().expect("the process is known");
    assert!(cost.private_bytes_per_connection.is_some_and(f64::is_finite), "{report}");
    assert!(cost.kernel_slab_bytes_per_connection.is_some_and(f64::is_finite), "{report}");
    assert!(cost.kernel_tcp_bytes_per_connection.is_some_and(f64::is_finite), "{report}");
    assert!(report.to_string().contains("bytes a connection"), "{report}");
}

#[test]
fn json_and_table_say_the_same() {
    let report = bench(server(Conduct::Double), ALONE).expect("it ends");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("one JSON object");
    assert_eq!(json["scenario"], "unicast");
    assert_eq!(json["parameters"]["targets"], "self");
    assert_eq!(json["parameters"]["size"], 64);
    assert_eq!(json["tally"]["duplicated"], 9);
    assert_eq!(json["failures"].as_array().map(Vec::len), Some(1));
    let table = report.to_string();
    assert!(table.contains("9 duplicated") && table.contains("targets self"), "{table}");
}

/// A server that accepts, answers with `answer`, and then says nothing more.
fn mute(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
            held.push(stream);
        }
    });
    address
}

#[test]
fn servers_that_do_not_let_in_are_reported() {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let error = bench(gone, "connect -c 3").expect_err("nobody listens");
    assert_eq!(error.to_string(), format!("cannot connect to {gone}: connection refused"));

    let refusing = mute("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let error = bench(refusing, "connect -c 1 --prefix u").expect_err("refused");
    let expected = "cannot log in as u0: the connection was refused the upgrade: HTTP/1.1 503 Service Unavailable";
    assert_eq!(error.to_string(), expected);

    let silent = mute("");
    let error = bench(silent, "connect -c 2").expect_err("no answer");
    let expected = format!("no answer from {silent} for 4s: 0 of 2 connections are logged in");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_deadline_ends_the_run() {
    let address = server(Conduct::Behave);
    let words = ["bench", "connect", &address.to_string(), "-c", "1", "--hold", "30", "--deadline", "0.3"];
    let error = measure(&Cli::try_parse_from(words).expect("good arguments").bench).expect_err("too long");
    assert_eq!(error.to_string(), "the run is not over after 300ms");
}

#[track_caller]
fn check_exit(arguments: &[&str], code: i32, stderr: &str) {
    let output = Command::new(BENCH).args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(stderr), "{said}");
}

#[test]
fn exit_codes() {
    let sound = server(Conduct::Behave).to_string();
    check_exit(&["unicast", &sound, "-c", "2", "--messages", "50", "--warmup", "0", "--json"], 0, "");
    // Progress is for terminals.
    let arguments = ["unicast", &sound, "-c", "2", "--messages", "50", "--warmup", "0"];
    let output = Command::new(BENCH).args(arguments).output().expect("it starts");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let doubling = server(Conduct::Double).to_string();
    check_exit(&["unicast", &doubling, "-c", "2", "--messages", "50", "--warmup", "0"], 1, "");
    check_exit(&["unicast", "--size", "23"], 2, "23 is not in 24..=16777216");
    check_exit(&["unicast", "--rate", "5", "-w", "3"], 2, "cannot be used with");
    check_exit(&["connect", "nowhere"], 2, "server is \"nowhere\", ");
    check_exit(
        &["connect", "http://127.0.0.1:1"],
        2,
        "expected HOST:PORT, ws://HOST:PORT/PATH or wss://HOST:PORT/PATH",
    );
    check_exit(&["connect", "127.0.0.1:99999"], 2, "expected HOST:PORT, ws://HOST:PORT/PATH");
    check_exit(
        &["connect", "no-such-host.invalid:1234"],
        2,
        "server is \"no-such-host.invalid:1234\", whose host has no",
    );
    check_exit(&["connect", "wss://127.0.0.1:1", "--ca", "Cargo.toml"], 2, "--ca Cargo.toml holds no certificate");
    check_exit(&["connect", "--prefix", "a:b"], 2, "without a colon");
    check_exit(&["connect", "--pid", "4294967295"], 2, "cannot read /proc/4294967295/stat");
    check_exit(&["connect", "--hold", "-1"], 2, "");
    check_exit(&["unicast", "--targets", "random", "--fan-out", "2"], 2, "--fan-out goes with --targets next only");
    check_exit(&["unicast", "-c", "4", "--fan-out", "4"], 2, "less than the 4 connections");
    check_exit(&["unicast", "--placement", "same"], 2, "--in-process <SHARDS>");
    check_exit(&["unicast", "--in-process", "1", "--placement", "cross"], 2, "at least two shards");
    check_exit(&["unicast", "--in-process", "2", "--placement", "same", "--targets", "next"], 2, "--targets pairs");
    check_exit(&["mixed", "--idle", "9000000", "--active", "9000000"], 2, "expected less than 16777215");
    check_exit(&["soak", "--every", "0"], 2, "at least 0.1 seconds");
    check_exit(&["soak", "--seconds", "86400", "--every", "1"], 2, "that makes 86400 lines, expected at most 10000");
    check_exit(&["soak", "--stay", "0"], 2, "--stay is 0ns");
    let page = ["--messages", "9", "--warmup", "0", "--report", "no/such/folder/page.html"];
    check_exit(
        &[&["unicast", &sound, "-c", "2"], &page[..]].concat(),
        2,
        "cannot write the report to \"no/such/folder",
    );
}

#[test]
fn a_failed_run_leaves_no_page_and_keeps_the_one_before() {
    let refusing = mute("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 17\r\n\r\nthe node is full\n").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let [new, old] = ["new.html", "old.html"].map(|name| folder.path().join(name));
    fs::write(&old, "of a run before").expect("the folder is writable");
    for page in [&new, &old] {
        let page = page.to_str().expect("a path in UTF-8");
        let why = "refused the upgrade: HTTP/1.1 503 Service Unavailable: the node is full";
        check_exit(&["connect", &refusing, "-c", "1", "--report", page], 1, why);
    }
    assert!(!new.exists(), "a file without a page");
    assert_eq!(fs::read_to_string(old).expect("it is there"), "of a run before");
}

#[test]
#[cfg(target_os = "linux")]
fn a_soak_says_why_it_knows_no_growth() {
    #[track_caller]
    fn check(more: &[&str], why: &str) {
        let server = server(Conduct::Behave).to_string();
        let load = ["soak", &server, "--active", "2", "--idle", "2", "--visitors", "1", "--stay", "0.1"];
        let time = ["--seconds", "0.3", "--every", "0.2", "--warmup", "0"];
        let output = Command::new(BENCH).args([&load[..], &time, more].concat()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("not known: {why}")), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    check(&[], "it needs --pid");
    // Any process without children that end meanwhile.
    let mut process = Command::new("sleep").arg("300").spawn().expect("it starts");
    check(&["--pid", &process.id().to_string()], "the run was too short to tell");
    process.kill().and_then(|()| process.wait()).expect("it is ours");
}

/// Starts `pombo-bench compare`.
fn compare(arguments: &[&str]) -> Command {
    let mut command = Command::new(BENCH);
    command.args(["compare", "--json", "--seconds", "0.2", "--warmup", "0.1"]).args(arguments);
    command
}

/// A command line that notes the process that it becomes.
fn noting(pombo: &Path, pids: &Path) -> String {
    let (pombo, pids) = (pombo.display(), pids.display());
    format!("echo $$ >> '{pids}'; exec '{pombo}' serve --control off --listen 127.0.0.1:{{port}} 2> /dev/null")
}

/// The processes noted, each of which must have ended.
#[track_caller]
fn ended(pids: &Path) -> usize {
    let noted = fs::read_to_string(pids).expect("servers were started");
    for pid in noted.lines() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "still there: {stat}");
    }
    noted.lines().count()
}

#[test]
#[cfg(target_os = "linux")]
fn servers_are_compared_and_ended() {
    let Some(pombo) = pombo() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let (first, second) = (format!("one={}", noting(&pombo, &pids)), format!("two={}", noting(&pombo, &pids)));
    let output = compare(&["--server", &first, "--server", &second, "--baseline", "two", "--rounds", "3"])
        .args(["--scenario", "unicast -c 4 -w 2 against one", "--scenario", "connect -c 10"])
        .args(["--scenario", "broadcast -c 4 --messages 50"])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&found["rounds"], &found["baseline"]), (&3.into(), &"two".into()));
    let rows = found["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let columns = row["columns"].as_array().expect("columns");
        assert_eq!(columns.len(), 2);
        for column in columns {
            assert_eq!(column["failures"].as_array().map(Vec::len), Some(0), "{column}");
            assert_eq!(column["rounds"].as_array().map(Vec::len), Some(3), "{column}");
            assert!(column["median"]["per_second"].as_f64() > Some(0.0), "{column}");
        }
        let (compared, reference) = if row["baseline"] == "one" { (1, 0) } else { (0, 1) };
        assert_eq!(row["baseline"] == "one", row["scenario"] == "unicast -c 4 -w 2", "{row}");
        let verdict = &columns[compared]["verdict"];
        assert!(verdict["per_second"]["median"].as_f64() > Some(0.0), "{row}");
        assert!(columns[reference]["verdict"].is_null(), "{row}");
        assert!(verdict["bytes_per_connection"].is_null(), "so few connections do not tell: {row}");
        assert_eq!(columns[0]["median"]["per_segment"].is_null(), row["scenario"] == "connect -c 10", "{row}");
    }
    // Each once for the traffic, and once a round for the logins.
    assert_eq!(ended(&pids), 8);
}

#[test]
#[cfg(target_os = "linux")]
fn a_comparison_that_is_ended_ends_its_servers() {
    use rustix::process::{Pid, Signal, kill_process};
    let Some(pombo) = pombo() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let line = format!("one={}", noting(&pombo, &pids));
    let mut child = compare(&["--server", &line, "--scenario", "connect -c 1 --hold 60"]).spawn().expect("it starts");
    let patience = Instant::now() + Duration::from_secs(30);
    while fs::read_to_string(&pids).unwrap_or_default().is_empty() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(128 + 15));
    assert_eq!(ended(&pids), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn comparisons_that_cannot_be_made_say_why() {
    #[track_caller]
    fn check(arguments: &[&str], stderr: &str) {
        let output = compare(arguments).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(stderr), "{said}");
    }
    check(&[], "--server <NAME=COMMAND>");
    check(&["--server", "x=y"], "expected {port} in the command");
    check(&["--server", "x=exit 3 {port}"], "cannot start x: it ended with exit status: 3");
    let silent = ["--server", "x=sleep 30 # {port}", "--start-patience", "0.2"];
    check(&silent, "cannot start x: it accepts no connection on 127.0.0.1:");
    check(&["--server", "x=a {port}", "--server", "x=b {port}"], "two servers have the name \"x\"");
    check(&["--server", "x=a {port}", "--baseline", "y"], "--baseline is \"y\", expected one of x");
    check(&["--server", "x=a {port}", "--server-cores", "1-0"], "such as 0 or 0-3,8");
    check(&["--server", "x=a {port}", "--server-cores", "1023"], "cannot run on core 1023");
    check(&["--server", "x=a {port}", "--scenario", "unicast -q"], "--scenario is \"unicast -q\": unexpected argument");
    check(&["--server", "x=a {port}", "--scenario", "compare"], "--scenario is \"compare\": ");
    check(&["--server", "x=a {port}", "--scenario", "soak"], "for one server at a time");
    check(&["--server", "x=a {port}", "--scenario", "connect against y"], "against is \"y\", expected one of x");
}
