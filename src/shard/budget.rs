//! The budgets of a turn, in deliveries and in bytes: the work that it may take in before it flushes.
//!
//! Not in reads, as one read can hold thousands of broadcasts. Work that is left when a budget is spent stays where it
//! is until the next turn.

/// Deliveries that may be made for one connection in a turn, and for everything that a turn takes in.
pub(super) const CONNECTION_DELIVERIES: usize = 16 << 10;
pub(super) const TURN_DELIVERIES: usize = 128 << 10;

/// Bytes that may be queued for one connection in a turn, and for everything that a turn takes in.
const CONNECTION_BYTES: usize = 1 << 20;
pub(super) const TURN_BYTES: usize = 8 << 20;

/// A budget: the work that may still be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) deliveries: usize,
    pub(super) bytes: usize,
}

/// The cost of one message, or of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) deliveries: usize,
    pub(super) bytes: usize,
}

impl Cost {
    /// Returns the cost of the same message for so many receivers.
    pub(super) fn times(self, receivers: usize) -> Self {
        Self { deliveries: self.deliveries.saturating_mul(receivers), bytes: self.bytes.saturating_mul(receivers) }
    }
}

impl Budget {
    /// Budget of one connection in a turn.
    pub(super) const CONNECTION: Self = Self { deliveries: CONNECTION_DELIVERIES, bytes: CONNECTION_BYTES };

    /// Budget of everything that a turn takes in.
    const TURN: Self = Self { deliveries: TURN_DELIVERIES, bytes: TURN_BYTES };

    /// Budget of a turn for the requests that are served between slices: as much as one connection has.
    const MID_TURN: Self = Self::CONNECTION;

    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.deliveries == 0 || self.bytes == 0
    }

    #[inline]
    pub(super) fn spend(&mut self, cost: Cost) {
        self.deliveries = self.deliveries.saturating_sub(cost.deliveries);
        self.bytes = self.bytes.saturating_sub(cost.bytes);
    }
}

/// The budgets of a turn: one for everything that it takes in, and one for the requests that it serves between slices
/// of that, so that neither side uses up the other's.
#[derive(Debug)]
pub(super) struct TurnBudget {
    /// The one that is spent from now.
    current: Budget,
    /// The other one.
    other: Budget,
}

impl TurnBudget {
    /// Makes budgets of which the first turn has yet to come.
    pub(super) fn new() -> Self {
        Self { current: Budget { deliveries: 0, bytes: 0 }, other: Budget::MID_TURN }
    }

    /// Begins a turn: both budgets are whole, and the turn's is spent from.
    pub(super) fn renew(&mut self) {
        *self = Self { current: Budget::TURN, other: Budget::MID_TURN };
    }

    /// Changes from the turn's budget to that of requests between slices, or back.
    pub(super) fn switch(&mut self) {
        std::mem::swap(&mut self.current, &mut self.other);
    }

    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.current.is_spent()
    }

    #[inline]
    pub(super) fn spend(&mut self, cost: Cost) {
        self.current.spend(cost);
    }

    /// Returns the rest of the budget that is spent from now.
    #[inline]
    pub(super) fn left(&self) -> Budget {
        self.current
    }
}
