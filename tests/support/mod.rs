//! What the end-to-end tests are written with: a node in this process, and a client that says and sees every byte.
//!
//! Nothing in here waits for luck: every read, write and condition has [`DEADLINE`], and silence is proved by a
//! round trip. Each test runs with one shard and with several, see [`nodes`].

#![allow(dead_code, unused_imports, reason = "every test file includes all of it, and uses the part it needs")]

mod ask;
mod client;
mod frame;
mod hanging;
mod held;
mod http;
mod interpreter;
mod node;
mod patience;
mod program;
mod service;
mod sibling;
mod tls;
mod token;

pub(crate) use ask::Ask;
pub(crate) use client::Client;
pub(crate) use frame::{Frame, Sent};
pub(crate) use hanging::HangingFile;
pub(crate) use held::Held;
pub(crate) use http::{Request, Response};
pub(crate) use interpreter::{interpreter, run};
pub(crate) use node::{Node, Nodes, nodes};
pub(crate) use patience::{DEADLINE, eventually};
pub(crate) use program::Program;
pub(crate) use service::{Reply, Service};
pub(crate) use sibling::sibling;
pub(crate) use tls::{Authority, LOCAL, Secured, secure};
pub(crate) use token::{SECRET, Signer, claims, seconds_from_now};
