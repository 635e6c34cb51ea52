//! The frame codec alone: nanoseconds per message on one core, no socket.
//!
//! Reading changes its input (it unmasks in place), so each round first copies the masked bytes into
//! the scratch buffer; `copy` is that copy alone, to be subtracted. Everything else is set up outside.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pombo::frame::{Header, Opcode, Reader, encode, extent, unmask};

const MASK: [u8; 4] = [0xA1, 0x5E, 0x83, 0x0C];
const MESSAGE_BYTES_MAX: usize = 4 << 20;
const RECEIVE_BYTES: usize = 64 * 1024;

/// A masked client frame: a server's with the mask bit set and the mask put in.
fn client_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(opcode, payload.len()).as_slice().to_vec();
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let from = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[from..], MASK);
    bytes
}

/// Reads everything in `bytes`; returns how many events came, and looks at each.
fn read_all(reader: &mut Reader, bytes: &mut [u8]) -> usize {
    let (mut at, mut events) = (0, 0);
    while at < bytes.len() {
        let (length, event) = reader.read(&mut bytes[at..], MESSAGE_BYTES_MAX);
        at += length;
        if let Some(event) = event.expect("the frames are good") {
            black_box(event);
            events += 1;
        }
    }
    events
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let ascii = |length: usize| "bob:hi, ".repeat(length / 8 + 1).into_bytes()[..length].to_vec();
    let accents = |length: usize| "olá, ção".repeat(length / 11 + 1).into_bytes()[..length / 11 * 11].to_vec();
    for (name, opcode, payload, count) in [
        ("text 8 x1000", Opcode::Text, ascii(8), 1000),
        ("text 64 x1000", Opcode::Text, ascii(64), 1000),
        ("binary 64 x1000", Opcode::Binary, ascii(64), 1000),
        ("accents 66 x1000", Opcode::Text, accents(66), 1000),
        ("text 101 x1000", Opcode::Text, ascii(101), 1000),
        ("text 512 x100", Opcode::Text, ascii(512), 100),
        ("text 16 KiB", Opcode::Text, ascii(16 << 10), 1),
        ("accents 16 KiB", Opcode::Text, accents(16 << 10), 1),
        ("binary 16 KiB", Opcode::Binary, ascii(16 << 10), 1),
    ] {
        let masked = client_frame(opcode, &payload).repeat(count);
        let mut scratch = masked.clone();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{name}/copy"), |bencher| {
            bencher.iter(|| {
                scratch.copy_from_slice(black_box(&masked));
                black_box(&mut scratch);
            });
        });
        group.bench_function(name, |bencher| {
            let mut reader = Reader::default();
            bencher.iter(|| {
                scratch.copy_from_slice(black_box(&masked));
                assert_eq!(read_all(&mut reader, black_box(&mut scratch)), count);
            });
        });
    }
    group.finish();
}

fn decode_cut(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode 1 MiB");
    let text = client_frame(Opcode::Text, &[b'x'; 1 << 20]);
    let accents = client_frame(Opcode::Text, "é".repeat(1 << 19).as_bytes());
    let mut scratch = vec![0; RECEIVE_BYTES];
    group.throughput(Throughput::Bytes(1 << 20));
    for (name, masked) in [("text", &text), ("accents", &accents)] {
        group.bench_function(format!("{name} cut into 64 KiB"), |bencher| {
            let mut reader = Reader::default();
            bencher.iter(|| {
                let mut events = 0;
                for piece in masked.chunks(RECEIVE_BYTES) {
                    let received = &mut scratch[..piece.len()];
                    received.copy_from_slice(piece);
                    events += read_all(&mut reader, received);
                }
                assert_eq!(events, 1);
            });
        });
        group.bench_function(format!("{name} received directly"), |bencher| {
            let mut reader = Reader::default();
            bencher.iter(|| {
                let (mut at, mut events) = (0, 0);
                while at < masked.len() {
                    if let Some((buffer, room)) = reader.direct() {
                        let end = masked.len().min(at + room);
                        buffer.extend_from_slice(&masked[at..end]);
                        at = end;
                        let event = reader.direct_done(MESSAGE_BYTES_MAX).expect("the frame is good");
                        events += usize::from(event.is_some());
                    } else {
                        let piece = &masked[at..masked.len().min(at + RECEIVE_BYTES)];
                        let received = &mut scratch[..piece.len()];
                        received.copy_from_slice(piece);
                        events += read_all(&mut reader, received);
                        at += piece.len();
                    }
                }
                assert_eq!(events, 1);
            });
        });
    }
    group.finish();
}

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for length in [8, 15, 64, 67, 125, 1024, 65_536] {
        let mut bytes = vec![b'x'; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(length.to_string(), |bencher| {
            bencher.iter(|| unmask(black_box(&mut bytes), black_box(MASK)));
        });
    }
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for length in [8, 64, 125, 512, 16 << 10] {
        let payload = vec![b'x'; length];
        let count = if length > 512 { 1 } else { 1000 };
        let mut out = Vec::with_capacity(count * (length + 10));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{length} x{count}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for _ in 0..count {
                    encode(&mut out, Opcode::Text, black_box(&payload));
                }
                black_box(&out);
            });
        });
    }
    let mut frames = Vec::new();
    (0..1000).for_each(|_| encode(&mut frames, Opcode::Text, &[b'x'; 64]));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("extent 64 x1000", |bencher| {
        bencher.iter(|| {
            let mut at = 0;
            while let Some(extent) = extent(black_box(&frames[at..])) {
                at += extent.length;
            }
            assert_eq!(at, frames.len());
        });
    });
    group.finish();
}

criterion_group!(benches, decode, decode_cut, mask, write);
criterion_main!(benches);
