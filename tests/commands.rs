//! Every command that a document shows is run, or what it needs is there: no reader is the first to try one.
//!
//! A block of `sh` is run line by line in a folder of its own. What stands in it is changed in six ways only: 127.0.0.1
//! becomes a loopback address that nobody else has, so that the ports may stay; port 443 of all addresses, which needs a
//! right, becomes a free one; a server goes to the background, and must end with 0 when it is asked to; a benchmark takes
//! less of everything; a build has the features of this one; paths that the reader has become files here.

#![cfg(target_os = "linux")]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;

use pombo::Listen;
use rustix::process::{Pid, Signal, kill_process};
use support::{Authority, Client, SECRET, eventually, sibling};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that no test can run, by how they begin.
const ELSEWHERE: &[&str] = &[
    // They would change the machine.
    "rustup target add ",
    "sudo ",
    "sysctl ",
    // Needs valgrind, and minutes.
    "scripts/counting",
    // Need a daemon, and images from elsewhere.
    "docker build ",
    "docker compose ",
    "docker run ",
    // Needs a name of the reader's own; `tests/tls.rs` connects in this way.
    "pombo connect wss://chat.example.org ",
];

/// What a benchmark is given instead, by the flag in front.
const LESS: &[(&str, &str)] = &[
    ("-c", "8"),
    ("-s", "0.2"),
    ("-w", "2"),
    ("--active", "8"),
    ("--broadcasts", "20"),
    ("--connecting", "8"),
    ("--fan-out", "2"),
    ("--hold", "0.1"),
    ("--idle", "8"),
    ("--rate", "200"),
    ("--rounds", "1"),
    ("--seconds", "0.2"),
    ("--stay", "0.1"),
    ("--visitors", "2"),
    ("--warmup", "0.1"),
];

/// A folder with what the documents speak of, and an address of its own.
struct Desk {
    folder: TempDir,
    address: Ipv4Addr,
}

/// A server that a line has started.
struct Server(Child);

impl Desk {
    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // By the process, too, as several tests may run at the same time; never 127.0.0.
        let process = 1 + u8::try_from(std::process::id() % 250).expect("less than 250");
        let address = Ipv4Addr::new(127, process, high, low);
        let (desk, authority) = (Self { folder: tempfile::tempdir().expect("a folder"), address }, Authority::new());
        let path = |name: &str| desk.folder.path().join(name);
        symlink(env!("CARGO_BIN_EXE_pombo"), path("pombo")).expect("the folder is writable");
        for profile in ["dist", "release"] {
            let folder = path("target").join(profile);
            fs::create_dir_all(&folder).expect("the folder is writable");
            symlink(env!("CARGO_BIN_EXE_pombo"), folder.join("pombo")).expect("the folder is writable");
        }
        symlink(Path::new(ROOT).join("benches"), path("benches")).expect("the folder is writable");
        fs::write(path("picture.svg"), "<svg/>").expect("the folder is writable");
        // What is piped into pombo there.
        desk.program("make", "echo building; echo built >&2");
        // Few machines have it.
        desk.program("nc", "exec 3<>\"/dev/tcp/$2/$3\"; cat >&3; head -n 1 <&3");
        // As docs/security.md makes them: the authority is not in the chain.
        let (_, certificate, key) = authority.sign(&[&address.to_string()]);
        fs::write(path("chain.pem"), certificate).expect("the folder is writable");
        fs::write(path("key.pem"), key).expect("the folder is writable");
        fs::copy(authority.root_file(), path("ca.pem")).expect("the folder is writable");
        fs::write(path("jwt-secret"), SECRET).expect("the folder is writable");
        desk
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.folder.path().join(name);
        write!(File::create(&path).expect("the folder is writable"), "#!/bin/bash\n{script}\n")
            .expect("it is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// A command of the shell in the folder, where `pombo` is ours.
    fn shell(&self, line: &str) -> Command {
        let folder = self.folder.path();
        let path = std::env::var("PATH").expect("there is one");
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; {line}")]).current_dir(folder);
        command.env("PATH", format!("{}:{path}", folder.display())).env_remove("http_proxy").stdin(Stdio::null());
        command.env("POMBO_LISTEN", format!("{}:1234", self.address));
        command.env("POMBO_LOG_LEVEL", "error");
        command.env("POMBO_CONTROL", format!("{}:1235", self.address));
        command
    }

    /// Starts a server, and waits until it listens where the line says, or where it does by itself.
    #[track_caller]
    fn serve(&self, line: &str) -> Server {
        let port = line.split_whitespace().skip_while(|word| *word != "--listen").nth(1);
        let port: u16 = port.map_or(1234, |listen| listen.rsplit(':').next().expect("a port").parse().expect("a port"));
        let mut command = self.shell(&format!("exec env {line}"));
        let mut server =
            Server(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("there is a shell"));
        eventually(line, || {
            assert!(server.0.try_wait().expect("it is ours").is_none(), "{line}: it has ended");
            TcpStream::connect((self.address, port)).is_ok()
        });
        server
    }

    /// Runs commands of a document; `alice` and `bob` are logged in to a server that none of them starts.
    #[track_caller]
    fn run(&self, commands: &[String]) {
        let lines: Vec<String> = commands.iter().map(|command| self.changed(command)).collect();
        let mut servers: Vec<Server> = Vec::new();
        let is_shown = lines.iter().any(|line| is_server(line));
        if !is_shown {
            // Started by the block before.
            let port = if lines.iter().any(|line| line.contains(":7000")) { 7000 } else { 1234 };
            let address = self.address;
            servers.push(self.serve(&format!("pombo --listen {address}:{port} --text {address}:5678")));
        }
        for line in lines {
            if is_server(&line) {
                servers.push(self.serve(&line));
                continue;
            }
            let pid = servers.last().map_or(String::new(), |server| server.0.id().to_string());
            let listen = Listen::Tcp((self.address, 1234).into());
            let _users = (!is_shown && !line.contains("bench")).then(|| {
                ["alice", "bob"].map(|uid| {
                    let mut client = Client::dial(&listen).upgraded();
                    client.log_in(uid);
                    client
                })
            });
            let output = self.shell(&line.replace("$!", &pid)).output().expect("there is a shell");
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{line}: {}: {}", output.status, String::from_utf8_lossy(&said));
        }
        servers.into_iter().for_each(Server::end);
    }

    /// The line as it is run here.
    fn changed(&self, line: &str) -> String {
        let line =
            line.replace("cargo run --release -p pombo-bench -- ", "pombo bench ").replace(" --features top", "");
        let line = line.strip_prefix("cargo run --release -- ").map_or(line.to_owned(), |rest| format!("pombo {rest}"));
        let line = line.strip_prefix("cargo run --release").map_or(line.clone(), |rest| format!("pombo{rest}"));
        let line = line.replace(" --features opentelemetry", "");
        // The cores are those that there are.
        let line = line.replace("taskset -c 0 ", "").replace("taskset -c 1 ", "").replace("/etc/pombo/", "");
        let line = if line.contains("0.0.0.0:443") {
            // The address stays: a node asks who may log in only where other machines reach it.
            let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|listener| listener.local_addr());
            line.replace("0.0.0.0:443", &free.expect("a free port").to_string())
        } else {
            line
        };
        let line = line.replace("127.0.0.1:{port}", "{itself}");
        let line = line.replace("\"$(pgrep -ox pombo)\"", "$!").replace("127.0.0.1", &self.address.to_string());
        let line = line.replace("{itself}", "127.0.0.1:{port}");
        let Some((front, bench)) = line.split_once("pombo bench ") else { return line };
        let is_here = bench.starts_with("compare") || bench.contains("--in-process") || bench.contains("127.");
        let server = if is_here { String::new() } else { format!(" {}:1234", self.address) };
        let mut short = vec![" --seconds 0.2", " --warmup 0.1"];
        match bench.split_whitespace().next() {
            Some("connect") => short.clear(),
            Some("compare") => short.extend([" --rounds 1", " --scenario 'connect -c 8'"]),
            _ => {}
        }
        short.retain(|flag| {
            let name = flag.split_whitespace().next().expect("a flag has a name");
            let is_said = bench.contains(name) || name == "--seconds" && bench.contains(" -s ");
            !is_said
        });
        format!("{front}pombo bench {}{server}{}", less(bench), short.concat())
    }
}

impl Server {
    /// Asks it to end, which it must do well.
    #[track_caller]
    fn end(mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process has an id");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = self.0.wait().expect("it is ours");
        assert!(status.success(), "a server has ended with {status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether a line starts a server.
fn is_server(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| word.contains('='));
    let is_pombo = words.next().is_some_and(|program| program.ends_with("pombo"));
    is_pombo && words.next().is_none_or(|word| word == "serve" || word.starts_with("--"))
}

/// The commands of a block: continued lines joined, without comments, and without what sends them to the background.
fn lines(block: &str) -> Vec<String> {
    let block = block.replace("\\\n", " ").replace("|\n", "| ");
    let lines = block.lines().map(|line| line.split(" # ").next().unwrap_or(line).trim().trim_end_matches('&').trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A benchmark's arguments, with less of everything.
fn less(arguments: &str) -> String {
    let mut flag = "";
    let words = arguments.split(' ').map(|word| {
        let before = std::mem::replace(&mut flag, word);
        let less = LESS.iter().find(|(name, _)| *name == before);
        let end = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        less.map_or(word.to_owned(), |(_, value)| format!("{value}{end}"))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A newcomer has a clone and what cargo has built in it: there is no `pombo` on the PATH.
#[test]
fn the_readme_names_programs_where_a_build_puts_them() {
    let blocks = blocks().into_iter().filter(|(document, _)| document == "README.md");
    let lines: Vec<String> = blocks.flat_map(|(_, block)| lines(&block)).collect();
    assert!(lines.len() >= 8, "{} commands were found", lines.len());
    for line in lines {
        for command in line.split('|') {
            let program = command.split_whitespace().find(|word| !word.contains('='));
            assert!(!matches!(program, Some("pombo" | "pombo-bench")), "{line}: cargo does not put it on the PATH");
        }
    }
}

#[test]
fn every_curl_takes_what_a_document_gives_it() {
    let mut count = 0;
    for (document, block) in blocks() {
        for line in lines(&block).iter().filter(|line| line.contains("curl ")) {
            count += 1;
            // Of curl 7.82 and 7.76; Debian 11 has 7.74, and Ubuntu 22.04 has 7.81.
            for young in ["--json", "--fail-with-body"] {
                assert!(!line.contains(young), "{document}: {line}: older curls do not know {young}");
            }
        }
    }
    assert!(count >= 8, "{count} commands with curl were found");
}

/// Every block of `sh`, with its document.
fn blocks() -> Vec<(String, String)> {
    let mut documents = vec!["README.md".to_owned(), "fuzz/README.md".to_owned(), "benches/peers/README.md".to_owned()];
    for entry in fs::read_dir(Path::new(ROOT).join("docs")).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("names are UTF-8");
        documents.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    documents.sort_unstable();
    let mut blocks = Vec::new();
    for document in documents {
        let text = fs::read_to_string(Path::new(ROOT).join(&document)).expect("documents are UTF-8");
        for block in text.split("```sh\n").skip(1) {
            blocks.push((document.clone(), block.split("```").next().expect("a block ends").to_owned()));
        }
    }
    blocks
}

/// Whether a line is of cargo or of a script of ours, whose work is a test or a figure itself. What it names must be there.
#[track_caller]
fn is_there(document: &str, line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
    let root = Path::new(ROOT);
    let exists = |path: String| assert!(root.join(&path).exists(), "{document}: {line}: there is no {path}");
    if ELSEWHERE.iter().any(|begin| line.starts_with(begin)) {
        return true;
    }
    match words[..] {
        ["cargo", "test" | "bench" | "run" | "build" | "install", ..] => {
            for pair in words.windows(2) {
                match *pair {
                    ["--test", name] => exists(format!("tests/{name}.rs")),
                    ["--bench", name] => exists(format!("benches/{name}.rs")),
                    ["--example", name] => exists(format!("examples/{name}.rs")),
                    ["-p", name] => exists(format!("crates/{name}/Cargo.toml")),
                    ["--features", name] => {
                        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("it is there");
                        assert!(manifest.contains(&format!("\n{name} = [")), "{document}: {line}: no such feature");
                    }
                    _ => {}
                }
            }
            words[1] != "run" || words.contains(&"--example")
        }
        [program, ..] if program.starts_with("scripts/") || program == "fuzz/run" => {
            let mode = fs::metadata(root.join(program)).expect("the script is there").permissions().mode();
            assert!(mode & 0o111 != 0, "{document}: {line}: it can't be run");
            let gate = fs::read_to_string(root.join(".ci/run")).expect("the gate is there");
            assert!(gate.contains(program), "{document}: {line}: nobody runs {program}");
            true
        }
        _ => false,
    }
}

#[test]
fn every_command_that_a_document_shows_can_be_run() {
    let has_bench = sibling(env!("CARGO_BIN_EXE_pombo"), "pombo-bench").is_some();
    let blocks: Vec<Vec<String>> = blocks()
        .into_iter()
        .map(|(document, block)| lines(&block).into_iter().filter(|line| !is_there(&document, line)).collect())
        .filter(|block: &Vec<String>| !block.is_empty())
        .filter(|block| has_bench || !block.iter().any(|line| line.contains("bench")))
        .collect();
    let count: usize = blocks.iter().map(Vec::len).sum();
    assert!(count >= if has_bench { 40 } else { 20 }, "{count} commands were found");
    // Most of the time is waiting.
    let next = AtomicUsize::new(0);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    Desk::new().run(block);
                }
            });
        }
    });
}
