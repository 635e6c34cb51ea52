//! A service is told who comes online and who goes: signed, in order, again until it has it, and told what is lost.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use pombo::config::DuplicateLogin;
use pombo::{Config, Server};
use serde_json::{Value, json};
use support::{Ask, HangingFile, Node, Nodes, eventually, interpreter, nodes, run};
use tempfile::tempdir;

const SECRET: &str = "the secret of the hook, 32 bytes";

/// What the receiver does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Take,
    Fail,
    /// It answers nothing.
    Hang,
}

/// A service as its operator would write one: it heeds the order, and keeps a view of who is online.
#[derive(Clone)]
struct Receiver {
    url: String,
    state: Arc<Mutex<State>>,
}

struct State {
    mood: Mood,
    /// Signature and body of each request, in order, those it failed, too.
    requests: Vec<(String, Vec<u8>)>,
    /// The batches that it took.
    batches: Vec<Value>,
    sequence: u64,
    online: BTreeSet<String>,
    lost: u64,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let state = State {
            mood: Mood::Take,
            requests: Vec::new(),
            batches: Vec::new(),
            sequence: 0,
            online: BTreeSet::new(),
            lost: 0,
        };
        let receiver = Self { url, state: Arc::new(Mutex::new(state)) };
        let serving = receiver.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(stream));
            }
        });
        receiver
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut received = Vec::new();
        while let Some((signature, body)) = next_request(&mut stream, &mut received) {
            let mood = self.with(|state| state.heed(signature, body));
            let answer = match mood {
                Mood::Take => "HTTP/1.1 204 Taken\r\n\r\n",
                Mood::Fail => "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
                Mood::Hang => continue,
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no holder panics"))
    }

    fn set(&self, mood: Mood) {
        self.with(|state| state.mood = mood);
    }

    /// Waits until it believes exactly these to be online.
    #[track_caller]
    fn believes(&self, uids: &[&str]) {
        let expected: BTreeSet<String> = uids.iter().map(|uid| (*uid).to_owned()).collect();
        eventually(&format!("the service believes {uids:?}"), || self.with(|state| state.online == expected));
    }

    /// Every event it took, as `word` or `word uid`, each once.
    fn events(&self) -> Vec<String> {
        self.with(|state| {
            let events = state.batches.iter().flat_map(|batch| batch["events"].as_array().expect("a list"));
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            events.map(|event| format!("{} {}", text(&event["event"]), text(&event["uid"])).trim().to_owned()).collect()
        })
    }
}

impl State {
    fn heed(&mut self, signature: String, body: Vec<u8>) -> Mood {
        let batch: Value = serde_json::from_slice(&body).expect("a batch is JSON");
        self.requests.push((signature, body));
        if self.mood != Mood::Take {
            return self.mood;
        }
        self.lost += batch["lost"].as_u64().expect("a number");
        for event in batch["events"].as_array().expect("a list") {
            let sequence = event["sequence"].as_u64().expect("a number");
            if sequence <= self.sequence {
                continue;
            }
            self.sequence = sequence;
            let uid = event["uid"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str().expect("a word") {
                "online" => drop(self.online.insert(uid)),
                "offline" => drop(self.online.remove(&uid)),
                "node-started" | "node-stopped" => self.online.clear(),
                word => panic!("{word}"),
            }
        }
        self.batches.push(batch);
        Mood::Take
    }
}

/// Reads a request; `None` at the connection's end.
fn next_request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            assert!(head.starts_with("post /hook http/1.1\r\n"), "{head}");
            let header = |name: &str| {
                let (_, rest) = head.split_once(&format!("\r\n{name}: ")).unwrap_or_else(|| panic!("{name} in {head}"));
                rest.lines().next().unwrap_or_default().to_owned()
            };
            assert_eq!(header("content-type"), "application/json");
            let length: usize = header("content-length").parse().expect("a length");
            if received.len() >= end + 4 + length {
                let body = received.drain(..end + 4 + length).skip(end + 4).collect();
                return Some((header("pombo-signature"), body));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => received.extend(&buffer[..length]),
        }
    }
}

/// Nodes that tell this service at once, without any grace.
fn telling<'a>(receiver: &Receiver) -> Nodes<'a> {
    let url = receiver.url.clone();
    nodes().with_control().with(move |config| {
        config.hook_url = Some(url.parse().expect("an address"));
        config.hook_secret = Some(pombo::config::Secret::new(SECRET));
        config.hook_grace = Duration::ZERO;
        config.hook_delay = Duration::ZERO;
        config.hook_timeout = Duration::from_secs(20);
    })
}

/// What a receiver does after a loss: it reads all pages, and heeds from then on what has a higher number than the first.
fn reconcile(node: &Node, receiver: &Receiver) {
    let (mut listed, mut cursor, mut first) = (BTreeSet::new(), String::new(), None);
    loop {
        let page = Ask::get(&format!("/v1/uids?limit=3{cursor}")).to(node).json();
        first.get_or_insert(page["as_of"].clone());
        let uids = page["uids"].as_array().expect("a page has uids");
        listed.extend(uids.iter().map(|uid| uid.as_str().expect("a uid is text").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let as_of = first.expect("there is a page");
    receiver.with(|state| {
        assert_eq!(state.batches.last().map(|batch| &batch["node"]), Some(&as_of["node"]));
        (state.online, state.sequence) = (listed, as_of["sequence"].as_u64().expect("it has a number"));
    });
}

#[test]
fn service_is_told_who_comes_and_who_goes() {
    let (receiver, receiver_of_one) = (Receiver::start(), Receiver::start());
    for (receiver, shard_count) in [(receiver_of_one, 1), (receiver, 3)] {
        let node = telling(&receiver).start(shard_count);
        let alice = node.log_in("alice");
        receiver.believes(&["alice"]);
        let bob = node.log_in("b\"ób");
        receiver.believes(&["alice", "b\"ób"]);
        drop(alice);
        receiver.believes(&["b\"ób"]);
        drop(bob);
        receiver.believes(&[]);
        drop(node);
        let told = ["node-started", "online alice", "online b\"ób", "offline alice", "offline b\"ób", "node-stopped"];
        assert_eq!(receiver.events(), told);
    }
}

#[test]
fn numbers_rise_by_one_under_one_name_of_the_node() {
    let receiver = Receiver::start();
    let node = telling(&receiver).start(3);
    for uid in node.uids(20) {
        node.log_in(&uid);
    }
    eventually("all have gone", || receiver.events().len() == 41);
    drop(node);
    receiver.with(|state| {
        let events = state.batches.iter().flat_map(|batch| batch["events"].as_array().expect("a list"));
        let numbers: Vec<_> = events.map(|event| event["sequence"].as_u64().expect("a number")).collect();
        assert_eq!(numbers, (1..=42).collect::<Vec<u64>>());
        let names: BTreeSet<_> = state.batches.iter().map(|batch| batch["node"].as_str().expect("a name")).collect();
        assert_eq!(names.iter().map(|name| name.len()).collect::<Vec<_>>(), [32]);
    });
}

#[test]
fn who_is_back_within_the_grace_was_not_gone() {
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| config.hook_grace = Duration::from_secs(3600)).start(3);
    for _ in 0..5 {
        drop(node.log_in("alice"));
        node.eventually("she has gone", |stats| stats.uids == 0);
    }
    let _bob = node.log_in("bob");
    receiver.believes(&["alice", "bob"]);
    assert_eq!(receiver.events(), ["node-started", "online alice", "online bob"]);
    drop(node);
    // The node's end ends every grace.
    assert_eq!(receiver.events().len(), 6, "{:?}", receiver.events());
    assert_eq!(receiver.events()[5], "node-stopped");
}

/// A back end that stored a message within the grace heard neither `offline` nor `online`, and kept the message for ever.
#[test]
fn each_return_is_told_with_hook_returns_and_finds_the_uid_online() {
    let receiver = Receiver::start();
    let hour = |config: &mut Config| (config.hook_grace, config.hook_returns) = (Duration::from_secs(3600), true);
    let node = telling(&receiver).with(hour).start(3);
    for times in 1..=5 {
        let mut alice = node.log_in("alice");
        eventually("the return is told", || receiver.events().len() == times + 1);
        Ask::post("/v1/push/alice").text("stored").to(&node).expect(&json!({
            "uid": "alice", "outcome": "delivered", "sessions": 1,
        }));
        alice.expect_text("stored");
        drop(alice);
        node.eventually("she has gone", |stats| stats.uids == 0);
    }
    let expected: Vec<_> = ["node-started"].into_iter().chain(["online alice"; 5]).collect();
    assert_eq!(receiver.events(), expected);
    // The setting can be changed while the node runs.
    node.reload(|config| config.hook_returns = false);
    let _alice = node.log_in("alice");
    let _bob = node.log_in("bob");
    receiver.believes(&["alice", "bob"]);
    assert_eq!(receiver.events().last().map(String::as_str), Some("online bob"));
    assert_eq!(receiver.events().len(), 7);
}

#[test]
fn replaced_and_shared_sessions_do_not_flap() {
    for policy in [DuplicateLogin::Replace, DuplicateLogin::Share] {
        let receiver = Receiver::start();
        let node = telling(&receiver).with(|config| config.duplicate_login = policy).start(3);
        let mut last = node.log_in("alice");
        for _ in 0..5 {
            let older = std::mem::replace(&mut last, node.log_in("alice"));
            drop(older);
            node.eventually("one is left", |stats| stats.sessions == 1);
        }
        drop(last);
        receiver.believes(&[]);
        eventually("she has gone", || receiver.events().len() == 3);
        assert_eq!(receiver.events(), ["node-started", "online alice", "offline alice"], "{policy:?}");
    }
}

/// Tells whether a request, with this header, is signed by this secret.
fn is_signed((signature, body): &(String, Vec<u8>), secret: &str) -> bool {
    let (time, rest) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(',')).expect("a time");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signed = [time.as_bytes(), b".", body].concat();
    rest.split(',').any(|part| {
        let tag = part.strip_prefix("v1=").and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        hmac::verify(&key, &signed, &tag.expect("a tag in hex")).is_ok()
    })
}

#[test]
fn events_go_on_while_the_file_of_secrets_hangs_and_it_can_be_replaced() {
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("secrets");
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    fs::write(&file, &old).expect("writable");
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| {
        config.hook_secret = None;
        config.hook_secret_file = Some(file.clone());
    });
    let node = node.start(1);
    receiver.believes(&[]);
    let mut hanging = HangingFile::put(&file);
    // By the end of the test many a batch was sent while the file hung.
    let mut requests = 0;
    let mut send_one = || {
        node.log_in("alice");
        eventually("the next batch has come", || receiver.with(|state| state.requests.len() > requests));
        requests = receiver.with(|state| state.requests.len());
        receiver.with(|state| state.requests.last().cloned()).expect("there is one")
    };
    eventually("somebody reads the file that hangs", || {
        send_one();
        hanging.has_reader()
    });
    assert!(is_signed(&send_one(), &old));
    hanging.replace(&new);
    eventually("the new secret signs", || is_signed(&send_one(), &new));
}

#[test]
fn batches_are_signed_and_a_new_secret_takes_over() {
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("secrets");
    let (old, new) = ("o".repeat(32), "n".repeat(32));
    fs::write(&file, format!("{old}\n")).expect("writable");
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| {
        config.hook_secret = None;
        config.hook_secret_file = Some(file.clone());
    });
    let node = node.start(1);
    receiver.believes(&[]);
    eventually("the first is signed", || receiver.with(|state| !state.requests.is_empty()));
    receiver.with(|state| {
        assert!(is_signed(&state.requests[0], &old) && !is_signed(&state.requests[0], &new));
    });
    fs::write(&file, format!("{new}\r\n{old}")).expect("writable");
    eventually("the new secret signs, too", || {
        node.log_in("alice");
        receiver.with(|state| state.requests.last().is_some_and(|last| is_signed(last, &new) && is_signed(last, &old)))
    });
}

/// As docs/hooks.md does it: what was sent is genuine, and nothing that was changed, or is old, or is by another secret.
#[test]
fn program_of_the_document_tells_what_is_genuine() {
    let Some(mut python) = interpreter("python3") else { return };
    let document = include_str!("../docs/hooks.md");
    let shown = document.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it is there");
    let receiver = Receiver::start();
    let _node = telling(&receiver).start(1);
    eventually("the node has told of itself", || receiver.with(|state| !state.requests.is_empty()));
    let (header, body) = receiver.with(|state| state.requests[0].clone());
    let body = String::from_utf8(body).expect("JSON is UTF-8");
    let asked = "\nimport sys\nheader, body, secret = (argument.encode() for argument in sys.argv[1:])\n\
        header = header.decode()\n\
        print(is_genuine(header, body, secret), is_genuine(header, body + b' ', secret), is_genuine(header, body, b'x'))\n\
        time.time = lambda: 0\nprint(is_genuine(header, body, secret))\n";
    let (told, code) = run(python.args(["-c", &format!("{shown}{asked}"), &header, &body, SECRET]));
    assert_eq!((told.as_str(), code), ("True False False\nFalse\n", 0));
}

#[test]
fn service_that_fails_or_hangs_is_told_again_in_order() {
    for mood in [Mood::Fail, Mood::Hang] {
        let receiver = Receiver::start();
        let node = telling(&receiver).with(|config| config.hook_timeout = Duration::from_millis(300)).start(3);
        eventually("it has started", || receiver.events() == ["node-started"]);
        receiver.set(mood);
        let alice = node.log_in("alice");
        let _bob = node.log_in("bob");
        drop(alice);
        eventually("attempts fail", || node.handle().counts().hook_failures >= 3);
        receiver.set(Mood::Take);
        receiver.believes(&["bob"]);
        let alices = receiver.events().into_iter().filter(|event| event.ends_with("alice")).collect::<Vec<_>>();
        assert_eq!(alices, ["online alice", "offline alice"], "{mood:?}");
        eventually("all is taken", || node.handle().counts().hook_events == 4);
        assert_eq!(node.handle().counts().hook_lost, 0);
        // The same batch came again, to the byte.
        receiver.with(|state| assert_eq!(state.requests[1].1, state.requests[2].1));
    }
}

#[test]
fn what_does_not_fit_is_lost_counted_told_and_put_right() {
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| {
        config.hook_queue_max = 5;
        config.hook_batch_max = 3;
    });
    let node = node.start(3);
    eventually("it has started", || receiver.events() == ["node-started"]);
    receiver.set(Mood::Fail);
    let clients: Vec<_> = node.uids(20).iter().map(|uid| node.log_in(uid)).collect();
    let counts = || node.handle().counts();
    eventually("some are lost", || counts().hook_lost >= 12);
    receiver.set(Mood::Take);
    eventually("the rest is told", || counts().hook_events + counts().hook_lost == 21);
    eventually("it is told of the loss", || receiver.with(|state| state.lost == counts().hook_lost));
    reconcile(&node, &receiver);
    receiver.with(|state| assert_eq!(state.online, node.uids(20).into_iter().collect()));
    for (left, client) in (0..clients.len()).rev().zip(clients) {
        drop(client);
        eventually("it is told who goes", || receiver.with(|state| state.online.len() == left));
    }
}

#[test]
fn batch_that_is_never_taken_is_given_up() {
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| config.hook_retry_time = Duration::from_millis(500)).start(1);
    eventually("it has started", || receiver.events() == ["node-started"]);
    receiver.set(Mood::Fail);
    let _alice = node.log_in("alice");
    eventually("it is given up", || node.handle().counts().hook_lost == 1);
    receiver.set(Mood::Take);
    let _bob = node.log_in("bob");
    receiver.believes(&["bob"]);
    receiver.with(|state| assert_eq!(state.lost, 1));
}

#[test]
fn storm_of_logins_is_told_in_few_batches() {
    const LOGINS: usize = 2_000;
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| config.hook_delay = Duration::from_millis(100)).start(3);
    let clients: Vec<_> = (0..LOGINS).map(|index| node.log_in(&format!("u{index}"))).collect();
    eventually("all are online", || receiver.with(|state| state.online.len() == LOGINS));
    drop(clients);
    receiver.believes(&[]);
    eventually("all are told", || node.handle().counts().hook_events == 2 * LOGINS as u64 + 1);
    let counts = node.handle().counts();
    assert_eq!((counts.hook_lost, counts.hook_failures), (0, 0));
    receiver.with(|state| assert!(state.batches.len() < LOGINS, "{} batches", state.batches.len()));
}

#[test]
fn node_ends_within_its_time_when_the_service_hangs() {
    let receiver = Receiver::start();
    let node = telling(&receiver).with(|config| config.hook_timeout = Duration::from_millis(200)).start(3);
    let _alice = node.log_in("alice");
    receiver.believes(&["alice"]);
    receiver.set(Mood::Hang);
    node.drain();
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let config = |change: fn(&mut Config)| {
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            control: None,
            hook_url: Some("http://127.0.0.1:9/".parse().expect("an address")),
            ..Config::default()
        };
        change(&mut config);
        Server::bind(config).expect_err("it can't work").to_string()
    };
    let unsigned = config(|_| {});
    assert!(unsigned.ends_with("a secret to sign with, too: hook_secret_file or hook_secret"), "{unsigned}");
    let absent = config(|config| config.hook_secret_file = Some("/absent/file".into()));
    assert!(absent.starts_with("cannot read hook_secret_file /absent/file: "), "{absent}");
    let short = config(|config| config.hook_secret_file = Some("/dev/null".into()));
    assert!(short.contains("it has 0 lines, expected a secret on each of 1 to 4"), "{short}");
}
