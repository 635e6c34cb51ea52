//! Every fixed bug's test, named for it, with a line on what went wrong.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pombo::message::{Delivery, Kind};
use pombo::protocol::Protocol;
use pombo::protocol::plain::NO_COLON;
use rustix::process::{Pid, Signal, kill_process};
use support::{Client, Frame, Node, SECRET, Sent, Signer, eventually, nodes};

/// Enough that what they send at once is more than a turn may take in.
const FLOODERS: usize = 24;

/// Connections of one shard that send as fast as they can, to nobody, until dropped.
struct Flood {
    is_over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn begin(node: &Node, shard: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let nobody = node.uid_on(shard, "n");
        let frames = Sent::text(format!("{nobody}:")).bytes().repeat(32 << 10);
        let flood = |index| {
            let mut client = node.log_in(&node.uid_on(shard, &format!("flooder{index}-")));
            let (is_over, frames) = (Arc::clone(&is_over), frames.clone());
            // Relaxed: a flag, nothing else is ordered by it.
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) && client.try_send_bytes(&frames).is_ok() {})
        };
        let threads = (0..FLOODERS).map(flood).collect();
        Self { is_over, threads }
    }
}

/// A process that ends with its test, however that ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it ends");
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Relaxed, as in `begin`.
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a flooder does not panic");
        }
    }
}

/// What a shard's own connections brought was taken first, up to the turn's whole budget: as long as they
/// flooded, no mail and no request was taken, and SIGTERM was not heard of.
#[test]
fn a_flood_from_a_shard_s_own_connections_starved_its_mail_and_requests() {
    nodes().each(|node| {
        let alice = &node.uid_on(1, "alice");
        let mut alice = node.log_in(alice);
        let bob_uid = &node.uid_on(0, "bob");
        let mut bob = node.log_in(bob_uid);
        let flood = Flood::begin(node, 0);
        for _ in 0..5 {
            alice.send_text(format!("{bob_uid}:hi"));
            bob.expect_text("hi");
            assert_eq!(node.push(bob_uid, Kind::Text, "pushed"), Delivery::Delivered { sessions: 1 });
            bob.expect_text("pushed");
        }
        node.drain();
        drop(flood);
    });
}

/// The drain waited for every connection under way, whatever `drain_timeout` said: one that sent nothing held
/// it up for the whole `handshake_timeout`.
#[test]
fn a_connection_that_said_nothing_held_up_the_drain() {
    let change = |config: &mut pombo::Config| {
        config.drain_timeout = Duration::from_secs(30);
        config.handshake_timeout = Duration::from_secs(3600);
        config.close_timeout = Duration::from_secs(3600);
    };
    nodes().with(change).each(|node| {
        let mut silent = node.dial().named("silent");
        eventually("it is accepted", || node.handle().connections() == 1);
        let began = Instant::now();
        let drained = thread::scope(|scope| {
            let drained = scope.spawn(|| node.drain());
            silent.expect_end();
            drop(silent);
            drained.join()
        });
        drained.expect("the drain ends");
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    });
}

/// As above, for one that stopped in the middle of its request, which is let finish it within `drain_timeout`.
#[test]
fn a_request_never_finished_held_up_the_drain() {
    let change = |config: &mut pombo::Config| {
        config.drain_timeout = Duration::from_millis(100);
        config.handshake_timeout = Duration::from_secs(3600);
    };
    nodes().with(change).each(|node| {
        let mut slow = node.dial();
        slow.send_bytes(b"GET / HTTP/1.1\r\nHost:");
        eventually("it is accepted", || node.handle().connections() == 1);
        node.drain();
    });
}

/// The gateway took the end of all handles for a drain: it stopped accepting.
#[test]
fn a_node_stopped_accepting_when_its_last_handle_was_dropped() {
    let config =
        pombo::Config { control: None, listen: vec!["127.0.0.1:0".parse().expect("an address")], ..Default::default() };
    let server = pombo::Server::bind(config).expect("a free port");
    let address = server.addresses()[0].clone();
    drop(server.start().expect("a node"));
    for _ in 0..10 {
        Client::dial(&address).upgraded().log_in("alice");
    }
}

/// A message's time ran on from the message before, if that had no colon or was a ping and every read ended
/// inside a frame: a busy client was closed for a message not finished in time.
#[test]
fn the_time_of_a_message_ran_on_from_the_one_before() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    nodes().with(|config| config.message_timeout = TIMEOUT).each(|node| {
        let error = Protocol::Plain.error(NO_COLON.0).expect("clients are told");
        let error = Frame::text(&*error);
        for (sent, answer) in [(Sent::text("no colon"), error), (Sent::ping("there?"), Frame::pong("there?"))] {
            let mut client = node.log_in("alice");
            let frame = sent.bytes();
            let (head, rest) = frame.split_at(frame.len() / 2);
            let cut_anew = [rest, head].concat();
            client.send_bytes(head);
            let began = Instant::now();
            while began.elapsed() < TIMEOUT * 2 {
                client.send_bytes(&cut_anew);
                client.expect(&answer);
            }
        }
    });
}

/// After a pause of the whole process longer than two heartbeats, every session was closed for its silence,
/// without having been asked.
#[test]
fn a_pause_of_the_process_closed_every_session() {
    let interval = Duration::from_secs(1);
    let spawned = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["--control", "off", "--listen", "127.0.0.1:0", "--heartbeat-interval", "1s", "--log-level", "off"])
        .stdout(Stdio::piped())
        .spawn();
    let mut node = Killed(spawned.expect("the program runs"));
    let mut line = String::new();
    BufReader::new(node.0.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says where it listens");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    let mut client = Client::dial(&address.parse().expect("an address")).upgraded();
    client.log_in("alice");

    let process = Pid::from_child(&node.0);
    kill_process(process, Signal::STOP).expect("it runs");
    // This is the pause, nothing is waited for.
    thread::sleep(interval * 3);
    kill_process(process, Signal::CONT).expect("it is there");
    client.expect(&Frame::ping(""));
    client.send(&Sent::pong(""));
    client.send_text("alice:still here");
    client.expect_text("still here");
}

/// The count by address began with the upgrade: one address with connections that said nothing took every place for
/// the whole `handshake_timeout`, and nobody else got in.
#[test]
fn one_address_with_silent_connections_kept_everybody_out() {
    let change = |config: &mut pombo::Config| {
        config.handshakes_max = 8;
        config.address_sessions_max = NonZeroUsize::new(2);
        config.handshake_timeout = Duration::from_secs(3600);
    };
    nodes().with(change).each(|node| {
        let silent: Vec<_> = (0..16).map(|_| Client::dial_from("127.0.0.2", node.socket_address())).collect();
        Client::dial_from("127.0.0.3", node.socket_address()).upgraded().log_in("alice");
        drop(silent);
        eventually("every place is given back", || node.handle().connections() == 0);
        Client::dial_from("127.0.0.2", node.socket_address()).upgraded().log_in("bob");
    });
}

/// The end of the node waited for whatever read its files: on a disk that didn't answer (here a pipe that nobody writes
/// to) SIGTERM was in vain.
#[test]
fn a_file_that_could_not_be_read_to_its_end_held_up_the_end_of_the_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, pipe) = (folder.path().join("keys"), folder.path().join("pipe"));
    fs::write(&file, Signer::ed25519().pem()).expect("it is written");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("there is such a program");
    assert!(made.success());
    let change = |config: &mut pombo::Config| {
        (config.auth, config.jwt_key_files) = (pombo::config::Auth::Jwt, vec![file.clone()]);
    };
    let node = nodes().with(change).start(1);
    fs::rename(&pipe, &file).expect("it is replaced");
    let opened = thread::spawn({
        // Opening it to write waits until somebody has opened it to read.
        let file = file.clone();
        move || fs::OpenOptions::new().write(true).open(file).expect("it is opened")
    });
    let _held_open = opened.join().expect("it doesn't panic");
    let began = Instant::now();
    node.drain();
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
}

/// Settings with another `auth` were taken in part: the method stayed, but its address or its keys went. Who logged in
/// then met a panic, or no key.
#[test]
fn a_reload_to_another_method_took_the_old_one_s_address_and_keys_away() {
    let http = |config: &mut pombo::Config| {
        config.auth = pombo::config::Auth::Http;
        config.auth_url = Some("http://127.0.0.1:9/".parse().expect("an address"));
    };
    let jwt = |config: &mut pombo::Config| {
        config.auth = pombo::config::Auth::Jwt;
        config.jwt_secret = Some(pombo::config::Secret::new(SECRET));
    };
    let node = nodes().with(http).start(1);
    node.reload(|config| {
        let mut new = pombo::Config { auth_url: None, ..config.clone() };
        jwt(&mut new);
        *config = config.reload(&new).expect("it is valid").0;
    });
    let mut client = node.connect();
    client.send_text("credential");
    client.expect_error("authentication is not available");
    client.expect_close(1013, "");

    let node = nodes().with(jwt).start(1);
    node.reload(|config| {
        let new = pombo::Config { jwt_secret: None, auth: pombo::config::Auth::None, ..config.clone() };
        *config = config.reload(&new).expect("it is valid").0;
    });
    // The keys are read again within a second.
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let mut client = node.connect().named("alice");
        client.send_text(Signer::secret().token_for("alice"));
        client.expect_login_reply();
    }
}

/// The cache of the last recipient was not forgotten on the path by which the rest of a long message is received, and the
/// receiver's key had been given to the next who logged in: that user got the message.
#[test]
fn a_long_message_to_a_user_who_left_amid_it_reached_the_next_who_logged_in() {
    let node = nodes().start(1);
    for _ in 0..20 {
        let [mut alice, mut bob, mut eve] = ["alice", "bob", "eve"].map(|uid| node.log_in(uid));
        let frame = Sent::text(format!("bob:{}", "x".repeat(300_000))).bytes();
        let (begun, rest) = frame.split_at(20_000);
        alice.send_bytes(begun);
        eve.send_text("bob:x");
        bob.expect_text("x");
        bob.vanish();
        eventually("bob is gone", || node.push("bob", Kind::Text, "?") == Delivery::Offline);
        let mut carol = node.log_in("carol");
        alice.send_bytes(rest);
        // Whoever gets the message has it in front of this one.
        alice.send_text("carol:end");
        carol.expect_text("end");
    }
}
