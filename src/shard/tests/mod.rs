//! Turns over memory, one at a time, with a clock that is set by hand.

mod budget;
mod clock;
mod flow;
mod life;
mod limits;
mod memory;
mod simulation;
mod turn;
