//! WebSocket push server.

pub mod message;
pub mod uid;
