//! A server under comparison: its command line, its process, and the certainty of its end.
//!
//! Each server is the leader of a process group, so that its children end with it, even if a shell is in between. A separate
//! thread waits for SIGINT, SIGTERM and SIGHUP; then it kills all groups, reaps their leaders and ends the process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use super::super::BenchError;
use super::affinity::{Cores, pin};

/// The placeholder for the port in a command.
const PORT: &str = "{port}";

/// Time between two attempts to reach a server that starts.
const LOOK: Duration = Duration::from_millis(20);

/// A server's name and command.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct PeerCommand {
    pub(super) name: String,
    /// For the shell, with `{port}` in it.
    pub(super) command: String,
}

impl FromStr for PeerCommand {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, command) = text.split_once('=').ok_or("expected NAME=COMMAND")?;
        if name.is_empty() || name.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
            return Err("expected a name without spaces in front of =");
        }
        if !command.contains(PORT) {
            return Err("expected {port} in the command");
        }
        Ok(Self { name: name.to_owned(), command: command.to_owned() })
    }
}

/// Process groups that must not outlive this process.
#[derive(Clone, Default)]
struct Groups(Arc<Mutex<Vec<Pid>>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, Vec<Pid>> {
        // A list of numbers is sound wherever a panic came.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills every group when a signal ends this process.
    fn end_with_us(&self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let groups = self.clone();
        let mut signals = {
            let _context = runtime.enter();
            [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]
        };
        thread::Builder::new().name("compare-signals".into()).spawn(move || {
            let [interrupt, terminate, hangup] = &mut signals;
            let number = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => 2,
                    _ = terminate.recv() => 15,
                    _ = hangup.recv() => 1,
                }
            });
            // Kept until the end: nothing is started any more.
            let groups = groups.lock();
            for group in groups.iter() {
                // One that has ended needs no signal.
                let _ = kill_process_group(*group, Signal::KILL);
                let _ = waitpid(Some(*group), WaitOptions::empty());
            }
            std::process::exit(128 + number);
        })?;
        Ok(())
    }
}

/// Starts servers on their cores.
pub(super) struct Launcher {
    server_cores: Cores,
    generator_core: Cores,
    patience: Duration,
    groups: Groups,
}

impl Launcher {
    /// Keeps the calling thread on `generator_core` and everything that it will start on `server_cores`.
    pub(super) fn new(server_cores: Cores, generator_core: Cores, patience: Duration) -> Result<Self, BenchError> {
        pin(&server_cores)?;
        pin(&generator_core)?;
        let groups = Groups::default();
        groups.end_with_us().map_err(|error| BenchError::Arguments(format!("cannot wait for signals: {error}")))?;
        Ok(Self { server_cores, generator_core, patience, groups })
    }

    /// Starts a server, and waits until it accepts connections.
    ///
    /// # Errors
    /// When it can't be started, ends at once, or does not accept for too long.
    pub(super) fn start(&self, command: &PeerCommand) -> Result<Peer, BenchError> {
        let failed = |why: String| BenchError::Start { server: command.name.clone(), why };
        let address = free_address().map_err(|error| failed(error.to_string()))?;
        let line = command.command.replace(PORT, &address.port().to_string());
        // A process inherits the cores of the thread that starts it.
        pin(&self.server_cores)?;
        let peer = self.spawn(&line, address);
        pin(&self.generator_core)?;
        let mut peer = peer.map_err(|error| failed(error.to_string()))?;
        let end = Instant::now() + self.patience;
        loop {
            if let Some(status) = peer.ended() {
                return Err(failed(format!("it ended with {status}")));
            }
            if TcpStream::connect_timeout(&address, LOOK).is_ok() {
                return Ok(peer);
            }
            if Instant::now() >= end {
                return Err(failed(format!("it accepts no connection on {address} for {:?}", self.patience)));
            }
            thread::sleep(LOOK);
        }
    }

    fn spawn(&self, line: &str, address: SocketAddr) -> std::io::Result<Peer> {
        let mut command = Command::new("/bin/sh");
        // A server's stdout is dropped, so that it doesn't mix with the results; its stderr is shown to the user.
        command.arg("-c").arg(line).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut groups = self.groups.lock();
        let child = command.spawn()?;
        groups.push(Pid::from_child(&child));
        drop(groups);
        Ok(Peer { child, address, groups: self.groups.clone() })
    }
}

/// A server that runs; killed and reaped when dropped.
pub(super) struct Peer {
    child: Child,
    pub(super) address: SocketAddr,
    groups: Groups,
}

impl Peer {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives itself back, unless it has ended.
    pub(super) fn still_running(mut self) -> Option<Self> {
        self.ended().is_none().then_some(self)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // Children may outlive the leader. The group's number is not reused before the whole group has gone.
        let _ = kill_process_group(group, Signal::KILL);
        self.groups.lock().retain(|other| *other != group);
        let _ = self.child.wait();
    }
}

/// An address on loopback that nobody uses at present.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), &str>) {
        let parsed = text.parse::<PeerCommand>();
        let parsed = parsed.as_ref().map(|peer| (peer.name.as_str(), peer.command.as_str())).map_err(|error| *error);
        assert_eq!(parsed, expected, "{text:?}");
    }

    #[test]
    fn names_and_commands() {
        check("a=x {port}", Ok(("a", "x {port}")));
        check("a=B=1 x --p={port}", Ok(("a", "B=1 x --p={port}")));
        check("x {port}", Err("expected NAME=COMMAND"));
        check("=x {port}", Err("expected a name without spaces in front of ="));
        check("a b=x {port}", Err("expected a name without spaces in front of ="));
        check("a=x", Err("expected {port} in the command"));
    }
}
