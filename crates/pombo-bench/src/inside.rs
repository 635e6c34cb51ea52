//! A server inside of this process: only there is it known which shard owns a uid, because the hash has a secret key.
//!
//! Its threads are not the generator's, so the two are measured apart all the same.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use pombo::{Config, Handle, Listen, Server};

use super::BenchError;
use super::target::Target;

/// Most names that are tried for a connection until the wanted shard owns one: enough for hundreds of shards.
const ATTEMPTS_MAX: u32 = 100_000;

/// Which shards own the two of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Placement {
    /// The same.
    Same,
    /// Different ones.
    Cross,
}

/// A running server; drained when dropped.
pub(super) struct Inside {
    node: Handle,
}

impl Inside {
    /// Starts a server with so many shards on a port of its own, and aims `target` at it.
    pub(super) fn start(shards: u16, target: &mut Target) -> Result<Self, BenchError> {
        let failed = |why: String| BenchError::Start { server: "the server inside of this process".into(), why };
        let shards = NonZeroUsize::new(shards.into()).ok_or_else(|| failed("it has no shards".into()))?;
        let listen = "127.0.0.1:0".parse::<Listen>().map_err(|error| failed(error.to_string()))?;
        let config = Config { listen: vec![listen], shards, control: None, ..Config::default() };
        let server = Server::bind(config).map_err(|error| failed(error.to_string()))?;
        let Listen::Tcp(address) = server.addresses()[0].clone() else { unreachable!("it was told to listen on TCP") };
        (target.address, target.authority, target.is_inside) = (address, address.to_string(), true);
        let node = server.start().map_err(|error| failed(error.to_string()))?;
        Ok(Self { node })
    }

    /// Chooses uids for so many connections, the pairs among which are placed so.
    pub(super) fn uids(
        &self,
        target: &Target,
        connections: u32,
        placement: Placement,
    ) -> Result<Vec<String>, BenchError> {
        let mut uids: Vec<String> = Vec::with_capacity(connections as usize);
        for index in 0..connections {
            let mut uid = target.uid(index);
            if index % 2 == 1 {
                let shard = self.node.shard_of(&uids[index as usize - 1]);
                let fits = |uid: &str| (self.node.shard_of(uid) == shard) == (placement == Placement::Same);
                let len = uid.len();
                let mut attempts = 0..ATTEMPTS_MAX;
                while !fits(&uid) {
                    let attempt = attempts.next().ok_or_else(|| {
                        BenchError::Arguments(format!("no uid found for a pair placed {placement:?}"))
                    })?;
                    uid.truncate(len);
                    let _ = write!(uid, ".{attempt}");
                }
            }
            uids.push(uid);
        }
        Ok(uids)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(self.node.drain());
    }
}
