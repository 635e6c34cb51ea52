//! WebSocket push server.

pub mod frame;
pub mod mailbox;
pub mod message;
pub mod router;
mod sync;
pub mod uid;
