//! WebSocket push server.

pub mod cli;
mod gateway;
pub mod message;
pub mod uid;
