//! The node that is attacked: a process of its own, and what it may be asked from outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use pombo::Listen;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::vitals::Process;
use crate::support::Authority;

/// Times that a node under attack gives its peers: short, so that an attack on them is over soon.
pub(crate) const TIMES: &[&str] = &[
    "--handshake-timeout=2s",
    "--login-timeout=3s",
    "--message-timeout=3s",
    "--heartbeat-interval=2s",
    "--close-timeout=2s",
];

/// A running `pombo serve`; killed when dropped.
pub(crate) struct Node {
    child: Child,
    folder: TempDir,
    /// Where attackers connect.
    pub(crate) address: SocketAddr,
    /// Where the canaries connect: without TLS in any case.
    pub(crate) canaries: Listen,
}

impl Node {
    /// Starts a node that speaks plainly, or TLS with the certificate of `authority`.
    pub(crate) fn start(authority: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the log");
        let log = File::create(folder.path().join("log")).expect("the folder is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
        // Canaries over TLS would measure their own ciphers more than the node.
        let socket = Listen::Unix(folder.path().join("canaries"));
        let listen = format!("127.0.0.1:0,{socket}");
        command.args(["serve", "--page=off", "--control=off", "--listen"]).arg(listen).args(TIMES);
        if let Some(authority) = authority {
            command.arg("--tls-certificate").arg(authority.certificate_file());
            command.arg("--tls-key").arg(authority.key_file());
        }
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| {
                let rest = line.split_once("127.0.0.1:")?.1.to_owned();
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                rest[..digits].parse().ok()
            })
            .map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)))
            .expect("the node says where it listens");
        // What else it says must not fill the pipe.
        thread::spawn(move || lines.for_each(drop));
        let canaries = if authority.is_some() { socket } else { Listen::Tcp(address) };
        Self { child, folder, address, canaries }
    }

    pub(crate) fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Asks it to drain, and returns its exit code.
    pub(crate) fn drain(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process has an id");
        kill_process(pid, Signal::TERM).expect("the child is ours");
        self.child.wait().expect("the child is ours").code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
