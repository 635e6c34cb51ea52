//! The program as a process of its own, for what concerns a whole process: its log, its descriptors, its CPU time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pombo::Listen;

use super::client::Client;
use super::patience::eventually;

/// A running `pombo serve`, with one shard unless told otherwise; killed when dropped.
pub(crate) struct Program {
    child: Child,
    address: Listen,
    control: Option<Listen>,
    log: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Program {
    /// Starts the program on a free port of loopback, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_pombo")), 1, "127.0.0.1:0", arguments)
    }

    /// Starts it with this many shards.
    #[track_caller]
    pub(crate) fn start_with_shards(shards: usize, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_pombo")), shards, "127.0.0.1:0", arguments)
    }

    /// Starts it where it listens on `listen`.
    #[track_caller]
    pub(crate) fn start_on(listen: &str, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_pombo")), 1, listen, arguments)
    }

    /// Starts it where it may have this many descriptors.
    #[track_caller]
    pub(crate) fn start_with_descriptors(descriptors: usize, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_pombo")]);
        Self::spawn(shell, 1, "127.0.0.1:0", arguments)
    }

    /// Starts it with a control listener, and nothing but these variables.
    #[track_caller]
    pub(crate) fn start_with_control(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_pombo"));
        Self::spawn_with(command, 1, ["127.0.0.1:0"; 2], variables, arguments)
    }

    /// Starts it where it listens on `listen`, with a control listener, and nothing but these variables.
    #[track_caller]
    pub(crate) fn start_on_with_control(listen: &str, variables: &[(&str, &str)]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_pombo"));
        Self::spawn_with(command, 1, [listen, "127.0.0.1:0"], variables, &[])
    }

    #[track_caller]
    fn spawn(command: Command, shards: usize, listen: &str, arguments: &[&str]) -> Self {
        Self::spawn_with(command, shards, [listen, "off"], &[], arguments)
    }

    #[track_caller]
    fn spawn_with(
        mut command: Command,
        shards: usize,
        [listen, control]: [&str; 2],
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let shards = shards.to_string();
        command.args(["--listen", listen, "--shards", &shards, "--gateway-threads", "1", "--page", "off"]);
        if !arguments.contains(&"--control") {
            command.args(["--control", control]);
        }
        command.args(arguments).env_clear().envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("stdout is text");
            line
        };
        let address_in = |line: &str| {
            let address =
                line.split(' ').find_map(|word| word.strip_prefix("http://").or_else(|| word.strip_prefix("https://")));
            address.and_then(|address| address.trim_end_matches(':').parse::<Listen>().ok())
        };
        let first = line();
        let address = address_in(&first);
        let control = if control == "off" {
            None
        } else {
            let _try = line();
            Some(address_in(&line()).expect("it tells where other programs reach it"))
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().expect("stderr is a pipe"), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                lines.lock().expect("no reader panics with it").push(line);
            }
        });
        let address = address.unwrap_or_else(|| panic!("expected an address in {first:?}"));
        Self { child, address, control, log }
    }

    pub(crate) fn address(&self) -> &Listen {
        &self.address
    }

    /// Where other programs reach it.
    pub(crate) fn control(&self) -> &Listen {
        self.control.as_ref().expect("it was started with a control listener")
    }

    #[track_caller]
    pub(crate) fn dial(&self) -> Client {
        Client::dial(&self.address)
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines of its log so far, as bytes.
    pub(crate) fn log(&self) -> Vec<Vec<u8>> {
        self.log.lock().expect("its writer does not panic").clone()
    }

    /// How many lines of its log contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log().iter().filter(|line| String::from_utf8_lossy(line).contains(text)).count()
    }

    /// The sum of the numbers that stand behind `field=` in its log.
    pub(crate) fn logged_sum(&self, field: &str) -> usize {
        let numbers = self.log().into_iter().filter_map(|line| {
            let line = String::from_utf8_lossy(&line).into_owned();
            let (_, rest) = line.split_once(&format!(" {field}="))?;
            rest.split(' ').next()?.parse::<usize>().ok()
        });
        numbers.sum()
    }

    /// Waits until its log has `text`.
    #[track_caller]
    pub(crate) fn expect_logged(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.logged(text) > 0);
    }

    /// How many descriptors below `end` it has open; what it inherited may stand above.
    pub(crate) fn descriptors_below(&self, end: usize) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the program runs");
        let number = |name: std::ffi::OsString| name.to_str().and_then(|name| name.parse::<usize>().ok());
        open.filter_map(|entry| number(entry.ok()?.file_name())).filter(|number| *number < end).count()
    }

    /// For how many descriptors the kernel has room without growing its table (proc(5), `FDSize` of `status`).
    pub(crate) fn descriptor_room(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the program runs");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("proc(5) has it");
        size.trim().parse().expect("a number")
    }

    /// How much CPU time it has used (proc(5), fields 14 and 15 of `stat`).
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the program runs");
        let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
        let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).expect("a hundred")
    }
}

impl Program {
    /// Asks it to end by SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Asks it to read its settings again by SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a process has an id");
        rustix::process::kill_process(pid, signal).expect("the program runs");
    }

    /// Waits until it has ended, and returns its exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("the child is ours");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
