//! A simulation: whole shards on a simulated network and clock, with faults that follow from a seed.
//!
//! A run makes a node of one to three shards on one thread; only their sockets and their clock are not real. A seed
//! decides bounds and policies, and then a thousand steps: a client sends, the network delivers a part of that, a shard
//! runs a turn, a socket takes a few bytes, time jumps, a client vanishes, a caller kicks, asks, reloads, drains. After
//! every turn the state of the shard is compared with its clients; a client checks every byte that it gets; at the end
//! the counts must account for every message. See `docs/reliability.md`.
//!
//! A failure prints its seed: `POMBO_SEED=17 cargo test --lib simulation` runs that seed again. `200..1000` runs
//! several. Seeds that once failed are kept in `seeds.txt`, and run first.

mod caller;
mod judge;
mod message;
mod network;
mod peer;
mod plan;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use self::world::World;
use crate::metrics::Stats;

/// Steps of a run, before its end.
const STEPS: usize = 1000;

/// Number of seeds of a full simulation, and of a short one.
const SEEDS: u64 = 10_000;
const SEEDS_FEW: u64 = 200;

/// Seeds that once failed, one a line.
const ONCE_FAILED: &str = include_str!("seeds.txt");

/// Counters that must not be zero after many runs: otherwise the runs would not test these cases.
const MUST_HAPPEN: &[&str] = &[
    "replaced",
    "refused",
    "delivered",
    "offline",
    "broadcasts",
    "invalid",
    "forbidden_unicasts",
    "forbidden_broadcasts",
    "shed_newest",
    "shed_oldest",
    "shed_closed",
    "slow_consumers",
    "violations",
    "timeouts",
    "rate_pauses",
    "rate_limited",
    "memory_cuts",
    "expired",
    "kicked",
    "answers_dropped",
    "mail_letters",
    "sends_refused",
    "closed_by_peer",
    "lost",
    "mail_stalls",
];

/// Runs one seed to its end; returns the counters of the node.
fn run(seed: u64) -> Stats {
    let mut world = World::new(seed);
    let drain_at = if world.plan.drains_early { STEPS - world.random.usize(..STEPS / 5) } else { STEPS };
    for step in 0..STEPS {
        if step == drain_at {
            world.drain();
        }
        world.step();
    }
    if drain_at == STEPS {
        world.settle_for_good();
        world.probe();
        world.drain();
    }
    world.end();
    world.balance()
}

/// Runs seeds; a failure prints its seed.
#[track_caller]
fn run_all(seeds: impl Iterator<Item = u64>) -> Stats {
    let mut sum = Stats::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(stats) => sum.add(&stats),
            Err(_) => {
                panic!(
                    "seed {seed} fails as printed above; run it alone: POMBO_SEED={seed} cargo test --lib simulation"
                )
            }
        }
    }
    sum
}

fn once_failed() -> impl Iterator<Item = u64> {
    let lines = ONCE_FAILED.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a seed on each line of seeds.txt"))
}

/// Returns the seeds in `POMBO_SEED`, if it is set: `17`, or `200..1000`.
fn asked_for() -> Option<Range<u64>> {
    let asked = std::env::var("POMBO_SEED").ok()?;
    let (from, to) = asked.split_once("..").unwrap_or((&asked, ""));
    let from: Option<u64> = from.parse().ok();
    let to = if to.is_empty() { from.map(|from| from + 1) } else { to.parse().ok() };
    let seeds = from.zip(to).map(|(from, to)| from..to);
    Some(seeds.unwrap_or_else(|| panic!("POMBO_SEED is {asked:?}, expected a number, or two: 200..1000")))
}

/// Asserts that every case in [`MUST_HAPPEN`] has happened.
#[track_caller]
fn check_coverage(stats: &Stats) {
    for name in MUST_HAPPEN {
        let metric = Stats::ALL.iter().find(|metric| metric.field == *name).expect("a count of this name");
        assert!((metric.read)(stats) > 0, "{name} is never counted");
    }
}

#[test]
fn a_few_seeds_keep_every_promise() {
    if let Some(seeds) = asked_for() {
        run_all(seeds);
        return;
    }
    run_all(once_failed());
    check_coverage(&run_all(0..SEEDS_FEW));
}

/// The full simulation, on two threads: `cargo test --release --lib simulation -- --ignored`.
#[test]
#[ignore = "asks for a release build and two cores"]
fn every_seed_keeps_every_promise() {
    run_all(once_failed());
    let mut sum = Stats::default();
    thread::scope(|scope| {
        let halves = [0, 1].map(|half| scope.spawn(move || run_all((half..SEEDS).step_by(2))));
        for half in halves {
            match half.join() {
                Ok(stats) => sum.add(&stats),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    check_coverage(&sum);
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
