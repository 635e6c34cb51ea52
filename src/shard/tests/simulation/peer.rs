//! A client of the simulation: what it says, and how it judges what it hears.

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

/// How a client treats its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Reads all there is, and answers pings.
    Attentive,
    /// Reads now and then, and answers pings.
    Slow,
    /// Does nothing any more, without a word.
    Vanished,
}

pub(super) struct Peer {
    /// Which of [`super::world::UIDS`] it has.
    pub(super) uid: usize,
    pub(super) shard: usize,
    pub(super) login: LoginNumber,
    pub(super) protocol: Protocol,
    pub(super) rights: Rights,
    pub(super) expires: Option<SystemTime>,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) manner: Manner,
    /// What it has said and the network has not brought yet, from `brought` on.
    outgoing: Vec<u8>,
    brought: usize,
    /// Whether the network ever brought only a part of what it had said.
    pub(super) said_in_parts: bool,
    /// Numbers its messages.
    pub(super) sent: usize,
    /// Whether the network keeps what it says, for now.
    pub(super) is_held_up: bool,
    /// Whether it has broken the protocol, or a limit.
    pub(super) is_at_fault: bool,
    /// Whether it has said that it closes, and how.
    pub(super) said_close: Option<Option<u16>>,
    /// Pings sent, and the last one that was answered.
    pings: u32,
    answered: u32,
    /// By sender: the number that its next message must have at least.
    next: HashMap<usize, usize>,
    /// Data frames that came whole.
    pub(super) arrived: u64,
    /// Of them, those that say who sent them, or nothing at all.
    pub(super) messages: u64,
    /// What it was closed with, if it was: the close frame's code.
    pub(super) closed: Option<Option<u16>>,
    /// What the shard had it as after its last turn.
    pub(super) phase: Option<Phase>,
    /// How it was with its session when that was seen not to be open any more.
    pub(super) left: Option<Left>,
}

/// How a session left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// When, by the wall clock.
    pub(super) at: SystemTime,
    /// For how long nothing had been received.
    pub(super) silence: Duration,
    /// Whether anything waited to be received.
    pub(super) had_input: bool,
}

/// Who must not get a broadcast: uids by the number of the caller's message.
pub(super) type Exceptions = HashMap<usize, Vec<usize>>;

/// A connection's number among senders; the caller has 0.
pub(super) fn sender_of(peer: usize) -> usize {
    peer + 1
}

impl Peer {
    pub(super) fn new(uid: usize, shard: usize, login: LoginNumber, wire: Wire, manner: Manner) -> Self {
        Self {
            uid,
            shard,
            login,
            protocol: Protocol::Plain,
            rights: Rights::ALL,
            expires: None,
            wire: Rc::new(RefCell::new(wire)),
            manner,
            outgoing: Vec::new(),
            brought: 0,
            said_in_parts: false,
            sent: 0,
            is_held_up: false,
            is_at_fault: false,
            said_close: None,
            pings: 0,
            answered: 0,
            next: HashMap::new(),
            arrived: 0,
            messages: 0,
            closed: None,
            phase: None,
            left: None,
        }
    }

    /// Whether it goes on as a client should.
    pub(super) fn is_sound(&self) -> bool {
        self.manner != Manner::Vanished
            && !self.is_at_fault
            && self.said_close.is_none()
            && self.closed.is_none()
            && !self.wire.borrow().is_over()
    }

    /// Says bytes; the network brings them later.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        if self.said_close.is_none() && !self.is_at_fault {
            self.outgoing.extend_from_slice(bytes);
        }
    }

    /// Sends a message to a uid or everybody, in one frame or several, with pings among them.
    pub(super) fn send(&mut self, random: &mut Rng, peer: usize, name: &str, to: usize, length: usize) {
        let mut message = match self.protocol {
            Protocol::Json => json::command((to != EVERYBODY).then_some(name), b""),
            Protocol::Plain | Protocol::Echo => [name.as_bytes(), b":"].concat(),
        };
        // An empty one, and one of a byte, say nothing of themselves.
        if length > 0 {
            Identity { sender: sender_of(peer), number: self.sent, to }.write(length, &mut message);
            self.sent += 1;
        }
        let kind = if random.bool() { TEXT } else { BINARY };
        if random.u32(..16) > 0 {
            return self.say(&masked(kind, &message));
        }
        let mut first = kind & 0x0F;
        let mut rest = &message[..];
        while random.u32(..3) > 0 {
            let (fragment, other) = rest.split_at(random.usize(..=rest.len()));
            self.say(&masked(first, fragment));
            if is_one_in(random, 4) {
                self.ping();
            }
            (first, rest) = (0, other);
        }
        self.say(&masked(first | 0x80, rest));
    }

    pub(super) fn ping(&mut self) {
        self.pings += 1;
        let payload = self.pings.to_be_bytes();
        self.say(&masked(PING, &payload));
    }

    /// Closes as a client should, once.
    pub(super) fn say_close(&mut self, code: Option<u16>) {
        if self.said_close.is_none() && !self.is_at_fault {
            let body = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
            self.say(&masked(CLOSE, &body));
            self.said_close = Some(code);
        }
    }

    /// Says what no client may.
    pub(super) fn break_rules(&mut self, random: &mut Rng, message_bytes_max: usize) {
        let bytes = match random.u32(..6) {
            0 => masked(TEXT, b"u0:\xFF\xFE"),
            1 => masked(BINARY, &vec![0; message_bytes_max + 1]),
            2 => vec![0x81, 0x01, b'x'],
            3 => masked(0xC1, b"x"),
            4 => masked(0x80, b"nothing to continue"),
            _ => (0..random.usize(1..60)).map(|_| random.u8(..)).collect(),
        };
        self.say(&bytes);
        self.is_at_fault = true;
    }

    /// Lets the network bring up to `bytes` of what was said.
    pub(super) fn bring(&mut self, bytes: usize) {
        if self.is_held_up {
            return;
        }
        let end = self.outgoing.len().min(self.brought.saturating_add(bytes));
        self.wire.borrow_mut().arrive(&self.outgoing[self.brought..end]);
        self.brought = end;
        self.said_in_parts |= end < self.outgoing.len();
        if self.brought == self.outgoing.len() {
            self.outgoing.clear();
            self.brought = 0;
        }
    }

    /// Returns how many bytes were said and not brought yet.
    pub(super) fn unbrought(&self) -> usize {
        self.outgoing.len() - self.brought
    }

    /// Takes what is said and was not brought yet, up to `bytes`: it came right behind the login.
    pub(super) fn pipelined(&mut self, bytes: usize) -> Vec<u8> {
        let end = self.outgoing.len().min(bytes);
        self.said_in_parts |= end < self.outgoing.len();
        self.outgoing.drain(..end).collect()
    }

    /// Reads all whole frames that have come.
    pub(super) fn read(&mut self, name: &str, exceptions: &Exceptions) {
        let mut output = std::mem::take(&mut self.wire.borrow_mut().output);
        let mut at = 0;
        while let Some(payload) = payload_of(&output[at..]) {
            let (first, end) = (output[at], at + payload.end);
            assert!(self.closed.is_none(), "{name} gets a frame {first:x} behind its close frame");
            self.hear(first, &output[at + payload.start..end], name, exceptions);
            at = end;
        }
        output.drain(..at);
        assert!(self.closed.is_none() || output.is_empty(), "{name} gets bytes behind its close frame");
        self.wire.borrow_mut().output = output;
    }

    fn hear(&mut self, first: u8, payload: &[u8], name: &str, exceptions: &Exceptions) {
        match first {
            TEXT | BINARY if self.protocol == Protocol::Json => match json::decode(payload) {
                Some(payload) => self.hear_message(first, &payload, name, exceptions),
                None => self.hear_answer(payload, name),
            },
            TEXT | BINARY => self.hear_message(first, payload, name, exceptions),
            PING => {
                if self.manner != Manner::Vanished {
                    self.say(&masked(PONG, payload));
                }
            }
            PONG => {
                let number = u32::from_be_bytes(payload.try_into().expect("a pong says what its ping said"));
                assert!(number > self.answered && number <= self.pings, "{name} gets the pong {number}");
                self.answered = number;
            }
            CLOSE if payload.is_empty() => self.closed = Some(None),
            CLOSE => self.closed = Some(Some(close_code(&(first, payload.to_vec())))),
            _ => panic!("{name} gets a frame that begins with {first:x}"),
        }
    }

    /// Takes an answer of the server in JSON.
    fn hear_answer(&mut self, text: &[u8], name: &str) {
        self.arrived += 1;
        let answer: serde_json::Value = serde_json::from_slice(text).expect("an answer is JSON");
        let is_right = answer["error"].is_string() || answer["welcome"] == name;
        assert!(is_right, "{name} gets {answer}");
    }

    fn hear_message(&mut self, first: u8, payload: &[u8], name: &str, exceptions: &Exceptions) {
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
            uid => assert_eq!(uid, self.uid, "{name} gets what is for another"),
        }
        let next = self.next.entry(sender).or_default();
        assert!(number >= *next, "{name} gets {number} of {sender} again, or after {}", *next - 1);
        *next = number + 1;
    }

    /// Whether all that was said has been brought.
    pub(super) fn has_said_all(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Reads from now on whatever comes.
    pub(super) fn catch_up(&mut self) {
        self.wire.borrow_mut().give_room(UNLIMITED);
    }
}
