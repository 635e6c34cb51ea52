//! A simulated client: sends messages, and checks everything that it receives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use fastrand::Rng;

use super::super::frames::{BINARY, CLOSE, PING, PONG, TEXT, close_code, masked};
use super::message::{EVERYBODY, EVERYBODY_BUT, Identity, payload_of};
use super::network::{UNLIMITED, Wire, is_one_in};
use crate::protocol::{Protocol, json};
use crate::rights::Rights;
use crate::shard::LoginNumber;
use crate::shard::session::Phase;

/// The behavior of a client on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behavior {
    /// Reads everything, and answers pings.
    Attentive,
    /// Reads now and then, and answers pings.
    Slow,
    /// Has stopped reading and sending without a close.
    Vanished,
}

pub(super) struct Peer {
    /// Index of its uid in [`super::world::UIDS`].
    pub(super) uid: usize,
    pub(super) shard: usize,
    pub(super) login: LoginNumber,
    pub(super) protocol: Protocol,
    pub(super) rights: Rights,
    pub(super) expires: Option<SystemTime>,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) behavior: Behavior,
    /// Bytes that it has written, of which the network has delivered those up to `delivered`.
    outgoing: Vec<u8>,
    delivered: usize,
    /// Whether the network ever delivered only a part of its bytes.
    pub(super) was_delivered_in_parts: bool,
    /// Number of its next message.
    pub(super) sent: usize,
    /// Whether the network delivers none of its bytes for now.
    pub(super) is_withheld: bool,
    /// Whether it has violated the protocol, or a limit.
    pub(super) is_at_fault: bool,
    /// The code of the close frame that it has sent, if any.
    pub(super) close_sent: Option<Option<u16>>,
    /// Pings sent, and the number of the last one that was answered.
    pings: u32,
    answered: u32,
    /// The least number that the next message may have, by sender.
    next: HashMap<usize, usize>,
    /// Data frames that it has received.
    pub(super) arrived: u64,
    /// Those of them that are messages of clients or callers, not answers of the server.
    pub(super) messages: u64,
    /// The code of the close frame that it has received, if any.
    pub(super) closed: Option<Option<u16>>,
    /// The phase of its session after the last turn of the shard.
    pub(super) phase: Option<Phase>,
    /// The state of its session when that was first seen not to be open.
    pub(super) session_end: Option<SessionEnd>,
}

/// The state of a session when it was first seen not to be open.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionEnd {
    /// The time, by the wall clock.
    pub(super) at: SystemTime,
    /// The time since bytes had last been received.
    pub(super) silence: Duration,
    /// Whether bytes had arrived that were not received.
    pub(super) had_input: bool,
}

/// The uids that must not get a broadcast, by the number of the caller's message.
pub(super) type Exceptions = HashMap<usize, Vec<usize>>;

/// A connection's number among senders; the caller has 0.
pub(super) fn sender_of(peer: usize) -> usize {
    peer + 1
}

impl Peer {
    pub(super) fn new(uid: usize, shard: usize, login: LoginNumber, wire: Wire, behavior: Behavior) -> Self {
        Self {
            uid,
            shard,
            login,
            protocol: Protocol::Plain,
            rights: Rights::ALL,
            expires: None,
            wire: Rc::new(RefCell::new(wire)),
            behavior,
            outgoing: Vec::new(),
            delivered: 0,
            was_delivered_in_parts: false,
            sent: 0,
            is_withheld: false,
            is_at_fault: false,
            close_sent: None,
            pings: 0,
            answered: 0,
            next: HashMap::new(),
            arrived: 0,
            messages: 0,
            closed: None,
            phase: None,
            session_end: None,
        }
    }

    /// Whether it behaves as a client should, and its connection is open.
    pub(super) fn is_sound(&self) -> bool {
        self.behavior != Behavior::Vanished
            && !self.is_at_fault
            && self.close_sent.is_none()
            && self.closed.is_none()
            && !self.wire.borrow().is_over()
    }

    /// Writes bytes, which the network delivers later.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.close_sent.is_none() && !self.is_at_fault {
            self.outgoing.extend_from_slice(bytes);
        }
    }

    /// Sends a message to a uid or to all, in one frame or several, with pings among them.
    pub(super) fn send(&mut self, random: &mut Rng, peer: usize, name: &str, to: usize, length: usize) {
        let mut message = match self.protocol {
            Protocol::Json => json::command((to != EVERYBODY).then_some(name), b""),
            Protocol::Plain | Protocol::Echo => [name.as_bytes(), b":"].concat(),
        };
        // An empty message, and one of a single byte, have no identity.
        if length > 0 {
            Identity { sender: sender_of(peer), number: self.sent, to }.write(length, &mut message);
            self.sent += 1;
        }
        let kind = if random.bool() { TEXT } else { BINARY };
        if random.u32(..16) > 0 {
            return self.write(&masked(kind, &message));
        }
        let mut first = kind & 0x0F;
        let mut rest = &message[..];
        while random.u32(..3) > 0 {
            let (fragment, other) = rest.split_at(random.usize(..=rest.len()));
            self.write(&masked(first, fragment));
            if is_one_in(random, 4) {
                self.ping();
            }
            (first, rest) = (0, other);
        }
        self.write(&masked(first | 0x80, rest));
    }

    pub(super) fn ping(&mut self) {
        self.pings += 1;
        let payload = self.pings.to_be_bytes();
        self.write(&masked(PING, &payload));
    }

    /// Sends a close frame, once.
    pub(super) fn send_close(&mut self, code: Option<u16>) {
        if self.close_sent.is_none() && !self.is_at_fault {
            let body = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
            self.write(&masked(CLOSE, &body));
            self.close_sent = Some(code);
        }
    }

    /// Sends a frame that violates the protocol, or a limit.
    pub(super) fn violate_protocol(&mut self, random: &mut Rng, message_bytes_max: usize) {
        let bytes = match random.u32(..6) {
            0 => masked(TEXT, b"u0:\xFF\xFE"),
            1 => masked(BINARY, &vec![0; message_bytes_max + 1]),
            2 => vec![0x81, 0x01, b'x'],
            3 => masked(0xC1, b"x"),
            4 => masked(0x80, b"nothing to continue"),
            _ => (0..random.usize(1..60)).map(|_| random.u8(..)).collect(),
        };
        self.write(&bytes);
        self.is_at_fault = true;
    }

    /// Lets the network deliver up to `bytes` of the bytes written.
    pub(super) fn deliver(&mut self, bytes: usize) {
        if self.is_withheld {
            return;
        }
        let end = self.outgoing.len().min(self.delivered.saturating_add(bytes));
        self.wire.borrow_mut().arrive(&self.outgoing[self.delivered..end]);
        self.delivered = end;
        self.was_delivered_in_parts |= end < self.outgoing.len();
        if self.delivered == self.outgoing.len() {
            self.outgoing.clear();
            self.delivered = 0;
        }
    }

    /// Returns how many bytes were written and not delivered yet.
    pub(super) fn undelivered(&self) -> usize {
        self.outgoing.len() - self.delivered
    }

    /// Takes up to `bytes` that were written and not delivered yet: they arrive right behind the login.
    pub(super) fn pipelined(&mut self, bytes: usize) -> Vec<u8> {
        let end = self.outgoing.len().min(bytes);
        self.was_delivered_in_parts |= end < self.outgoing.len();
        self.outgoing.drain(..end).collect()
    }

    /// Reads all whole frames that have arrived.
    pub(super) fn read(&mut self, name: &str, exceptions: &Exceptions) {
        let mut output = std::mem::take(&mut self.wire.borrow_mut().output);
        let mut at = 0;
        while let Some(payload) = payload_of(&output[at..]) {
            let (first, end) = (output[at], at + payload.end);
            assert!(self.closed.is_none(), "{name} gets a frame {first:x} behind its close frame");
            self.take_frame(first, &output[at + payload.start..end], name, exceptions);
            at = end;
        }
        output.drain(..at);
        assert!(self.closed.is_none() || output.is_empty(), "{name} gets bytes behind its close frame");
        self.wire.borrow_mut().output = output;
    }

    fn take_frame(&mut self, first: u8, payload: &[u8], name: &str, exceptions: &Exceptions) {
        match first {
            TEXT | BINARY if self.protocol == Protocol::Json => match json::decode(payload) {
                Some(payload) => self.take_message(first, &payload, name, exceptions),
                None => self.take_answer(payload, name),
            },
            TEXT | BINARY => self.take_message(first, payload, name, exceptions),
            PING => {
                if self.behavior != Behavior::Vanished {
                    self.write(&masked(PONG, payload));
                }
            }
            PONG => {
                let number = u32::from_be_bytes(payload.try_into().expect("a pong has the payload of its ping"));
                assert!(number > self.answered && number <= self.pings, "{name} gets the pong {number}");
                self.answered = number;
            }
            CLOSE if payload.is_empty() => self.closed = Some(None),
            CLOSE => self.closed = Some(Some(close_code(&(first, payload.to_vec())))),
            _ => panic!("{name} gets a frame that begins with {first:x}"),
        }
    }

    /// Checks an answer of the server in JSON.
    fn take_answer(&mut self, text: &[u8], name: &str) {
        self.arrived += 1;
        let answer: serde_json::Value = serde_json::from_slice(text).expect("an answer is JSON");
        let is_right = answer["error"].is_string() || answer["welcome"] == name;
        assert!(is_right, "{name} gets {answer}");
    }

    fn take_message(&mut self, first: u8, payload: &[u8], name: &str, exceptions: &Exceptions) {
        self.arrived += 1;
        let Some(Identity { sender, number, to }) = Identity::read(payload) else {
            if payload.is_empty() {
                self.messages += 1;
                return;
            }
            let text = std::str::from_utf8(payload).expect("an answer is text");
            assert_eq!((first, self.protocol), (TEXT, Protocol::Plain), "{text}");
            assert!(text.starts_with("error: ") || text == format!("hello {name}"), "{name} gets {text:?}");
            return;
        };
        self.messages += 1;
        match to {
            EVERYBODY => {}
            EVERYBODY_BUT => assert!(!exceptions[&number].contains(&self.uid), "{name} was left out of {number}"),
            uid => assert_eq!(uid, self.uid, "{name} got a message for another"),
        }
        let next = self.next.entry(sender).or_default();
        assert!(number >= *next, "{name} gets {number} of {sender} again, or after {}", *next - 1);
        *next = number + 1;
    }

    /// Whether all bytes written were delivered.
    pub(super) fn has_delivered_all(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Reads everything from now on.
    pub(super) fn catch_up(&mut self) {
        self.wire.borrow_mut().give_room(UNLIMITED);
    }
}
