//! Thousands at the same time.

#[path = "../../support/load_generator.rs"]
mod load_generator;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load_generator::load_generator;
use serde_json::Value;

use super::{Field, Notes};
use crate::attacks::peer::Peer;

/// A new client is served within this while thousands are reset.
const SERVED_MAX: Duration = Duration::from_millis(50);

/// Those who come back are in within this, and half of them within that.
const BACK_MAX: Duration = Duration::from_millis(1500);
const HALF_BACK_MAX: Duration = Duration::from_millis(300);

/// However many come back, nobody's SYN is lost: it would be sent again after so long.
const NO_SYN_LOST_MAX: Duration = Duration::from_secs(1);

/// All are reset at once; new clients come all the while, and just after.
pub(super) fn resets(field: &Field, notes: &mut Notes) {
    let peers = Peer::log_in_many(field.address, "reset", field.scale.storm).expect("the node takes log-ins");
    let is_over = AtomicBool::new(false);
    let (served, resetting) = thread::scope(|threads| {
        let newcomers = threads.spawn(|| {
            let mut served = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                Peer::log_in(field.address, "newcomer").expect("the node takes log-ins");
                served.push(begun.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            served
        });
        let begun = Instant::now();
        peers.into_iter().for_each(Peer::reset);
        let resetting = begun.elapsed();
        thread::sleep(Duration::from_millis(300));
        is_over.store(true, Ordering::SeqCst);
        (newcomers.join().expect("newcomers are served"), resetting)
    });
    notes.see(format!("{} resets in {} ms", field.scale.storm, resetting.as_millis()));
    let longest = served.iter().max().copied().unwrap_or_default();
    notes.bound("a newcomer is served within", longest, bound(field, SERVED_MAX));
}

fn bound(field: &Field, max: Duration) -> Duration {
    if field.scale.is_timed { max } else { Duration::MAX }
}

pub(super) fn half_comes_back(field: &Field, notes: &mut Notes) {
    come_back(field, notes, field.scale.storm / 2, BACK_MAX, HALF_BACK_MAX);
}

/// Half as many again: more than the backlog holds, and more than an address has ports for twice.
pub(super) fn all_come_back(field: &Field, notes: &mut Notes) {
    come_back(field, notes, field.scale.storm * 3 / 2, NO_SYN_LOST_MAX, NO_SYN_LOST_MAX);
}

/// Logs in so many, lets all of them go, and has all of them come back at the same moment.
fn come_back(field: &Field, notes: &mut Notes, count: usize, all_max: Duration, half_max: Duration) {
    for (what, connecting) in [("first", 256), ("back", count)] {
        let mut bench = Command::new(load_generator());
        bench.args(["connect", "--json", "--prefix", "back-", "-c", &count.to_string()]);
        bench.args(["--connecting", &connecting.to_string(), &field.address.to_string()]);
        let output = bench.output().expect("the program starts");
        let report: Value = match serde_json::from_slice(&output.stdout) {
            Ok(report) if output.status.success() => report,
            _ => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                return notes.faults.push(format!("{what}: {} {why}", output.status));
            }
        };
        if what == "first" {
            continue;
        }
        let logins = &report["logins"];
        let seconds = |value: &Value| Duration::from_secs_f64(value.as_f64().unwrap_or(f64::MAX).min(1e9));
        let (all, half) = (seconds(&logins["seconds"]), seconds(&logins["latency"]["p50_us"]) / 1_000_000);
        notes.bound(&format!("{count} are back within"), all, bound(field, all_max));
        notes.bound("half of the log-ins take at most", half, bound(field, half_max));
    }
}
