//! A WebSocket push server: it delivers a message to one user by uid, or to everybody, on every core of one machine.
//!
//! ```text
//!            clients                               the program around it
//!               │                                        │ Handle
//!   ┌───────────▼──────────┐                             │
//!   │ gateway (tokio)      │ accept, TLS, upgrade, login │
//!   └───────────┬──────────┘                             │
//!               │ hand-over: a connection, as one value  │ push, broadcast, stats, drain
//!     ┌─────────┴─────────┬───────────────────┬──────────┘
//!     ▼                   ▼                   ▼
//!  ┌─────────┐  mail   ┌─────────┐  mail   ┌─────────┐
//!  │ shard 0 │◀───────▶│ shard 1 │◀── … ──▶│ shard N │  a thread each, with its own poller
//!  └─────────┘         └─────────┘         └─────────┘
//! ```
//! The command line is [`cli`]. A program of its own binds a [`Server`], starts it, and pushes through its [`Handle`]:
//!
//! ```no_run
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! use pombo::message::Kind;
//! use pombo::{Config, Server};
//!
//! let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], control: None, ..Config::default() })?;
//! println!("listening on {}", server.addresses()[0]);
//! let node = server.start()?;
//! node.push("alice", Kind::Text, "hi from Rust").await;
//! node.drain().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Rooms
//!
//! A room imports only from rooms below it; `tests/tidy.rs` checks this.
//!
//! | room | holds |
//! | --- | --- |
//! | [`cli`] | `pombo serve`, `connect`, `push`, `online`, `kick`, `top`; `bench`, which becomes `pombo-bench` |
//! | [`server`] | makes, connects, starts and drains the parts of a node |
//! | `dispatcher` | requests to the shards from outside the message path |
//! | `control` | the interface for other programs: HTTP API, console, text port for lines of JSON |
//! | `gateway` | where connections come in: accept, TLS, upgrade, login, hand-over; the page |
//! | [`shard`] | one thread, its event loop, and everything that loop owns |
//! | [`presence`] | events: a uid comes online or goes offline |
//! | [`config`], [`metrics`] | the settings; the counts |
//! | [`router`] | from a uid to the shard that owns it |
//! | [`mailbox`] | mail from shard to shard, one wake per batch; its atomics come from `sync` |
//! | [`protocol`] | parses clients' messages, and encodes messages to clients |
//! | [`frame`] | WebSocket frames, bytes in and messages out |
//! | `listener` | listening sockets |
//! | `log_sink` | writes log lines to a stream that may block |
//! | `refused_clients` | log lines about refused clients that may guess credentials, so many a second |
//! | `roots`, `service` | the root certificates that a TLS client trusts; the HTTP client for the operator's services |
//! | `descriptors` | the limit on file descriptors, room in the kernel's table, a reserve |
//! | `clock` | the wall clock, and its limits |
//! | `vital` | tasks and threads whose panic ends the process |
//! | `host` | checks the `Host` header |
//! | `backoff` | the wait before another attempt |
//! | `blocking` | runs work that may never end, such as reading a file, outside of the threads that serve |
//! | `bounded_file` | reads a whole file of bounded length |
//! | `linger` | ends a connection whose peer may still be sending |
//! | `watched_files` | reads files again when they have changed |
//! | `trace` | W3C trace context |
//! | [`uid`], [`message`], [`rights`], `peer` | the vocabulary |
//!
//! # Invariants
//!
//! 1. A session, its outbox and its registry entry are touched by one thread from hand-over to close.
//! 2. No shard knows another; shards exchange nothing but mail. The message path has no lock, no shared map, no global.
//! 3. Every queue, buffer, wait and count has a bound, a default, and a policy when it is hit; every drop is counted.
//! 4. A shard never waits for another shard.
//! 5. A bad peer ends its own session only. A broken invariant ends the process: half a node is worse than none.
//! 6. A shard does no I/O of its own: it reaches clock, sockets and poller through the traits of `shard::io`.
//!
//! `docs/architecture.md` has the reasons.

mod backoff;
mod blocking;
mod bounded_file;
pub mod cli;
mod clock;
pub mod config;
mod control;
#[doc(hidden)]
pub mod descriptors;
mod dispatcher;
pub mod frame;
mod gateway;
mod host;
mod linger;
mod listener;
mod log_sink;
pub mod mailbox;
pub mod message;
pub mod metrics;
mod peer;
pub mod presence;
pub mod protocol;
mod refused_clients;
pub mod rights;
#[doc(hidden)]
pub mod roots;
pub mod router;
pub mod server;
mod service;
pub mod shard;
mod sync;
mod trace;
pub mod uid;
mod vital;
mod watched_files;

pub use config::{Config, Listen};
pub use control::{ControlTokensError, Problem};
pub use dispatcher::{Cursor, KickError, Push, Uids};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use gateway::fuzzing;
pub use gateway::{Reason, RefusalAnswer};
pub use log_sink::LogSink;
pub use metrics::{NodeCounts, Stats};
pub use peer::Peer;
pub use server::{ClockError, ControlAddresses, Handle, PassedSockets, Server, StartError};
pub use shard::SessionInfo;
