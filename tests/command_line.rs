//! The command line as its callers see it: what is printed where, exit codes, signals.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The program with no environment but `variables`.
fn pombo(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    pombo(arguments, variables).output().expect("the program runs")
}

#[track_caller]
fn refused(arguments: &[&str], variables: &[(&str, &str)], lines: &[&str]) {
    let output = output(arguments, variables);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().collect::<Vec<_>>(), lines);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

#[test]
fn bad_settings_are_a_line_each_and_exit_code_2() {
    let shards = "error: shards = 0 (from --shards): expected auto, or 1 to 256";
    refused(&["--shards", "0"], &[], &[shards]);
    refused(&["serve", "--shards", "0"], &[], &[shards]);
    refused(&["serve", "--print-config", "--shards", "0"], &[], &[shards]);
    refused(&["--shards", "-1"], &[], &["error: shards = -1 (from --shards): expected auto, or 1 to 256"]);
    refused(
        &["--shards", "0", "--log-level", "loud"],
        &[("POMBO_CONFIG", "no/such.toml"), ("POMBO_PAGE", "maybe")],
        &[
            "error: cannot read the settings in no/such.toml: No such file or directory (os error 2)",
            "error: page = maybe (from POMBO_PAGE): expected true or false",
            shards,
            "error: log_level = loud (from --log-level): expected off, error, warn, info, debug or trace",
        ],
    );
}

#[test]
fn a_taken_port_is_one_line_and_exit_code_2() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    let output = output(&["--listen", &address], &[("POMBO_LOG_LEVEL", "off")]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.starts_with(&format!("error: cannot listen on {address}: ")), "{stderr}");
    assert!(stderr.contains("in use") && stderr.contains("--listen"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn unknown_flags_are_refused_and_help_is_not() {
    let unknown = output(&["--shard", "2"], &[]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("--shards"));
    assert_eq!(output(&["--listen", "127.0.0.1:0", "serve"], &[]).status.code(), Some(2));

    // `tests/help.rs` tells what the help has.
    for arguments in [&["--help"][..], &["-h"], &["serve", "--help"]] {
        assert_eq!(output(arguments, &[]).status.code(), Some(0));
    }
}

#[test]
fn an_address_that_cannot_be_listened_on_says_what_to_do() {
    let start = |listen: &str| {
        let output = output(&["--control", "off", "--log-level", "off", "--listen", listen], &[]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let folder = TempDir::new().expect("a temporary directory");
    let missing = folder.path().join("run");
    let listen = format!("unix:{}", missing.join("pombo.sock").display());
    let expected = format!(
        "error: cannot listen on {listen}: entity not found (there is no folder {}: make it, or choose another path)\n",
        missing.display()
    );
    assert_eq!(start(&listen), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn a_port_below_1024_without_the_right_says_which() {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("Linux has it");
    if first_free.trim().parse::<u16>().expect("a number") <= 1 {
        // Everybody may take every port here.
        return;
    }
    let arguments = ["--control", "off", "--log-level", "off", "--listen", "127.0.0.1:1"];
    let mut command = pombo(&arguments, &[]);
    if rustix::process::geteuid().is_root() {
        // setpriv(1) takes the right from root, too.
        command = Command::new("setpriv");
        command.args(["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]);
        command.arg(env!("CARGO_BIN_EXE_pombo")).args(arguments).stdin(Stdio::null());
    }
    let output = command.output().expect("util-linux is there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.starts_with("error: cannot listen on 127.0.0.1:1: permission denied (a port below 1024"),
        "{stderr}"
    );
    assert!(stderr.contains("CAP_NET_BIND_SERVICE") && stderr.contains("setcap"), "{stderr}");
}

#[test]
fn a_setting_of_another_machine_is_a_comment_in_the_printed_config() {
    let printed = |arguments: &[&str]| {
        let output = output(&[&["--print-config"], arguments].concat(), &[]);
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    };
    let has = |text: &str, start: &str| text.lines().any(|line| line.starts_with(start));
    for text in
        [printed(&[]), printed(&["--shards", "auto", "--gateway-threads", "auto", "--memory-bytes-max", "auto"])]
    {
        for key in ["shards", "gateway_threads", "memory_bytes_max"] {
            assert!(has(&text, &format!("# {key} = ")) && !has(&text, &format!("{key} = ")), "{key} in {text}");
        }
    }
    let text = printed(&["--shards", "3"]);
    assert!(has(&text, "shards = 3") && has(&text, "# gateway_threads = "), "{text}");
}

#[test]
fn the_start_names_the_text_port() {
    let directory = TempDir::new().expect("a temporary directory");
    let text = format!("unix:{}", directory.path().join("text.sock").display());
    let file = settings(&directory, &format!("text = \"{text}\""));
    // The third line comes behind those two that every node has.
    let (mut node, lines) = Node::start_and_read(3, &[], &file);
    assert!(lines[2].starts_with(&format!("push by lines of JSON on {text}: echo ")), "{lines:?}");
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn the_printed_config_is_a_file_that_loads_to_the_same() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("pombo.toml");
    let arguments = ["--print-config", "--listen", "127.0.0.1:0", "--listen", "unix:/x", "--login-timeout", "1500ms"];
    let first = output(&arguments, &[("POMBO_PATHS", "/ws")]).stdout;
    let text = String::from_utf8_lossy(&first);
    for line in ["listen = [\"127.0.0.1:0\", \"unix:/x\"]", "login_timeout = \"1s 500ms\"", "paths = [\"/ws\"]"] {
        assert!(text.lines().any(|each| each == line), "{line} in {text}");
    }
    fs::write(&file, &first).expect("the temporary directory is writable");
    let second = output(&["serve", "--print-config", "--config", file.to_str().expect("a path in UTF-8")], &[]).stdout;
    assert_eq!(text, String::from_utf8_lossy(&second));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    for argument in ["--help", "--version", "--print-config"] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = pombo(&[argument], &[]).stdout(writer).stderr(Stdio::piped()).spawn().expect("the program runs");
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    }
}

#[test]
fn a_log_that_nobody_reads_is_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let refused = pombo(&["--shards", "0"], &[]).stderr(writer).status().expect("the program runs");
    assert_eq!(refused.code(), Some(2));

    let directory = TempDir::new().expect("a temporary directory");
    let (mut node, _) = Node::start(&[], &settings(&directory, ""));
    drop(node.0.stderr.take());
    node.signal(Signal::HUP);
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
}

/// A running node; killed if the test fails before it has ended.
struct Node(Child);

impl Node {
    /// Starts a node on a free port and waits for its two lines on stdout.
    fn start(arguments: &[&str], file: &Path) -> (Self, Vec<String>) {
        Self::start_and_read(2, arguments, file)
    }

    fn start_and_read(count: usize, arguments: &[&str], file: &Path) -> (Self, Vec<String>) {
        let file = file.to_str().expect("a path in UTF-8");
        let all = [&["--control", "off", "--listen", "127.0.0.1:0", "--config", file][..], arguments].concat();
        let spawned = pombo(&all, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut node = Self(spawned.expect("the program runs"));
        let stdout = node.0.stdout.take().expect("stdout is a pipe");
        let lines = BufReader::new(stdout).lines().take(count).map(|line| line.expect("stdout is text")).collect();
        (node, lines)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the node runs");
    }

    /// Waits for the node's end; returns its exit code.
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().expect("the node is our child") {
                Some(status) => return status.code(),
                None if Instant::now() > deadline => panic!("the node did not end"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Reads the log up to a line that contains `text`.
    #[track_caller]
    fn logged(log: &mut impl BufRead, text: &str) -> String {
        let mut line = String::new();
        while log.read_line(&mut line).expect("logs are text") > 0 {
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("the log ended without {text}")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn settings(directory: &TempDir, toml: &str) -> std::path::PathBuf {
    let path = directory.path().join("pombo.toml");
    fs::write(&path, toml).expect("the temporary directory is writable");
    path
}

#[test]
fn a_node_says_where_it_listens_and_ends_on_a_signal() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = settings(&directory, "");
    for signal in [Signal::TERM, Signal::INT] {
        let (mut node, lines) = Node::start(&["--shards", "2"], &file);
        let head = format!("pombo {} listening on http://127.0.0.1:", env!("CARGO_PKG_VERSION"));
        assert!(lines[0].starts_with(&head) && lines[0].ends_with(" (2 shards)"), "{lines:?}");
        assert!(!lines[0].contains(":0 "), "the port is the real one: {lines:?}");
        assert!(lines[1].starts_with("try: open http://127.0.0.1:"), "{lines:?}");
        assert!(lines[1].ends_with(" alice"), "{lines:?}");
        node.signal(signal);
        assert_eq!(node.wait(), Some(0));
    }
}

#[test]
fn a_node_that_anybody_can_reach_must_be_told_so() {
    let open = ["--listen", "0.0.0.0:0"];
    let output = output(&open, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in ["error: listen = 0.0.0.0:0 (from --listen): ", "auth = none", "--insecure-open"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!((stderr.lines().count(), output.stdout.len()), (1, 0), "{stderr}");

    let directory = TempDir::new().expect("a temporary directory");
    let file = settings(&directory, "");
    // The flag alone means yes, in front of another flag, too.
    let (mut node, lines) = Node::start(&["--insecure-open", "--listen", "0.0.0.0:0"], &file);
    assert!(lines[0].contains(" listening on ") && lines[0].contains("http://0.0.0.0:"), "{lines:?}");
    let mut log = BufReader::new(node.0.stderr.take().expect("stderr is a pipe"));
    let line = Node::logged(&mut log, "log in as anybody");
    assert!(line.contains("WARN"), "{line}");
    node.signal(Signal::TERM);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn sighup_takes_what_can_change_and_keeps_the_old_settings_on_a_fault() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = settings(&directory, "login_timeout = '3s'");
    let (mut node, _) = Node::start(&["--shards", "1"], &file);
    let mut log = BufReader::new(node.0.stderr.take().expect("stderr is a pipe"));

    settings(&directory, "login_timeout = '4s'\nshards = 3\nmailbox_bytes_max = '2MiB'");
    node.signal(Signal::HUP);
    let line = Node::logged(&mut log, "settings reloaded");
    assert!(line.contains("taken=\"login_timeout\""), "{line}");
    let line = Node::logged(&mut log, "a running node keeps");
    assert!(line.contains("needs_restart=\"mailbox_bytes_max\""), "{line}");

    // Without a change there is no list of changes; it was an empty one.
    settings(&directory, "login_timeout = '4s'");
    node.signal(Signal::HUP);
    let line = Node::logged(&mut log, "settings reloaded");
    assert!(line.contains("INFO") && line.trim_end().ends_with("settings reloaded, nothing changed"), "{line}");

    settings(&directory, "login_timeout = 4\nlog_levle = 'debug'");
    node.signal(Signal::HUP);
    Node::logged(&mut log, "log_levle (from ");
    let line = Node::logged(&mut log, "login_timeout = 4 (from ");
    assert!(line.contains("ERROR") && line.contains("the old ones stay"), "{line}");

    settings(&directory, "login_timeout = '4s'\nmailbox_bytes_max = '2MiB'\nlog_level = 'warn'");
    node.signal(Signal::HUP);
    Node::logged(&mut log, "a running node keeps");
    node.signal(Signal::TERM);
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("logs are text");
    assert!(!rest.contains("INFO"), "the level was taken: {rest}");
    assert_eq!(node.wait(), Some(0));
}
