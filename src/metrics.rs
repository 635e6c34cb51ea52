//! What a node counts: plain fields, one set per shard, added up when somebody asks.
//!
//! A shard counts in its own [`Stats`] without atomics; no cache line is shared on the message path.

/// Counts of one shard since it started, or their sum over the shards of a node.
///
/// `sessions`, `uids` and `memory_held` are what is there now; everything else only grows. Units are in the names, or
/// messages where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions logged in now.
    pub sessions: u64,
    /// Uids with at least one session now.
    pub uids: u64,
    /// Connections that logged in.
    pub logins: u64,
    /// Sessions closed because a newer login took their uid.
    pub replaced: u64,
    /// Logins refused because the uid was taken or full.
    pub refused: u64,
    /// Messages accepted into the outbox of one session, by unicast.
    pub delivered: u64,
    /// Unicasts to a uid that nobody was logged in under.
    pub offline: u64,
    /// Broadcasts taken, once per shard that has them from its own clients or callers.
    pub broadcasts: u64,
    /// Messages due to sessions by broadcasts.
    pub broadcast_deliveries: u64,
    /// Data messages without a colon, answered with an error.
    pub invalid: u64,
    /// Messages to a uid whose sender lacks the right unicast, answered with an error.
    pub forbidden_unicasts: u64,
    /// Messages to everybody whose sender lacks the right broadcast, answered with an error.
    pub forbidden_broadcasts: u64,
    /// Messages not taken because an outbox was full, under `drop-newest`, or since nothing older could go.
    pub shed_newest: u64,
    /// Messages taken and dropped again to make room, under `drop-oldest`.
    pub shed_oldest: u64,
    /// Messages taken and dropped because their session was closed or lost before they were sent.
    pub shed_closed: u64,
    /// Messages in hand for a shard that had ended.
    pub shed_shard_gone: u64,
    /// Sessions closed because their outbox was full.
    pub slow_consumers: u64,
    /// Sessions closed because their peer broke the protocol.
    pub violations: u64,
    /// Sessions closed for silence or for a message not finished in time.
    pub timeouts: u64,
    /// Times that a session was not read for a while, as it was over its rate.
    pub rate_pauses: u64,
    /// Sessions closed because they stayed over their rate.
    pub rate_limited: u64,
    /// Sessions closed because the shard's part of the memory budget was used up and they held most of it.
    pub memory_cuts: u64,
    /// Bytes of memory that sessions hold now: parts of messages, and what waits to be decoded or sent.
    pub memory_held: u64,
    /// Sessions closed because their credential's time was over.
    pub expired: u64,
    /// Sessions ended by a panic in the per-session part.
    pub panics: u64,
    /// Sessions closed because somebody asked for it.
    pub kicked: u64,
    /// Answers to a caller who had gone.
    pub answers_dropped: u64,
    /// Batches of mail posted to other shards.
    pub mail_batches: u64,
    /// Messages taken out of mail from other shards.
    pub mail_letters: u64,
    /// Events that the service of the hook has taken.
    pub hook_events: u64,
    /// Events that the service of the hook is not told, since they were too many or too old.
    pub hook_lost: u64,
    /// Attempts to give a batch to the service of the hook that failed.
    pub hook_failures: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Bytes received, frame headers included.
    pub bytes_in: u64,
    /// Bytes sent, frame headers included.
    pub bytes_out: u64,
    /// Send calls.
    pub sends: u64,
    /// Send calls whose socket took less than was offered.
    pub sends_refused: u64,
    /// Passes of the loop.
    pub turns: u64,
}

impl Stats {
    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        let Self {
            sessions,
            uids,
            logins,
            replaced,
            refused,
            delivered,
            offline,
            broadcasts,
            broadcast_deliveries,
            invalid,
            forbidden_unicasts,
            forbidden_broadcasts,
            shed_newest,
            shed_oldest,
            shed_closed,
            shed_shard_gone,
            slow_consumers,
            violations,
            timeouts,
            rate_pauses,
            rate_limited,
            memory_cuts,
            memory_held,
            expired,
            panics,
            kicked,
            answers_dropped,
            mail_batches,
            mail_letters,
            hook_events,
            hook_lost,
            hook_failures,
            frames_in,
            bytes_in,
            bytes_out,
            sends,
            sends_refused,
            turns,
        } = other;
        self.sessions += sessions;
        self.uids += uids;
        self.logins += logins;
        self.replaced += replaced;
        self.refused += refused;
        self.delivered += delivered;
        self.offline += offline;
        self.broadcasts += broadcasts;
        self.broadcast_deliveries += broadcast_deliveries;
        self.invalid += invalid;
        self.forbidden_unicasts += forbidden_unicasts;
        self.forbidden_broadcasts += forbidden_broadcasts;
        self.shed_newest += shed_newest;
        self.shed_oldest += shed_oldest;
        self.shed_closed += shed_closed;
        self.shed_shard_gone += shed_shard_gone;
        self.slow_consumers += slow_consumers;
        self.violations += violations;
        self.timeouts += timeouts;
        self.rate_pauses += rate_pauses;
        self.rate_limited += rate_limited;
        self.memory_cuts += memory_cuts;
        self.memory_held += memory_held;
        self.expired += expired;
        self.panics += panics;
        self.kicked += kicked;
        self.answers_dropped += answers_dropped;
        self.mail_batches += mail_batches;
        self.mail_letters += mail_letters;
        self.hook_events += hook_events;
        self.hook_lost += hook_lost;
        self.hook_failures += hook_failures;
        self.frames_in += frames_in;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.sends += sends;
        self.sends_refused += sends_refused;
        self.turns += turns;
    }
}
