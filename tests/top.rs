//! `pombo top` as its users see it: in a terminal, which is given back as it was, and as lines of JSON.
//!
//! In here a node of the test's own answers, so that it can say anything; `top_node.rs` has real ones.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use support::eventually;

/// What a node says at its look number `look`, each a second after the one before.
fn stats(look: u64) -> Value {
    let bounds = [1_000_000, 2_000_000];
    let shard = json!({
        "counts": { "sessions": 4321, "uids": 4300, "frames_in": 50 * look, "delivered": 10 * look, "mail_bytes": 7 },
        "closes": { "1000": 2 * look },
        "turn_time": { "bounds_ns": bounds, "counts": [100 * look, 0, 0], "sum_ns": 0 }
    });
    json!({
        "at_ms": 1_760_000_000_000_u64 + 1000 * look, "uptime_ms": 60_000 + 1000 * look, "version": "9.9.9",
        "state": "serving", "connections": 4322, "connections_max": 10_000, "shards": [shard],
        "refusals": { "full": 3, "busy": 0 }
    })
}

/// A node that answers what `answer` says, look by look; nothing cuts the connection.
fn node(answer: impl Fn(u64) -> Option<(&'static str, String)> + Send + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        let mut look = 0;
        for mut stream in listener.incoming().map_while(Result::ok) {
            while is_asked(&mut stream) {
                look += 1;
                let Some((status, body)) = answer(look) else { break };
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).ok();
            }
        }
    });
    address
}

fn steady() -> String {
    node(|look| Some(("200 OK", stats(look).to_string())))
}

/// Reads a request for the stats; false at the end of the connection.
fn is_asked(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) | Err(_) => return false,
            Ok(_) => received.push(byte[0]),
        }
    }
    let head = String::from_utf8_lossy(&received).into_owned();
    assert!(head.starts_with("GET /v1/stats HTTP/1.1\r\n"), "{head}");
    true
}

/// Runs it to its end; returns the lines it printed, what it complained of, and its exit code.
#[track_caller]
fn lines(address: &str, arguments: &[&str]) -> (Vec<Value>, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    let output = command.args(["top", "--control", address]).args(arguments).env_clear().stdin(Stdio::null()).output();
    let output = output.expect("the program starts");
    let printed = String::from_utf8(output.stdout).expect("it prints UTF-8");
    let lines = printed.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let complaint = String::from_utf8(output.stderr).expect("it prints UTF-8");
    (lines, complaint, output.status.code().expect("it exits"))
}

const QUICK: [&str; 3] = ["--json", "--interval", "100ms"];

#[test]
fn lines_have_totals_and_rates() {
    let (lines, complaint, exit) = lines(&steady(), &[&QUICK[..], &["--count", "3"]].concat());
    assert_eq!((lines.len(), complaint.as_str(), exit), (3, "", 0));
    assert_eq!(lines[0]["totals"]["sessions"], 4321, "{}", lines[0]);
    assert_eq!(lines[0]["rates"], Value::Null, "there is nothing to compare with: {}", lines[0]);
    for line in &lines[1..] {
        let rates = json!({ "frames_in": 50.0, "delivered": 10.0 });
        assert_eq!((&line["rates"], &line["shards"][0]["rates"]), (&rates, &rates), "{line}");
        assert_eq!(line["closes"][0]["rate"], 2.0, "{line}");
        assert_eq!(line["refusals"], json!([{ "reason": "full", "total": 3, "rate": 0.0 }]), "{line}");
        assert_eq!(line["shards"][0]["turns"], json!({ "p50_us": 500.0, "p99_us": 990.0 }), "{line}");
        assert_eq!((&line["state"], &line["connections"]), (&"serving".into(), &4322.into()), "{line}");
    }
    assert_eq!(lines[2]["totals"]["delivered"], 30);
}

#[test]
fn node_that_was_started_again_has_no_rates_at_first() {
    // The third look meets a node that has counted less.
    let address = node(|look| Some(("200 OK", if look < 3 { stats(look + 10) } else { stats(look - 3) }.to_string())));
    let (lines, _, exit) = lines(&address, &[&QUICK[..], &["--count", "4"]].concat());
    let rates: Vec<_> = lines.iter().map(|line| line["rates"]["delivered"].as_f64()).collect();
    assert_eq!((rates.as_slice(), exit), (&[None, Some(10.0), None, Some(10.0)][..], 0));
}

#[test]
fn line_tells_that_there_was_no_answer() {
    let address = node(|look| match look {
        2 => Some(("503 Service Unavailable", json!({ "detail": "the node ends" }).to_string())),
        _ => Some(("200 OK", stats(look).to_string())),
    });
    let (lines, _, exit) = lines(&address, &[&QUICK[..], &["--count", "3"]].concat());
    assert_eq!(exit, 0);
    assert_eq!(lines[1]["error"], "503 Service Unavailable: the node ends");
    assert_eq!(lines[2]["rates"]["delivered"], 10.0, "over the two seconds: {}", lines[2]);
}

#[test]
fn node_that_is_not_there_is_an_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let (printed, complaint, exit) = lines(&address, &QUICK);
    assert_eq!((printed.len(), exit), (0, 1));
    assert!(complaint.starts_with(&format!("pombo top: can't connect to {address}: ")), "{complaint}");
    let other = node(|_| Some(("200 OK", "{}".to_owned())));
    let (_, complaint, exit) = lines(&other, &QUICK);
    assert_eq!(exit, 1);
    assert!(complaint.contains("is this the control listener of a pombo?"), "{complaint}");
}

#[test]
fn wrong_arguments_are_refused() {
    let (_, complaint, exit) = lines("127.0.0.1:1", &[]);
    let told = "pombo top: standard output is no terminal, expected one, or --json\n";
    assert_eq!((complaint.as_str(), exit), (told, 2));
    for arguments in [&["--count", "3"][..], &["--json", "--count", "0"], &["--interval", "1ms"], &["--interval", "2h"]]
    {
        assert_eq!(lines("127.0.0.1:1", arguments).2, 2, "{arguments:?}");
    }
}

/// The program in a terminal of 80 by 24.
struct Screen {
    child: Child,
    keyboard: File,
    /// The other end, to look at its modes.
    terminal: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    #[track_caller]
    fn start(address: &str) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).expect("a terminal");
        unlockpt(&keyboard).expect("a terminal");
        tcsetwinsize(&keyboard, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let name = ptsname(&keyboard, Vec::new()).expect("a terminal has a name").into_string().expect("in ASCII");
        let terminal = || File::options().read(true).write(true).open(&name).expect("the terminal opens");
        // Its own terminal, and not that of who runs the tests.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_pombo"), "top", "--interval", "100ms", "--control", address]);
        command.env_clear().env("TERM", "xterm").env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let child = command.stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().expect("it starts");
        let keyboard: File = keyboard.as_fd().try_clone_to_owned().expect("a descriptor").into();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut screen, collected) = (keyboard.try_clone().expect("a descriptor"), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                collected.lock().expect("no reader panics").extend(&buffer[..length]);
            }
        });
        Self { child, keyboard, terminal: terminal(), shown }
    }

    /// What it has written so far, with what a terminal acts on.
    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("the thread does not panic")).into_owned()
    }

    /// Waits until the screen shows this.
    #[track_caller]
    fn expect(&self, text: &str) {
        eventually(&format!("{text:?} on the screen"), || picture(&self.shown()).contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("it is a terminal").local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    /// Waits until it has ended with this exit code, and has given the terminal back.
    #[track_caller]
    fn expect_end(&mut self, exit_code: i32) {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(exit_code), "{:?}", self.shown());
        assert!(!self.is_raw(), "keys are shown and lines are edited again");
        // The screen of before, and the cursor.
        let is_given_back = |text: &str| text.contains("\x1b[?1049l") && text.contains("\x1b[?25h");
        eventually("the screen is given back", || is_given_back(&self.shown()));
    }
}

/// What a terminal makes of `written`: only what has changed is written, at its place.
fn picture(written: &str) -> String {
    let mut cells = vec![[' '; 80]; 24];
    let (mut row, mut column) = (0, 0);
    let mut written = written.chars();
    while let Some(character) = written.next() {
        if character != '\x1b' {
            if let Some(cell) = cells.get_mut(row).and_then(|line| line.get_mut(column)) {
                *cell = character;
            }
            column += 1;
            continue;
        }
        if written.next() != Some('[') {
            continue;
        }
        let mut parameters = String::new();
        let end = written.by_ref().find(|character| {
            let is_end = character.is_ascii_alphabetic();
            if !is_end {
                parameters.push(*character);
            }
            is_end
        });
        match end {
            Some('H') => {
                let mut numbers = parameters.split(';').map(|number| number.parse().unwrap_or(1_usize));
                (row, column) = (numbers.next().unwrap_or(1) - 1, numbers.next().unwrap_or(1) - 1);
            }
            Some('J') => cells.fill([' '; 80]),
            _ => {}
        }
    }
    cells.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn shows_the_node_until_q() {
    let mut screen = Screen::start(&steady());
    screen.expect("9.9.9");
    screen.expect("4,321");
    screen.expect("50/s");
    screen.expect("1000 closed normally");
    assert!(screen.is_raw(), "keys come at once");
    assert!(screen.shown().contains("\x1b[?1049h"), "it has a screen of its own");
    screen.press("?");
    screen.expect("q, Esc, Ctrl-C");
    screen.press("?p");
    screen.expect("paused");
    eventually("the help has gone", || !picture(&screen.shown()).contains("Ctrl-C"));
    screen.press("q");
    screen.expect_end(0);
}

#[test]
fn every_way_out_gives_the_terminal_back() {
    for keys in ["\x1b", "\x03"] {
        let mut screen = Screen::start(&steady());
        screen.expect("4,321");
        screen.press(keys);
        screen.expect_end(0);
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut screen = Screen::start(&steady());
        screen.expect("4,321");
        let id = Pid::from_raw(screen.child.id().cast_signed()).expect("a process has an id");
        kill_process(id, signal).expect("it runs");
        screen.expect_end(0);
    }
}

#[test]
fn node_that_goes_is_told_and_comes_back() {
    let address = node(|look| match look {
        5..9 => None,
        _ => Some(("200 OK", stats(if look < 5 { 1 } else { 7 }).to_string())),
    });
    let mut screen = Screen::start(&address);
    screen.expect("4,321");
    screen.expect("up 1m 1s");
    screen.expect(", trying again: no answer");
    screen.expect("up 1m 7s");
    eventually("nothing is wrong any more", || !picture(&screen.shown()).contains("trying again"));
    screen.press("q");
    screen.expect_end(0);
}

#[test]
fn terminal_that_changes_its_size_is_no_harm() {
    let mut screen = Screen::start(&steady());
    screen.expect("4,321");
    for (rows, columns) in [(1, 1), (3, 200), (60, 10), (24, 80)] {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen.keyboard, size).expect("a size");
        let before = screen.shown().len();
        eventually("it draws again", || screen.shown().len() > before);
    }
    screen.press("q");
    screen.expect_end(0);
}
