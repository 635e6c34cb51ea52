//! WebSocket push server.

pub mod cli;
pub mod message;
pub mod uid;
