//! WebSocket push server.

pub mod cli;
pub mod config;
pub mod frame;
mod gateway;
pub mod mailbox;
pub mod message;
pub mod metrics;
pub mod protocol;
pub mod router;
pub mod server;
pub mod shard;
mod sync;
pub mod uid;

pub use config::{Config, Listen};
pub use metrics::Stats;
pub use server::{Handle, Server, StartError};
