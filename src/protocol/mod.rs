//! What data messages mean: sans-I/O, from a message to a command and from an outcome to a reply.
//!
//! One file per protocol; a session speaks one of them from its login on.

pub mod plain;
