//! WebSocket push server.

pub mod cli;
pub mod config;
pub mod frame;
mod gateway;
pub mod mailbox;
pub mod message;
pub mod router;
pub mod server;
mod sync;
pub mod uid;

pub use config::{Config, Listen};
pub use server::{Handle, Server, StartError};
