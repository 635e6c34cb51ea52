//! WebSocket push server.

pub mod config;
pub mod message;
pub mod uid;
