//! WebSocket frames (RFC 6455) as a server sends them.
//!
//! Answers are written with [`encode`] into bytes that a session sends; [`extent`] walks them.

pub mod close;
mod writer;

pub use writer::{Extent, HEADER_BYTES_MAX, Header, Opcode, encode, encode_close, extent};
