//! The node: a checked config becomes a bound server, which runs and hands back the handle that drains it.
//!
//! Only the listeners exist so far; nothing accepts on them yet.

use std::io;
use std::net::TcpListener;

use crate::config::{Config, Faults, Listen};

/// A node whose listeners are open and which does not run yet.
pub struct Server {
    listeners: Vec<TcpListener>,
    addresses: Vec<Listen>,
}

/// A running node.
pub struct Handle {
    _listeners: Vec<TcpListener>,
}

/// Why a node can't start; the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] Faults),
    /// An address can't be listened on.
    #[error("cannot listen on {listen}: {}{}", source.kind(), hint(source))]
    Listen {
        /// The address.
        listen: Listen,
        /// What the operating system said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another pombo running? choose another with --listen)",
        _ => "",
    }
}

impl Server {
    /// Checks the config and opens every listener.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        config.check()?;
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for listen in config.listen {
            let opened = match &listen {
                Listen::Tcp(address) => TcpListener::bind(address),
                Listen::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            };
            let bound = opened.and_then(|listener| Ok((listener.local_addr()?, listener)));
            let (address, listener) = bound.map_err(|source| StartError::Listen { listen, source })?;
            addresses.push(Listen::Tcp(address));
            listeners.push(listener);
        }
        Ok(Self { listeners, addresses })
    }

    /// Returns the real addresses, in the order of the config.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// Starts the node's threads.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> Result<Handle, StartError> {
        Ok(Handle { _listeners: self.listeners })
    }
}

impl Handle {
    /// Hands the settings that can change while running to every thread.
    pub fn reload(&self, _config: &Config) {}

    /// Stops accepting and closes every session; returns when all are closed.
    ///
    /// # Cancel safety
    /// A drain that was begun goes on when the future is dropped.
    pub async fn drain(&self) {}
}
