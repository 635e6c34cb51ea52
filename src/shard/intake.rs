//! The part of a turn that adopts logged-in connections as sessions.

use tracing::debug;

use super::Shard;
use super::close::{CloseReason, Unsent};
use super::expiry::Expiry;
use super::handover::{Handover, LoginNumber};
use super::io::{Network, SessionKey, Socket};
use super::lists::Listed;
use super::memory::Counted;
use super::meter::Meter;
use super::session::{Flags, Phase, Session, Unread};
use super::wheel::Tick;
use crate::clock::WallTime;
use crate::config::DuplicateLogin;
use crate::frame::close;
use crate::presence::Change;
use crate::protocol::Protocol;
use crate::uid::Uid;

/// Most connections that a turn adopts: one or two milliseconds of system calls. More wait in the channel, and the
/// gateway waits behind it, so that open sessions are served in between.
const HANDOVERS_PER_TURN: usize = 64;

/// How a login is treated, given the sessions that its uid has already.
enum LoginVerdict {
    /// The session is added: the uid has none yet, or may have several.
    Add,
    /// The session replaces these, which are closed.
    Replace(Vec<SessionKey>),
    /// The session is closed with this code.
    Refuse(u16),
}

impl<N: Network> Shard<N> {
    /// Adopts logged-in connections as sessions, at most [`HANDOVERS_PER_TURN`].
    pub(super) fn take_handovers(&mut self) {
        self.inlets.check_external_work(&self.mailbox);
        for _ in 0..HANDOVERS_PER_TURN {
            let Some(handover) = self.inlets.handovers.take() else { return };
            self.adopt(handover);
        }
    }

    fn adopt(&mut self, handover: Handover<N::Socket>) {
        let Handover { socket, unread, uid, protocol, rights, expires, login, peer, permit } = handover;
        let verdict = self.judge_login(&uid, login);
        let expires = expires.map_or(Expiry::NEVER, Expiry::at);
        let wall = self.network.wall_time();
        let key = self.sessions.insert(Box::new(Session {
            socket,
            reader: Default::default(),
            unread: (!unread.is_empty()).then(|| Box::new(Unread { bytes: unread, ..Unread::default() })),
            meter: Meter::new(&self.settings, self.tick),
            outbox: None,
            log_from: self.logs.of(protocol.encoding()).end(),
            hash: uid.hash(),
            login,
            peer,
            _permit: permit,
            since: WallTime::of(wall),
            heard: self.tick,
            message_since: self.tick,
            close_by: self.tick,
            timer: Tick::NEVER,
            held: Counted::default(),
            serial: 0,
            expires,
            discarded: 0,
            phase: Phase::Open,
            protocol,
            rights,
            flags: Flags::default(),
            listed: Listed::default(),
        }));
        debug!(
            shard = self.index,
            session = %key,
            uid = uid.as_str(),
            peer = peer.map(tracing::field::display),
            "login"
        );
        let Some(session) = self.sessions.present(key) else { return };
        if let Err(error) = self.network.add(&mut session.socket, key) {
            return self.connection_lost(key, &error);
        }
        // The poller does not report bytes that TLS has received already.
        session.flags.is_readable = session.socket.has_unread();
        self.stats.logins += 1;
        self.account(key);
        let expires = expires.left(wall).map_or(Tick::NEVER, |left| self.tick.after(left));
        self.wake_at(key, self.tick.after(self.settings.heartbeat_interval).min(expires));
        match verdict {
            LoginVerdict::Refuse(code) => {
                let reason = CloseReason::of(code);
                if code != close::REPLACED {
                    self.stats.refused += 1;
                    if let Some(error) = protocol.error(reason.text) {
                        self.reply(key, &error);
                    }
                }
                return self.close(key, reason, Unsent::Keep);
            }
            LoginVerdict::Replace(older) => {
                // Registered before the older sessions close, so that the uid is online all the time.
                self.register(&uid, key, protocol);
                for older in older {
                    self.stats.replaced += 1;
                    self.close(older, CloseReason::of(close::REPLACED), Unsent::Keep);
                }
            }
            LoginVerdict::Add => {
                let is_first = self.register(&uid, key, protocol);
                if let Some(presence) = self.presence.as_ref().filter(|_| is_first) {
                    presence.send(uid.as_str().into(), Change::Online, self.now);
                }
            }
        }
        if let Some(reply) = protocol.login_reply(&self.settings.login_reply, uid.as_str()) {
            self.reply(key, &reply);
        }
        if self.drain.is_some() {
            return self.close(key, self.drain_reason(), Unsent::Keep);
        }
        self.enqueue_unread(key);
    }

    /// Adds an open session to the registry, and to the receivers of its encoding; returns whether it is the first of
    /// its uid.
    fn register(&mut self, uid: &Uid, key: SessionKey, protocol: Protocol) -> bool {
        self.logs.add_receiver(protocol.encoding());
        self.registry.insert(uid, key)
    }

    /// Decides how to treat a login by the setting `duplicate_login`.
    fn judge_login(&mut self, uid: &Uid, login: LoginNumber) -> LoginVerdict {
        let held = self.registry.find(uid.hash(), uid.as_str().as_bytes()).to_vec();
        if held.is_empty() {
            return LoginVerdict::Add;
        }
        match self.settings.duplicate_login {
            DuplicateLogin::Share if held.len() < self.settings.uid_sessions_max => LoginVerdict::Add,
            DuplicateLogin::Share => LoginVerdict::Refuse(close::UID_FULL),
            DuplicateLogin::Reject => LoginVerdict::Refuse(close::UID_TAKEN),
            DuplicateLogin::Replace => {
                // A session with a higher login number logged in later, even if its hand-over came first.
                if held.iter().any(|&key| self.sessions.present(key).is_some_and(|other| other.login > login)) {
                    return LoginVerdict::Refuse(close::REPLACED);
                }
                LoginVerdict::Replace(held)
            }
        }
    }

    fn enqueue_unread(&mut self, key: SessionKey) {
        if self.sessions.present(key).is_some_and(|session| session.has_input()) {
            self.enqueue(key);
        }
    }
}
