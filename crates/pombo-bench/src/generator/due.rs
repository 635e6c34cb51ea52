//! The clients that may send or must leave, and the trait of the traffic that decides this.

use std::time::Duration;

/// Decides which messages are sent and when, and accounts for arrivals.
pub(in super::super) trait Traffic {
    /// Enters in `due` the clients that may send at `now` by a schedule; returns the time until the next one may.
    #[inline]
    fn look(&mut self, _now: u64, _due: &mut Due) -> Duration {
        Duration::MAX
    }

    /// Accounts for a message that `receiver` got at `now`, and enters in `due` the client that may send because of it.
    fn arrived(&mut self, receiver: u32, payload: &[u8], now: u64, due: &mut Due);

    /// Notes that a visitor is logged in again.
    fn came_back(&mut self, _index: u32, _now: u64, _due: &mut Due) {}

    /// Appends to `out` up to `owed` frames of `sender`, which have been due since `since`.
    fn write(&mut self, sender: u32, owed: u32, since: u64, out: &mut Vec<u8>);
}

/// The traffic of clients that only log in and wait.
pub(in super::super) struct Idle;

impl Traffic for Idle {
    fn arrived(&mut self, _receiver: u32, _payload: &[u8], _now: u64, _due: &mut Due) {}

    fn write(&mut self, _sender: u32, _owed: u32, _since: u64, _out: &mut Vec<u8>) {}
}

/// The clients that may send, with the number of messages, and the clients that must leave.
pub(in super::super) struct Due {
    /// Clients that may send; each once. Blocked clients are not on the list.
    pub(super) list: Vec<u32>,
    pub(super) credits: Vec<Credit>,
    /// Clients that must leave and come back, each once.
    pub(super) leaving: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Credit {
    pub(super) messages: u32,
    /// When the first of these messages fell due.
    pub(super) since: u64,
}

impl Due {
    pub(super) fn new(connections: u32) -> Self {
        Self { list: Vec::new(), credits: vec![Credit::default(); connections as usize], leaving: Vec::new() }
    }

    /// Lets `sender` send `messages` more, from `now` on.
    #[inline]
    pub(in super::super) fn owe(&mut self, sender: u32, messages: u32, now: u64) {
        let credit = &mut self.credits[sender as usize];
        if credit.messages == 0 {
            credit.since = now;
            self.list.push(sender);
        }
        credit.messages += messages;
    }

    /// Lets a connection close, and log in again once the server has closed it, too.
    pub(in super::super) fn leave(&mut self, index: u32) {
        self.leaving.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_send_is_on_the_list_once() {
        let mut due = Due::new(2);
        due.owe(1, 2, 10);
        due.owe(1, 3, 20);
        due.owe(0, 1, 30);
        assert_eq!(due.list, [1, 0]);
        assert_eq!((due.credits[1].messages, due.credits[1].since), (5, 10));
    }
}
