//! Attacks a node, and measures the effect on other clients: `cargo bench --bench attacks [-- NAME …]`.
//!
//! ```text
//!   this process ──attacks──▶ pombo ◀── canaries, a process of their own
//!        └───────── reads /proc ┘
//! ```
//! Prints a table, the findings of each attack, and a verdict; the exit code is 1 if an expectation was not met. The node has
//! two shards, short time-outs, and otherwise the default settings. `--against ADDRESS --seconds N` attacks a node
//! that runs already, in rounds of a minute with a pause at their end: for `scripts/soak`.

#[allow(dead_code, reason = "the fast tests use the rest of it")]
#[path = "attacks/mod.rs"]
mod attacks;
#[path = "../tests/support/mod.rs"]
mod support;

use std::env;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use attacks::attack::{ALL, Attack, Field, Notes, Scale};
use attacks::canary::{self, Findings};
use attacks::node::Node;
use attacks::vitals::Course;
use pombo::Listen;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Authority;
use tokio::sync::oneshot;

/// Most growth of a node's private memory from before an attack to after it.
const SLACK: u64 = 32 << 20;

/// Longest latency of 99 of 100 messages between other clients, during any attack.
const OTHERS_P99_MS: f64 = 50.0;

/// How long the canaries write to each other before an attack begins, and when it is over.
const AROUND: Duration = Duration::from_millis(500);

/// A round of attacks on a node that runs already: so long, and the rest of a minute nothing.
const ROUND: Duration = Duration::from_secs(40);
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    raise_descriptor_limit();
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--canaries", listen] => canaries(listen),
        ["--against", address, "--seconds", seconds] => against(address, seconds),
        _ => attack(&words),
    }
}

/// Each attack whose name contains one of `names`, or all.
fn attack(names: &[&str]) -> ExitCode {
    let seed = seed();
    let authority = Authority::new();
    let (mut plain, mut secure) = (Node::start(None), Node::start(Some(&authority)));
    say(&format!("seed {seed}, set ATTACK_SEED to have it again; MiB unless another unit is named"));
    say(&Row::HEAD.join(" | "));
    let mut faults = Vec::new();
    let chosen = |attack: &&Attack| names.is_empty() || names.iter().any(|name| attack.name.contains(name));
    for attack in ALL.iter().filter(chosen) {
        let node = if attack.is_tls { &mut secure } else { &mut plain };
        let root = attack.is_tls.then(|| authority.root_file());
        let field = Field { address: node.address, root, scale: Scale::FULL, seed };
        let row = Row::of(attack, &field, node);
        say(&row.cells().join(" | "));
        say(&format!("    {}", row.notes.seen.join(", ")));
        let missed = row.missed(node.is_alive(), &node.log());
        for fault in &missed {
            say(&format!("    MISSED: {fault}"));
        }
        faults.extend(missed);
    }
    for (name, node) in [("the plain node", plain), ("the node with TLS", secure)] {
        if node.drain() != Some(0) {
            faults.push(format!("{name} did not drain"));
        }
    }
    say(&if faults.is_empty() { "all held".to_owned() } else { format!("{} MISSED", faults.len()) });
    ExitCode::from(u8::from(!faults.is_empty()))
}

/// One attack, and its result.
struct Row<'a> {
    attack: &'a Attack,
    notes: Notes,
    others: Findings,
    course: Course,
}

impl<'a> Row<'a> {
    const HEAD: [&'static str; 9] = [
        "attack",
        "private before, peak, after",
        "PSS peak",
        "kernel TCP before, peak",
        "descriptors before, peak, after",
        "CPU s",
        "back after s",
        "others p50, p99, max ms",
        "due, lost, doubled",
    ];

    fn of(attack: &'a Attack, field: &Field, node: &Node) -> Self {
        let canaries = Canaries::start(&node.canaries);
        thread::sleep(AROUND);
        let mut notes = Notes::default();
        let ((), course) = node.process().watch(SLACK, || (attack.run)(field, &mut notes));
        thread::sleep(AROUND);
        Self { attack, notes, others: canaries.stop(), course }
    }

    fn cells(&self) -> Vec<String> {
        let Course { before, peak, after, recovery } = self.course;
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let Findings { due, lost, doubled, p50_ms, p99_ms, max_ms, .. } = &self.others;
        vec![
            self.attack.name.to_owned(),
            [before.private, peak.private, after.private].map(mib).join(", "),
            mib(peak.pss),
            [before.kernel, peak.kernel].map(mib).join(", "),
            [before.descriptors, peak.descriptors, after.descriptors].map(|count| count.to_string()).join(", "),
            format!("{:.1}", (after.cpu - before.cpu).as_secs_f64()),
            recovery.map_or("never".to_owned(), |time| format!("{:.1}", time.as_secs_f64())),
            format!("{p50_ms:.1}, {p99_ms:.1}, {max_ms:.1}"),
            format!("{due}, {lost}, {doubled}"),
        ]
    }

    /// The expectations that were not met.
    fn missed(&self, is_alive: bool, log: &str) -> Vec<String> {
        let mut missed = self.notes.faults.clone();
        let Course { before, peak, recovery, .. } = self.course;
        let growth = peak.private.saturating_sub(before.private);
        if let Some(max) = self.attack.growth_max.filter(|max| growth > max << 20) {
            missed.push(format!("memory grew by {} KiB, expected at most {max} MiB", growth >> 10));
        }
        if recovery.is_none() {
            missed.push("memory or descriptors did not come back".to_owned());
        }
        if !self.others.is_well() {
            missed.push(format!("others noticed: {:?}", self.others));
        }
        if self.others.p99_ms > OTHERS_P99_MS {
            missed.push(format!("others' p99 was {} ms, expected at most {OTHERS_P99_MS} ms", self.others.p99_ms));
        }
        if !is_alive {
            missed.push("the node has ended".to_owned());
        }
        if log.contains("panicked") {
            missed.push("the node's log shows a panic".to_owned());
        }
        missed.iter().map(|fault| format!("{}: {fault}", self.attack.name)).collect()
    }
}

/// The canaries' process.
struct Canaries(Child);

impl Canaries {
    /// Starts it, and waits until they are there.
    fn start(listen: &Listen) -> Self {
        let mut command = Command::new(env::current_exe().expect("a process has a program"));
        command.args(["--canaries", &listen.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts again");
        let stdout = child.stdout.as_mut().expect("stdout is a pipe");
        stdout.read_exact(&mut [0]).expect("the canaries say that they are there");
        Self(child)
    }

    /// Ends its input, and takes what they have found.
    fn stop(mut self) -> Findings {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().expect("the child is ours");
        serde_json::from_slice(&output.stdout).expect("the canaries report what they have found")
    }
}

/// The other process: canaries until the end of the input.
fn canaries(listen: &str) -> ExitCode {
    let (sender, stop) = oneshot::channel::<()>();
    thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        drop(sender);
    });
    let listen = listen.parse().expect("an address to listen on");
    let findings = canary::run(&listen, || say(""), async { _ = stop.await });
    say(&serde_json::to_string(&findings).expect("findings are plain"));
    ExitCode::SUCCESS
}

/// Attacks a node that runs already, as long as the arguments say: those whose messages reach nobody else.
fn against(address: &str, seconds: &str) -> ExitCode {
    let address: SocketAddr = address.parse().expect("an address, such as 127.0.0.1:1234");
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("seconds"));
    let scale = Scale { storm: 1000, patient: 200, noise: 50, flood: Duration::from_secs(1), ..Scale::FULL };
    let mut seed = seed();
    let mut attacks = ALL.iter().filter(|attack| !attack.is_tls && !attack.is_heard).cycle();
    let (mut count, mut faults) = (0, 0);
    while Instant::now() < end {
        let minute = Instant::now();
        while minute.elapsed() < ROUND && Instant::now() < end {
            seed += 1;
            let field = Field { address, root: None, scale, seed };
            let attack = attacks.next().expect("it goes round");
            let mut notes = Notes::default();
            (attack.run)(&field, &mut notes);
            for fault in &notes.faults {
                say(&format!("attack with seed {seed}: {}: {fault}", attack.name));
            }
            (count, faults) = (count + 1, faults + notes.faults.len());
        }
        thread::sleep(MINUTE.saturating_sub(minute.elapsed()).min(end.saturating_duration_since(Instant::now())));
    }
    say(&format!("{count} attacks, {faults} faults"));
    ExitCode::from(u8::from(faults > 0))
}

fn seed() -> u64 {
    let given = env::var("ATTACK_SEED").ok();
    let drawn = || std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
    given.map_or_else(drawn, |seed| seed.parse().expect("ATTACK_SEED is a number"))
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the output can be written");
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("up to the maximum");
}
