//! The begin and the end of connections, and the return of visitors.

use std::mem;
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::super::BenchError;
use super::super::client::{Client, Ending, Phase};
use super::super::secure::Secure;
use super::super::wire::{self, opcode};
use super::Generator;
use super::due::{Credit, Idle};

/// Longest wait for connections that close without progress.
const CLOSING_PATIENCE: Duration = Duration::from_secs(2);

impl Generator {
    /// Begins one more connection.
    pub(in super::super) fn connect_next(&mut self) -> Result<(), BenchError> {
        let client = self.connect(self.connections())?;
        self.clients.push(client);
        Ok(())
    }

    fn connect(&mut self, index: u32) -> Result<Client, BenchError> {
        let address = self.target.address;
        let failed = |source| BenchError::Connect { address, source };
        let mut client = Client::connect(address, self.target.source(index), self.now()).map_err(failed)?;
        if let Some(identity) = &self.target.secure {
            client.secure = Some(Box::new(Secure::new(identity).map_err(failed)?));
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut client.socket, Token(index as usize), interest).map_err(failed)?;
        self.logging_in += 1;
        Ok(client)
    }

    /// Closes the connections of visitors that leave, and opens those of visitors that come back.
    #[cold]
    pub(super) fn change_over(&mut self) -> Result<(), BenchError> {
        for index in mem::take(&mut self.due.leaving) {
            if self.clients[index as usize].phase == Phase::Open {
                self.leaving += 1;
                self.say_goodbye(index as usize, Phase::Leaving)?;
            }
        }
        for index in mem::take(&mut self.returning) {
            match self.connect(index) {
                Ok(client) => {
                    self.clients[index as usize] = client;
                    self.due.credits[index as usize] = Credit::default();
                }
                Err(error) => self.lose(error.to_string()),
            }
        }
        Ok(())
    }

    /// Sends the uid.
    pub(super) fn log_in(&mut self, index: usize) -> Result<(), Ending> {
        let mut frame = Vec::new();
        wire::push_frame(&mut frame, opcode::TEXT, self.target.uid(index as u32).as_bytes());
        self.clients[index].phase = Phase::LoggingIn;
        let sent = self.clients[index].send(&frame)?;
        self.note(index, sent)
    }

    /// Ends a connection; fails if the run can't go on without it.
    #[cold]
    pub(super) fn end(&mut self, index: usize, ending: Ending) -> Result<(), BenchError> {
        let client = &mut self.clients[index];
        // A socket that can't be deregistered or shut down is closed with the generator.
        let _ = self.poll.registry().deregister(&mut client.socket);
        let _ = client.socket.shutdown(std::net::Shutdown::Both);
        let uid = self.target.uid(index as u32);
        let phase = mem::replace(&mut client.phase, Phase::Ended);
        if phase == Phase::Leaving {
            self.leaving -= 1;
            self.returning.push(index as u32);
            return Ok(());
        }
        self.ended += 1;
        match (phase, ending) {
            (Phase::Connecting | Phase::Upgrading | Phase::LoggingIn, ending) if self.is_established => {
                self.logging_in -= 1;
                self.lose(format!("cannot log in again as {uid}: the connection was {ending}"));
                Ok(())
            }
            (Phase::Connecting, Ending::Broken(source)) => {
                Err(BenchError::Connect { address: self.target.address, source })
            }
            (Phase::Connecting | Phase::Upgrading | Phase::LoggingIn, ending) => {
                Err(BenchError::Login { uid, ending: ending.to_string() })
            }
            (Phase::Open, ending) => {
                self.lose(format!("the connection of {uid} was {ending}"));
                Ok(())
            }
            (Phase::Closing | Phase::Leaving | Phase::Ended, _) => Ok(()),
        }
    }

    /// Counts a connection that ended unexpectedly.
    pub(super) fn lose(&mut self, why: String) {
        self.lost.get_or_insert((why, 0)).1 += 1;
    }

    /// Sends a close frame with code 1000.
    fn say_goodbye(&mut self, index: usize, phase: Phase) -> Result<(), BenchError> {
        let mut frame = Vec::new();
        wire::push_frame(&mut frame, opcode::CLOSE, &1000_u16.to_be_bytes());
        self.clients[index].phase = phase;
        let sent = self.clients[index].send(&frame);
        match sent.and_then(|sent| self.note(index, sent)) {
            Ok(()) => Ok(()),
            Err(ending) => self.end(index, ending),
        }
    }

    /// Closes every connection with code 1000, and waits a little for the server to do its part.
    pub(in super::super) fn close(mut self) -> Result<(), BenchError> {
        for index in 0..self.clients.len() {
            if self.clients[index].phase == Phase::Open {
                self.say_goodbye(index, Phase::Closing)?;
            }
        }
        let mut progress = (self.ended, Instant::now());
        while self.ended < self.connections() && progress.1.elapsed() < CLOSING_PATIENCE {
            self.turn(&mut Idle, Duration::from_millis(100))?;
            if self.ended != progress.0 {
                progress = (self.ended, Instant::now());
            }
        }
        Ok(())
    }
}
