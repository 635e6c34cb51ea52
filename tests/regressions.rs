//! Every fixed bug's test, named for it, with a line on what went wrong.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pombo::message::{Delivery, Kind};
use support::{Node, Sent, nodes};

/// Enough that what they send at once is more than a turn may take in.
const FLOODERS: usize = 24;

/// Connections of one shard that send as fast as they can, to nobody, until dropped.
struct Flood {
    is_over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    fn begin(node: &Node, shard: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let nobody = node.uid_on(shard, "n");
        let frames = Sent::text(format!("{nobody}:")).bytes().repeat(32 << 10);
        let flood = |index| {
            let mut client = node.log_in(&node.uid_on(shard, &format!("flooder{index}-")));
            let (is_over, frames) = (Arc::clone(&is_over), frames.clone());
            // Relaxed: a flag, nothing else is ordered by it.
            thread::spawn(move || while !is_over.load(Ordering::Relaxed) && client.try_send_bytes(&frames).is_ok() {})
        };
        let threads = (0..FLOODERS).map(flood).collect();
        Self { is_over, threads }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Relaxed, as in `begin`.
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a flooder does not panic");
        }
    }
}

/// What a shard's own connections brought was taken first, up to the turn's whole budget: as long as they
/// flooded, no mail and no request was taken, and SIGTERM was not heard of.
#[test]
fn a_flood_from_a_shard_s_own_connections_starved_its_mail_and_requests() {
    nodes().each(|node| {
        let alice = &node.uid_on(1, "alice");
        let mut alice = node.log_in(alice);
        let bob_uid = &node.uid_on(0, "bob");
        let mut bob = node.log_in(bob_uid);
        let flood = Flood::begin(node, 0);
        for _ in 0..20 {
            alice.send_text(format!("{bob_uid}:hi"));
            bob.expect_text("hi");
            assert_eq!(node.push(bob_uid, Kind::Text, "pushed"), Delivery::Delivered { sessions: 1 });
            bob.expect_text("pushed");
        }
        node.drain();
        drop(flood);
    });
}
