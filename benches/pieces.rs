//! The pieces that a message passes in a shard, one by one: nanoseconds on one core, nothing else running.
//!
//! Each piece is driven as a turn drives it: 64 messages of 64 bytes, then what ends a turn for it. Timed is
//! exactly what stands in the closure; set-up is outside. `shard_scaling` says what they come to together.
//!
//! The look-ups visit 100,000 uids in an order that no cache foresees, as messages to that many users would.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pombo::frame::Opcode;
use pombo::mailbox::{SHARE_FROM, ShardWaker, wire};
use pombo::message::{Kind, Payload};
use pombo::protocol::plain;
use pombo::shard::SessionKey;
use pombo::shard::log::Log;
use pombo::shard::outbox::Outbox;
use pombo::shard::registry::Registry;
use pombo::uid::{Uid, UidHasher};

const UIDS: usize = 100_000;
const MESSAGES: usize = 64;
const MESSAGE: &[u8] = &[b'x'; 64];

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let message = [b"user-12345:", MESSAGE].concat();
    let broadcast = [b"all:", MESSAGE].concat();
    for (name, message) in [("unicast 64", &message[..]), ("broadcast 64", &broadcast), ("no colon 64", MESSAGE)] {
        group.bench_function(name, |bencher| bencher.iter(|| plain::parse(black_box(message))));
    }
    group.finish();
}

fn registry(criterion: &mut Criterion) {
    let hasher = UidHasher::fixed(3);
    let uid = |index: usize| Uid::new(format!("user-{index}").as_bytes(), 256, &hasher).expect("this is a uid");
    let mut registry = Registry::default();
    for index in 0..UIDS {
        registry.insert(&uid(index), SessionKey::new(index as u32, index as u32));
    }
    // A step that shares no factor with the count visits all of them.
    let order = |index: usize| index * 61_803 % UIDS;
    let hits: Vec<Uid> = (0..UIDS).map(|index| uid(order(index))).collect();
    let misses: Vec<Uid> = (0..UIDS).map(|index| uid(UIDS + order(index))).collect();

    let mut group = criterion.benchmark_group("registry of 100k");
    for (name, uids, found) in [("hit", &hits, 1), ("miss", &misses, 0)] {
        let mut next = uids.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let uid = next.next().expect("the cycle has no end");
                assert_eq!(registry.find(uid.hash(), uid.as_str().as_bytes()).len(), found);
            });
        });
    }
    let mut next = hits.iter().cycle();
    group.bench_function("hash and hit", |bencher| {
        bencher.iter(|| {
            let uid = next.next().expect("the cycle has no end").as_str().as_bytes();
            assert_eq!(registry.find(hasher.hash(uid), uid).len(), 1);
        });
    });
    group.finish();
}

fn mailbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox, per letter");
    let hash = UidHasher::fixed(3).hash(b"user-12345");
    let wakers: Vec<_> = (0..2).map(|_| ShardWaker::new(Arc::new(|| Ok(())))).collect();
    let mut mailboxes = wire(&wakers, 1 << 20);
    let [from, to] = &mut mailboxes[..] else { unreachable!("two were wired") };
    let now = std::time::Instant::now();
    for (name, letters) in [("batch of 64", MESSAGES), ("batch of 1", 1)] {
        group.throughput(Throughput::Elements(letters as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..letters {
                    let _ = from.unicast(1, hash, b"user-12345", Kind::Text, &Payload::Borrowed(black_box(MESSAGE)));
                }
                from.post(now, |_| {});
                let mut batch = to.next_batch().expect("it was just posted");
                while let Some(letter) = batch.take() {
                    black_box(letter);
                }
                to.put_back(batch);
            });
        });
    }
    group.finish();
}

fn outbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox, per message");
    let large = Bytes::from(vec![b'x'; SHARE_FROM]);
    for (name, payload) in [("64", Payload::Borrowed(MESSAGE)), ("4096 shared", Payload::Shared(large))] {
        // One is used again and again, as the pool does.
        let mut outbox = Outbox::default();
        group.throughput(Throughput::Elements(MESSAGES as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..MESSAGES {
                    outbox.push(Opcode::Text, black_box(&payload));
                }
                let mut pieces = [IoSlice::new(&[]); 64];
                let (count, _) = outbox.pieces(&mut pieces);
                black_box(&pieces[..count]);
                outbox.sent(outbox.bytes());
            });
        });
        group.bench_function(format!("{name}, in two sends"), |bencher| {
            bencher.iter(|| {
                for _ in 0..MESSAGES {
                    outbox.push(Opcode::Text, black_box(&payload));
                }
                outbox.sent(outbox.bytes() / 2 + 7);
                outbox.sent(outbox.bytes());
            });
        });
    }
    group.finish();
}

fn log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    let large = Bytes::from(vec![b'x'; SHARE_FROM]);
    for (name, payload) in [("64", Payload::Borrowed(MESSAGE)), ("4096 shared", Payload::Shared(large))] {
        let mut log = Log::default();
        group.throughput(Throughput::Elements(MESSAGES as u64));
        group.bench_function(format!("push {name}, per broadcast"), |bencher| {
            bencher.iter(|| {
                for _ in 0..MESSAGES {
                    log.push(Kind::Text, black_box(payload.clone()));
                }
                log.clear();
            });
        });
        let from = log.end();
        (0..MESSAGES).for_each(|_| log.push(Kind::Text, payload.clone()));
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("runs of 64 times {name}, per receiver"), |bencher| {
            bencher.iter(|| {
                log.runs(black_box(from), log.end(), |run| {
                    black_box(run.as_slice());
                    true
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, registry, mailbox, outbox, log);
criterion_main!(benches);
