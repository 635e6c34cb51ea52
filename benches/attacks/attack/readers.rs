//! A reader that never reads, while ten others write to it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Field, Notes};
use crate::attacks::peer::{End, Peer};
use crate::support::Sent;

const FLOODERS: usize = 10;

/// When the reader looks at last. What it finds then was decided before: were it not cut by now, it would go on.
const LOOKS_AFTER: Duration = Duration::from_millis(1500);

/// How long it may take to read what the kernel holds for it.
const READS_FOR: Duration = Duration::from_secs(10);

pub(super) fn unicast(field: &Field, notes: &mut Notes) {
    flood(field, notes, &Sent::text(format!("never-reads:{}", "x".repeat(16 << 10))), Duration::ZERO);
}

/// Everybody hears it, the canaries and the flooders themselves: so not as fast as they can, but a burst every 10 ms.
pub(super) fn broadcast(field: &Field, notes: &mut Notes) {
    flood(field, notes, &Sent::text(format!("all:{}", "x".repeat(8 << 10))), Duration::from_millis(10));
}

fn flood(field: &Field, notes: &mut Notes, message: &Sent, pause: Duration) {
    let reader = Peer::log_in(field.address, "never-reads").expect("the node takes log-ins");
    let flooders = Peer::log_in_many(field.address, "flooder", FLOODERS).expect("the node takes log-ins");
    let bytes = message.bytes();
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let (end, sent) = thread::scope(|threads| {
        let writers: Vec<_> = flooders
            .into_iter()
            .map(|flooder| {
                let (bytes, is_over) = (&bytes, &is_over);
                threads.spawn(move || write(flooder, bytes, pause, is_over))
            })
            .collect();
        thread::sleep(LOOKS_AFTER);
        let end = reader.end_within(READS_FOR);
        thread::sleep(field.scale.flood.saturating_sub(begun.elapsed()));
        is_over.store(true, Ordering::SeqCst);
        let sent: u64 = writers.into_iter().map(|writer| writer.join().expect("a flooder does not panic")).sum();
        (end, sent)
    });
    notes.see(format!("{sent} messages"));
    // A machine may be too busy to fill an outbox before the heartbeat finds that nobody answers.
    let expected = [End::Close(4008), End::Close(4005)];
    notes.ends(&format!("looked after {} ms", LOOKS_AFTER.as_millis()), &[(end, 1)], &expected);
}

/// Writes until it is over, and reads what comes meanwhile, so that it is no slow reader itself; returns how many
/// messages it wrote.
fn write(flooder: Peer, bytes: &[u8], pause: Duration, is_over: &AtomicBool) -> u64 {
    let (mut writer, mut reader) = (&flooder.stream, &flooder.stream);
    thread::scope(|threads| {
        threads.spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while reader.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        let mut sent = 0;
        while !is_over.load(Ordering::SeqCst) && writer.write_all(bytes).is_ok() {
            sent += 1;
            thread::sleep(pause);
        }
        writer.shutdown(Shutdown::Both).ok();
        sent
    })
}
