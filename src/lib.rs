//! WebSocket push server.

pub mod cli;
pub mod config;
pub mod message;
pub mod server;
pub mod uid;

pub use server::{Handle, Server, StartError};
