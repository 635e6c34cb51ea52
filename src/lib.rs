//! WebSocket push server.

mod gateway;
pub mod message;
pub mod uid;
