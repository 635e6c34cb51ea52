//! WebSocket frames (RFC 6455) as a server sees them: bytes in, messages and violations out.
//!
//! Sans-I/O: a session owns a [`Reader`] and gives it the bytes that its socket received; it writes answers
//! with [`encode`] into its outbox. Nothing here waits, knows a socket, a shard or
//! a clock, or is shared between threads. Extensions are not negotiated, so reserved bits are refused.
//!
//! ```text
//!   received bytes ──► Reader::read ──► Event: Message, Ping, Pong, Close
//!    (unmasked in           │
//!     place)                └──► Violation: the peer broke the protocol, with its close code
//!   outbox ◄── encode, encode_close, Header        extent: walks the outbox frame by frame
//! ```
//!
//! Cost: a whole frame inside the received bytes is unmasked and checked in one pass and
//! borrowed from there, with no copy and no allocation. A frame that arrives in several reads is copied once into the
//! message's own buffer, however it is cut; a complete message is one contiguous piece.

pub mod close;
mod head;
mod mask;
mod partial;
mod reader;
mod violation;
mod writer;

pub use mask::unmask;
pub use reader::{Event, Payload, Reader};
pub use violation::Violation;
pub use writer::{Extent, HEADER_BYTES_MAX, Header, Opcode, encode, encode_close, extent};
