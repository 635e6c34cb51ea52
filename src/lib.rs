//! WebSocket push server.

pub mod frame;
pub mod message;
pub mod uid;
