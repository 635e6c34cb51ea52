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
//! What stands lower knows nothing of what stands higher; `tests/tidy.rs` holds it so.
//!
//! | room | holds |
//! | --- | --- |
//! | [`cli`] | `pombo serve`, `connect`, `push`, `online`, `kick`, `top`; `bench`, which becomes `pombo-bench` |
//! | [`server`] | the only wiring: a checked config, then bound, then running, then drained |
//! | `dispatcher` | the way to the shards from outside the message path |
//! | `control` | what other programs reach: pushes, queries and actions over HTTP, the console, pushes by lines of JSON |
//! | `gateway` | where connections come in: accept, TLS, upgrade, login, hand-over; the page |
//! | [`shard`] | one thread, its event loop, and everything that loop owns |
//! | [`presence`] | what a shard tells when a uid comes or goes |
//! | [`config`], [`metrics`] | the settings; what is counted |
//! | [`router`] | from a uid to the shard that owns it |
//! | [`mailbox`] | mail from shard to shard, one wake per batch; its atomics come from `sync` |
//! | [`protocol`] | what a message means |
//! | [`frame`] | WebSocket frames, bytes in and messages out |
//! | `listener` | sockets that are listened on |
//! | `log_sink` | the way of log lines to a stream that may take nothing more |
//! | `roots`, `service` | whom to trust over TLS as a client; the HTTP client that asks services |
//! | `descriptors` | how many open files there may be, and room for them |
//! | `clock` | the wall clock, which may show anything |
//! | `vital` | tasks without which the node would be half a node |
//! | `host` | whether a request names the host that it is for |
//! | `backoff` | how long to wait before another attempt |
//! | `blocking` | work that may never end, such as reading a file, off the threads that serve |
//! | `bounded_file` | reads a whole file of bounded length |
//! | `linger` | the end of a connection whose peer may still be sending |
//! | `watched_files` | when files that have changed are read again |
//! | `trace` | the trace that a request belongs to |
//! | [`uid`], [`message`], [`rights`], `peer` | the vocabulary |
//!
//! # Invariants
//!
//! 1. A session, its outbox and its registry entry are touched by one thread from hand-over to close.
//! 2. No shard knows another; all that crosses is mail. No lock, no shared map, no global on the way of a message.
//! 3. Every queue, buffer, wait and count has a bound, a default, and a policy when it is hit; every drop is counted.
//! 4. A shard never waits for another shard.
//! 5. A bad peer ends its own session only. A broken invariant ends the process: half a node is worse than none.
//! 6. A shard does no I/O of its own: clock, sockets and mail come in through a seam.
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
