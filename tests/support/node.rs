//! A node inside the test's process, and the shapes of it that every test runs with.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use pombo::message::{Delivery, Kind};
use pombo::{Config, ControlAddresses, Cursor, Handle, Listen, Server, Stats, Uids};
use tokio::time::timeout;

use super::client::Client;
use super::patience::{DEADLINE, eventually};

/// Shards of a node that has several: more than the pairs of a test, and no power of two.
const SEVERAL: usize = 3;

/// A running node on a port of the kernel's choice; drained when dropped.
pub(crate) struct Node {
    handle: Handle,
    address: Listen,
    control_addresses: ControlAddresses,
    config: Config,
    shard_count: usize,
    /// What a failed test prints, since its panic does not tell in which shape it ran.
    shape: String,
}

/// The nodes that a test runs with, one after the other.
pub(crate) struct Nodes<'a> {
    change: Box<dyn Fn(&mut Config) + 'a>,
}

/// Where the second user of a pair lives.
#[derive(Clone, Copy, Debug)]
enum Neighbour {
    SameShard,
    OtherShard,
}

/// Nodes with default settings, but for what would disturb a test: they send no pings and drain at once.
pub(crate) fn nodes<'a>() -> Nodes<'a> {
    nodes_with(|_| {})
}

fn nodes_with<'a>(change: impl Fn(&mut Config) + 'a) -> Nodes<'a> {
    Nodes { change: Box::new(change) }
}

impl<'a> Nodes<'a> {
    /// With settings changed.
    pub(crate) fn with(self, change: impl Fn(&mut Config) + 'a) -> Self {
        nodes_with(move |config| {
            (self.change)(config);
            change(config);
        })
    }

    /// With a control listener on a port of the kernel's choice.
    pub(crate) fn with_control(self) -> Self {
        self.with(|config| config.control = Some("127.0.0.1:0".parse().expect("an address")))
    }

    /// Runs `body` with a node of one shard, and with a node of several.
    pub(crate) fn each(&self, body: impl Fn(&Node)) {
        for shard_count in [1, SEVERAL] {
            body(&self.start(shard_count));
        }
    }

    /// Runs `body` with two uids: on a node of one shard; of several, both on the same; and each on its own.
    pub(crate) fn each_pair(&self, body: impl Fn(&Node, &str, &str)) {
        let shapes = [(1, Neighbour::SameShard), (SEVERAL, Neighbour::SameShard), (SEVERAL, Neighbour::OtherShard)];
        for (shard_count, neighbour) in shapes {
            let mut node = self.start(shard_count);
            node.shape += &format!(", {neighbour:?}");
            let alice = node.uid_on(0, "alice");
            let bob = node.uid_on(matches!(neighbour, Neighbour::OtherShard).into(), "bob");
            body(&node, &alice, &bob);
        }
    }

    /// Starts one node.
    pub(crate) fn start(&self, shard_count: usize) -> Node {
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            shards: NonZeroUsize::new(shard_count).expect("at least one shard"),
            gateway_threads: NonZeroUsize::MIN,
            // Its port is the same for all nodes of a machine.
            control: None,
            heartbeat_interval: Duration::from_secs(3600),
            drain_timeout: Duration::ZERO,
            // Some listen on every address; who may log in is another test's matter.
            insecure_open: true,
            ..Config::default()
        };
        (self.change)(&mut config);
        let server = Server::bind(config.clone()).unwrap_or_else(|error| panic!("{error}"));
        let address = server.addresses()[0].clone();
        let control_addresses = server.control_addresses().clone();
        let handle = server.start().unwrap_or_else(|error| panic!("{error}"));
        Node { handle, address, control_addresses, config, shard_count, shape: format!("{shard_count} shards") }
    }
}

/// Clients.
impl Node {
    /// Connects and says nothing.
    #[track_caller]
    pub(crate) fn dial(&self) -> Client {
        Client::dial(&self.address)
    }

    /// Connects and upgrades.
    #[track_caller]
    pub(crate) fn connect(&self) -> Client {
        self.dial().upgraded()
    }

    /// Connects, upgrades and logs in.
    #[track_caller]
    pub(crate) fn log_in(&self, uid: &str) -> Client {
        let mut client = self.connect();
        client.log_in(uid);
        client
    }

    /// Logs in with little room for what it does not read: a few kilobytes, since less makes TCP crawl.
    #[track_caller]
    pub(crate) fn log_in_with_small_buffer(&self, uid: &str) -> Client {
        let mut client = Client::dial_with_receive_buffer(self.socket_address(), 8 << 10).upgraded();
        client.log_in(uid);
        client
    }

    pub(crate) fn address(&self) -> &Listen {
        &self.address
    }

    /// Where other programs reach it, as far as the test's config says.
    pub(crate) fn control_addresses(&self) -> &ControlAddresses {
        &self.control_addresses
    }

    #[track_caller]
    pub(crate) fn socket_address(&self) -> SocketAddr {
        match &self.address {
            Listen::Tcp(address) => *address,
            Listen::Unix(_) | Listen::Abstract(_) => panic!("{} has no port", self.address),
        }
    }
}

/// Shards.
impl Node {
    pub(crate) fn shard_count(&self) -> usize {
        self.shard_count
    }

    /// A uid that `shard` owns (modulo the shards there are): `name`, or `name` with a number behind it.
    pub(crate) fn uid_on(&self, shard: usize, name: &str) -> String {
        let shard = shard % self.shard_count;
        let numbered = (2..).map(|number| format!("{name}{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|uid| self.handle.shard_of(uid) == shard).expect("every shard owns some uid")
    }

    /// This many uids, spread evenly over the shards.
    pub(crate) fn uids(&self, count: usize) -> Vec<String> {
        (0..count).map(|index| self.uid_on(index, &format!("user{index}-"))).collect()
    }
}

/// The handle, without its futures.
impl Node {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    #[track_caller]
    pub(crate) fn push(&self, uid: &str, kind: Kind, payload: impl Into<Bytes>) -> Delivery {
        wait_for(self.handle.push(uid, kind, payload)).expect("a push ends")
    }

    #[track_caller]
    pub(crate) fn broadcast(&self, kind: Kind, payload: impl Into<Bytes>) -> usize {
        wait_for(self.handle.broadcast(kind, payload)).expect("a broadcast ends")
    }

    /// Runs any other call of the handle.
    #[track_caller]
    pub(crate) fn wait_for<F: Future>(&self, call: F) -> F::Output {
        wait_for(call).expect("a call ends")
    }

    #[track_caller]
    pub(crate) fn page(&self, cursor: Cursor, most: usize) -> Uids {
        wait_for(self.handle.uids(cursor, most)).expect("the shards tell their uids")
    }

    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        wait_for(self.handle.stats()).expect("the shards tell their counts")
    }

    /// Waits until the node has counted what `condition` asks for.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, condition: impl Fn(&Stats) -> bool) -> Stats {
        let mut stats = self.stats();
        eventually(what, || {
            stats = self.stats();
            condition(&stats)
        });
        stats
    }

    /// How often each reason to refuse was, those that were.
    pub(crate) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let counted = self.handle.refusals().filter(|(_, count)| *count > 0);
        counted.map(|(reason, count)| (reason.name(), count)).collect()
    }

    /// Waits until exactly these reasons have been counted, this often.
    #[track_caller]
    pub(crate) fn expect_refusals(&self, expected: &[(&'static str, u64)]) {
        eventually(&format!("{expected:?} are counted"), || self.refusals() == expected);
    }

    /// Changes settings of the running node; what is sent from now on meets them.
    #[track_caller]
    pub(crate) fn reload(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.config.clone();
        change(&mut config);
        self.handle.reload(&config);
        // The shards answer in order, so they have taken the settings by now.
        self.stats();
    }

    #[track_caller]
    pub(crate) fn drain(&self) {
        wait_for(self.handle.drain()).expect("a drain ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            writeln!(io::stderr(), "the failed test ran with {}", self.shape).ok();
        } else {
            self.drain();
        }
    }
}

/// Runs a future of the handle's; `None` when it is not done at the deadline.
fn wait_for<F: Future>(future: F) -> Option<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async { timeout(DEADLINE, future).await.ok() })
}
