//! Messages for users who are offline: the programs of examples/ that keep them, in PHP and in Node, lose none and send none
//! twice, as docs/hooks.md says.

mod support;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pombo::Config;
use support::{DEADLINE, Node, eventually, interpreter, nodes, run};
use tempfile::{TempDir, tempdir};

const SECRET: &str = "the secret of the hook, 32 bytes";

/// Longest message that the node takes from the back end.
const PUSH_BYTES_MAX: usize = 1000;

/// Passes the node's connections to the back end, which starts after the node because it needs the node's address.
struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(Mutex::new(None));
        let relay = Self { address, target: Arc::clone(&target) };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let target: Option<SocketAddr> = *target.lock().expect("no holder panics");
                // Without a back end the connection ends, and the node tries the batch again.
                if let Some(Ok(other)) = target.map(TcpStream::connect) {
                    pass(&stream, &other);
                    pass(&other, &stream);
                }
            }
        });
        relay
    }

    fn point_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().expect("no holder panics") = target;
    }
}

/// Copies what one end sends to the other.
fn pass(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    thread::spawn(move || {
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
    });
}

/// The language of a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Php,
    NodeJs,
}

impl Language {
    fn interpreter(self) -> &'static str {
        match self {
            Self::Php => "php",
            Self::NodeJs => "node",
        }
    }
}

/// The example of a back end, which takes the hook until it is dropped.
struct BackEnd<'a> {
    site: &'a Site,
    child: Child,
    address: SocketAddr,
}

/// The place where a back end runs: its language, its files, and its node.
struct Site {
    language: Language,
    folder: TempDir,
    relay: Relay,
    node: Node,
}

impl Site {
    /// Starts a node that posts to a back end; `offline` never comes, because the grace is an hour.
    fn new(language: Language) -> Self {
        let (folder, relay) = (tempdir().expect("a folder"), Relay::start());
        // The node's file, and the back end's own.
        let file = folder.path().join("hook.secret");
        for path in [&file, &folder.path().join("own.secret")] {
            fs::write(path, format!("{SECRET}\n")).expect("the folder is writable");
        }
        let path = if language == Language::Php { "/" } else { "/hook" };
        let url = format!("http://{}{path}", relay.address);
        let node = nodes().with_control().with(move |config: &mut Config| {
            config.hook_url = Some(url.parse().expect("an address"));
            config.hook_secret_file = Some(file.clone());
            config.hook_returns = true;
            config.hook_grace = Duration::from_secs(3600);
            config.hook_delay = Duration::ZERO;
            // A batch that takes longer comes again. The node waits as long at its end, when no back end is left.
            config.hook_timeout = Duration::from_secs(2);
            config.push_bytes_max = Some(PUSH_BYTES_MAX);
        });
        let node = node.start(2);
        Self { language, folder, relay, node }
    }

    fn control(&self) -> String {
        format!("http://{}", self.node.control_addresses().control.as_ref().expect("it is on"))
    }

    fn environment(&self, control: &str) -> [(&'static str, String); 4] {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        [
            ("POMBO_URL", control.to_owned()),
            ("POMBO_HOOK_SECRET_FILE", path("own.secret")),
            ("OFFLINE_FOLDER", path("messages")),
            ("PORT", "0".to_owned()),
        ]
    }

    /// Starts the back end, and has the hook reach it.
    fn start(&self, control: &str) -> BackEnd<'_> {
        let mut command = interpreter(self.language.interpreter()).expect("it was there");
        let mut child = match self.language {
            Language::Php => command.args(["-S", "127.0.0.1:0", "examples/offline.php"]).stderr(Stdio::piped()),
            Language::NodeJs => command.arg("examples/offline.mjs").stdout(Stdio::piped()),
        }
        .envs(self.environment(control))
        .env_remove("POMBO_CONTROL_TOKEN")
        .spawn()
        .expect("it starts");
        let output: Box<dyn io::Read + Send> = match self.language {
            Language::Php => Box::new(child.stderr.take().expect("it is piped")),
            Language::NodeJs => Box::new(child.stdout.take().expect("it is piped")),
        };
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).expect("it prints UTF-8");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split([')', '\n']).next());
        let address = address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("got {line:?}"));
        // The rest is thrown away, so that it never waits for a reader.
        thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        self.relay.point_to(Some(address));
        BackEnd { site: self, child, address }
    }

    fn php(&self, control: &str, arguments: &[&str]) -> i32 {
        let mut php = interpreter("php").expect("it was there");
        let (printed, code) = run(php
            .arg("examples/offline.php")
            .args(arguments)
            .envs(self.environment(control))
            .env_remove("POMBO_CONTROL_TOKEN"));
        assert_eq!(printed, "");
        code
    }
}

/// What became of a message that the application sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Nothing is owed to the user now.
    Done,
    /// The message is stored.
    Waits,
    /// The node never takes the message, which is kept.
    Refused,
}

impl BackEnd<'_> {
    /// Sends a message as the application would.
    fn send(&self, uid: &str, message: &str) -> Sent {
        match self.site.language {
            Language::Php => match self.site.php(&self.site.control(), &["send", uid, message]) {
                0 => Sent::Done,
                3 => Sent::Waits,
                4 => Sent::Refused,
                code => panic!("it has ended with {code}"),
            },
            Language::NodeJs => match self.post(&format!("/send/{uid}"), "", message) {
                200 => Sent::Done,
                202 => Sent::Waits,
                422 => Sent::Refused,
                status => panic!("the status is {status}"),
            },
        }
    }

    /// Posts to the back end; returns the status.
    fn post(&self, path: &str, header: &str, body: &str) -> u16 {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("got {answer:?}"))
    }
}

impl Drop for BackEnd<'_> {
    fn drop(&mut self) {
        self.site.relay.point_to(None);
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Calls `check` with a site, unless there is no such interpreter.
fn with_site(language: Language, check: impl FnOnce(&Site)) {
    if interpreter(language.interpreter()).is_some() {
        check(&Site::new(language));
    }
}

/// What was sent while the user was away comes at the return, in order and once, although the grace hides both events.
fn check_return(site: &Site) {
    let back_end = site.start(&site.control());
    let mut alice = site.node.log_in("alice");
    assert_eq!(back_end.send("alice", "zero"), Sent::Done);
    alice.expect_text("zero");
    drop(alice);
    site.node.eventually("she has gone", |stats| stats.uids == 0);
    for message in ["one", "olá \"2\" & 2%", "{\"three\":3}"] {
        assert_eq!(back_end.send("alice", message), Sent::Waits);
    }
    let mut alice = site.node.log_in("alice");
    for message in ["one", "olá \"2\" & 2%", "{\"three\":3}"] {
        alice.expect_text(message);
    }
    eventually("nothing is left", || site.stored().is_empty());
    assert_eq!(back_end.send("alice", "four"), Sent::Done);
    alice.expect_text("four");
    // A message that the node never takes holds up none behind it, and is kept, as is the next such one.
    for letter in ["x", "y", "z"] {
        assert_eq!(back_end.send("alice", &letter.repeat(PUSH_BYTES_MAX + 1)), Sent::Refused);
    }
    let kept = site.files_that_end_with("refused").iter().map(fs::read_to_string).collect::<io::Result<String>>();
    let kept = kept.expect("they are text");
    for letter in ["x", "y", "z"] {
        assert!(kept.contains(&letter.repeat(PUSH_BYTES_MAX)), "{letter} is lost: {kept}");
    }
    assert_eq!(back_end.send("alice", "five"), Sent::Done);
    alice.expect_text("five");
    alice.expect_silence();
}

/// Messages that are sent in the very moment of a return.
fn check_race(site: &Site) {
    const ROUNDS: usize = 8;
    let back_end = site.start(&site.control());
    for round in 0..ROUNDS {
        let message = |number: usize| format!("{round}.{number}");
        let mut alice = thread::scope(|threads| {
            threads.spawn(|| {
                for number in 0..3 {
                    back_end.send("alice", &message(number));
                }
            });
            // She returns at another moment of the sending in each round.
            thread::sleep(Duration::from_millis(20 * round as u64));
            site.node.log_in("alice")
        });
        (0..3).for_each(|number| alice.expect_text(message(number)));
        alice.expect_silence();
        drop(alice);
        site.node.eventually("she has gone", |stats| stats.uids == 0);
    }
}

/// What was stored while the node or the back end was not there is sent when both are.
fn check_outage(site: &Site) {
    let back_end = site.start(&site.control());
    assert_eq!(back_end.send("alice", "one"), Sent::Waits);
    drop(back_end);
    let mut alice = site.node.log_in("alice");
    match site.language {
        Language::Php => {
            assert_eq!(site.php("http://127.0.0.1:1", &["send", "alice", "two"]), 3);
            assert_eq!(site.php(&site.control(), &["flush"]), 0);
            alice.expect_text("one");
            alice.expect_text("two");
        }
        Language::NodeJs => {
            let astray = site.start("http://127.0.0.1:1");
            assert_eq!(astray.send("alice", "two"), Sent::Waits);
            drop(astray);
            let _back_end = site.start(&site.control());
            alice.expect_text("one");
            alice.expect_text("two");
            // A back end that is killed between a push and the removal sends the message again.
            eventually("both are removed", || site.stored().is_empty());
        }
    }
    let _back_end = site.start(&site.control());
    eventually("the hook has told its events", || site.node.handle().counts().hook_events >= 2);
    alice.expect_silence();
}

/// Nobody but pombo, and no web page, makes it do anything.
fn check_forgery(site: &Site) {
    let back_end = site.start(&site.control());
    let hook = if site.language == Language::Php { "/" } else { "/hook" };
    let body = r#"{"node":"n","lost":0,"events":[{"sequence":1,"event":"online","uid":"alice","at_ms":1}]}"#;
    assert_eq!(back_end.post(hook, "", body), 403);
    let tag = "0".repeat(64);
    assert_eq!(back_end.post(hook, &format!("pombo-signature: t=1767225600,v1={tag}\r\n"), body), 403);
    if site.language == Language::NodeJs {
        assert_eq!(back_end.post("/send/alice", "origin: https://elsewhere\r\n", "x"), 403);
        assert!(site.stored().is_empty());
    }
}

impl Site {
    /// The files of messages that are stored.
    fn stored(&self) -> Vec<PathBuf> {
        self.files_that_end_with("json")
    }

    fn files_that_end_with(&self, end: &str) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.folder.path().join("messages")).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|found| found == end)).collect()
    }
}

/// While a secret is changed the file has the new one and the old one, and the other side may know either of them only.
fn check_change_of_secret(site: &Site) {
    let back_end = site.start(&site.control());
    let return_is_told = |what: &str| {
        assert_eq!(back_end.send("alice", what), Sent::Waits);
        let mut alice = site.node.log_in("alice");
        alice.expect_text(what);
        drop(alice);
        site.node.eventually("she has gone", |stats| stats.uids == 0);
    };
    let (file, new) = (site.folder.path().join("own.secret"), "the next secret of the hook, 32 bytes");
    for (content, what) in [
        (format!("{SECRET}\n"), "one"),
        (format!("{SECRET}\n{new}\n"), "both, and the old one is used"),
        (format!("\u{feff}{new}\r\n{SECRET}"), "the other way round"),
    ] {
        fs::write(&file, content).expect("the folder is writable");
        return_is_told(what);
    }
    fs::write(site.folder.path().join("hook.secret"), format!("{new}\n{SECRET}\n")).expect("the folder is writable");
    fs::write(&file, format!("{new}\n")).expect("the folder is writable");
    return_is_told("the node has the new one, too");
}

#[test]
fn php_takes_each_secret_of_its_file() {
    with_site(Language::Php, check_change_of_secret);
}

#[test]
fn node_takes_each_secret_of_its_file() {
    with_site(Language::NodeJs, check_change_of_secret);
}

#[test]
fn php_sends_at_each_return_what_is_stored() {
    with_site(Language::Php, check_return);
}

#[test]
fn node_sends_at_each_return_what_is_stored() {
    with_site(Language::NodeJs, check_return);
}

#[test]
fn php_loses_and_doubles_nothing_that_is_sent_during_a_return() {
    with_site(Language::Php, check_race);
}

#[test]
fn node_loses_and_doubles_nothing_that_is_sent_during_a_return() {
    with_site(Language::NodeJs, check_race);
}

#[test]
fn php_sends_after_an_outage_what_is_stored() {
    with_site(Language::Php, check_outage);
}

#[test]
fn node_sends_after_an_outage_what_is_stored() {
    with_site(Language::NodeJs, check_outage);
}

#[test]
fn php_refuses_events_that_are_not_from_pombo() {
    with_site(Language::Php, check_forgery);
}

#[test]
fn node_refuses_events_and_messages_that_are_not_its_own() {
    with_site(Language::NodeJs, check_forgery);
}
