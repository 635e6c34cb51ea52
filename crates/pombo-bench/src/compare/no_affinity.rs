//! In place of `affinity.rs` on systems that can't keep a thread on a core: there is no comparison.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::super::BenchError;

/// A set of cores, of which there are none here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cores(Infallible);

impl Cores {
    pub(super) fn one(&self, _index: usize) -> Cores {
        match self.0 {}
    }
}

impl FromStr for Cores {
    type Err = &'static str;

    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        Err("cores can be chosen on Linux only")
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

impl serde::Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {}
    }
}

pub(super) fn allowed() -> Result<Cores, BenchError> {
    Err(BenchError::Arguments(
        "compare runs on Linux only: it keeps the servers and the generator on their cores".into(),
    ))
}

pub(super) fn pin(cores: &Cores) -> Result<(), BenchError> {
    match cores.0 {}
}
