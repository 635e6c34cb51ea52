//! Attacks on a node, and those who notice: shared by `cargo bench --bench attacks` and `cargo test --test attacks`.

pub(crate) mod attack;
pub(crate) mod canary;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod vitals;
