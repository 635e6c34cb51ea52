//! Tests that run the turns of a shard one by one, over memory and a clock that is set by hand.

mod budget;
mod clock;
mod flow;
mod frames;
mod keys;
mod life;
mod limits;
mod mail;
mod memory;
mod protocols;
mod simulation;
mod turn;
