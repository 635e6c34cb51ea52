//! The counts of a node: plain fields, one set per shard, added up for each query.
//!
//! A shard counts in its own [`Stats`] without atomics; no cache line is shared on the message path. Each count has one row
//! in the tables of this file: its field, its docs, and its family and label for Prometheus.

use crate::frame::close;

/// The description of one count, a field of `C`, for Prometheus and the API.
#[derive(Clone, Copy, Debug)]
pub struct Metric<C = Stats> {
    /// The field of `C`.
    pub field: &'static str,
    /// Its family's name; the exposition adds `_total` to a counter's.
    pub family: &'static str,
    /// Its label and the label's value, if it is one of several in its family.
    pub label: Option<(&'static str, &'static str)>,
    /// Help text: one sentence on what is counted.
    pub help: &'static str,
    /// Whether it is a gauge, which may also fall.
    pub is_gauge: bool,
    /// Reads the value.
    pub read: fn(&C) -> u64,
}

macro_rules! counts {
    (
        $(#[doc = $about:literal])+
        struct $name:ident { $($(#[doc = $more_help:literal])+ $more:ident: $type:ty,)* }
        $($(#[doc = $help:literal])+ $kind:ident $field:ident => $family:literal $({ $label:ident = $value:literal })?;)*
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: u64,)*
            $($(#[doc = $more_help])+ pub $more: $type,)*
        }

        impl $name {
            /// The description of every count.
            pub const ALL: &'static [Metric<Self>] = &[$(Metric {
                field: stringify!($field),
                family: $family,
                label: counts!(@label $($label $value)?),
                help: concat!($($help),+),
                is_gauge: counts!(@$kind),
                read: |counts| counts.$field,
            },)*];

            /// Adds the counts of `other`.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                $(self.$more.add_up(&other.$more);)*
            }
        }
    };
    (@gauge) => { true };
    (@counter) => { false };
    (@label) => { None };
    (@label $label:ident $value:literal) => { Some((stringify!($label), $value)) };
}

counts! {
    /// Counts of one shard since it started, or their sum over the shards of a node.
    ///
    /// Gauges are values of now; all other counts only grow. Units are in the names; a name without one counts messages.
    /// Counts that no shard has are in [`NodeCounts`].
    struct Stats {
        /// Sessions closed with each code, in the order of [`close::ALL`]; the last element counts all other codes.
        closes: [u64; close::ALL.len() + 1],
        /// Durations of turns that had something to do, without the wait before each.
        turn_time: Histogram,
        /// How long batches of mail waited, from their post to the poll before they were taken.
        mail_wait: Histogram,
    }
    /// Open sessions now: connections that have logged in.
    gauge sessions => "pombo_sessions";
    /// Uids with at least one session now.
    gauge uids => "pombo_uids";
    /// Connections that logged in.
    counter logins => "pombo_logins" { outcome = "accepted" };
    /// Sessions closed because a newer login took their uid.
    counter replaced => "pombo_sessions_replaced";
    /// Logins refused because the uid was taken or full.
    counter refused => "pombo_logins" { outcome = "refused" };
    /// Messages accepted into the outbox of one session, by unicast.
    counter delivered => "pombo_deliveries" { kind = "unicast" };
    /// Unicasts to a uid without a session.
    counter offline => "pombo_offline";
    /// Broadcasts sent by clients; each counts once, in the sender's shard.
    counter broadcasts_sent => "pombo_broadcasts" { sender = "client" };
    /// Broadcasts received by a shard, from any sender; each counts once per shard.
    counter broadcasts => "pombo_broadcasts_taken";
    /// Messages that broadcasts are to deliver: one per broadcast and session.
    counter broadcast_deliveries => "pombo_deliveries" { kind = "broadcast" };
    /// Data messages without a colon, answered with an error.
    counter invalid => "pombo_client_errors" { reason = "invalid" };
    /// Messages to a uid whose sender lacks the right unicast, answered with an error.
    counter forbidden_unicasts => "pombo_client_errors" { reason = "forbidden-unicast" };
    /// Messages to everybody whose sender lacks the right broadcast, answered with an error.
    counter forbidden_broadcasts => "pombo_client_errors" { reason = "forbidden-broadcast" };
    /// Messages dropped because the receiver's outbox was full, or because their frame is longer than an outbox may be.
    counter shed_newest => "pombo_shed" { reason = "newest" };
    /// Messages dropped from an outbox to make room for newer ones, under `drop-oldest`.
    counter shed_oldest => "pombo_shed" { reason = "oldest" };
    /// Messages dropped from the outbox of a session that was closed or whose connection failed.
    counter shed_closed => "pombo_shed" { reason = "closed" };
    /// Messages dropped because their destination shard had ended.
    counter shed_shard_gone => "pombo_shed" { reason = "shard-gone" };
    /// Sessions closed because their outbox was full.
    counter slow_consumers => "pombo_slow_consumers";
    /// Sessions closed because their peer broke the protocol.
    counter violations => "pombo_violations";
    /// Sessions closed for silence or for a message not finished in time.
    counter timeouts => "pombo_timeouts";
    /// Pauses in reading a session, because it exceeded its rate.
    counter rate_pauses => "pombo_rate_pauses";
    /// Sessions closed because they stayed over their rate.
    counter rate_limited => "pombo_rate_limited";
    /// Sessions closed because the shard's part of the memory budget was used up and they held most of it.
    counter memory_cuts => "pombo_memory_cuts";
    /// Bytes of memory that sessions hold now: incomplete messages, input to decode, and frames to send.
    gauge memory_held => "pombo_memory_held_bytes";
    /// Bytes in outboxes now that the sockets have not accepted yet.
    gauge outbox_bytes => "pombo_outbox_bytes";
    /// Sessions closed because their credential expired.
    counter expired => "pombo_expired";
    /// Sessions closed because handling one of their messages panicked.
    counter panics => "pombo_panics";
    /// Sessions closed at a program's request.
    counter kicked => "pombo_kicked";
    /// Answers to requests whose caller no longer waited.
    counter answers_dropped => "pombo_answers_dropped";
    /// Batches of mail posted to other shards.
    counter mail_batches => "pombo_mail_batches";
    /// Messages received from other shards.
    counter mail_letters => "pombo_mail_letters";
    /// Frames received.
    counter frames_in => "pombo_frames_received";
    /// Frames queued to be sent: messages, answers, control frames. Those dropped later are counted as shed, too.
    counter frames_out => "pombo_frames_queued";
    /// Bytes received, frame headers included.
    counter bytes_in => "pombo_received_bytes";
    /// Bytes sent, frame headers included.
    counter bytes_out => "pombo_sent_bytes";
    /// Send system calls.
    counter sends => "pombo_sends";
    /// Send system calls that accepted less than was offered.
    counter sends_refused => "pombo_sends_refused";
    /// Turns of the event loop.
    counter turns => "pombo_turns";
    /// Sessions closed by the client: by a close frame, or by the end of its stream.
    counter closed_by_peer => "pombo_closed_by_peer";
    /// Sessions ended by a failed connection.
    counter lost => "pombo_lost";
    /// Bytes of mail to other shards that is not posted yet.
    gauge mail_bytes => "pombo_mail_bytes";
    /// Times that a session was not read because the mail to another shard was full.
    counter mail_stalls => "pombo_mail_stalls";
    /// Batches of mail in mailboxes now.
    gauge mailbox_batches => "pombo_mailbox_batches";
}

counts! {
    /// Counts of a node that no shard has: those of control, of the program around the node, and of the hook, since the start.
    struct NodeCounts {
        /// How long pushes of other programs took, from their arrival at control to their answer.
        push_time: Histogram,
    }
    /// Broadcasts of other programs, and of the program around the node, once each.
    counter broadcasts_pushed => "pombo_broadcasts" { sender = "program" };
    /// Events that the service of the hook has accepted.
    counter hook_events => "pombo_hook_events" { outcome = "delivered" };
    /// Events dropped before the service of the hook accepted them: too many waited, or they were too old.
    counter hook_lost => "pombo_hook_events" { outcome = "lost" };
    /// Requests to the service of the hook that failed.
    counter hook_failures => "pombo_hook_failures";
    /// Pushes, to one uid each, that at least one session accepted.
    counter pushes_delivered => "pombo_pushes" { outcome = "delivered" };
    /// Pushes to a uid without a session.
    counter pushes_offline => "pombo_pushes" { outcome = "offline" };
    /// Pushes that no session had room for.
    counter pushes_shed => "pombo_pushes" { outcome = "shed" };
    /// Pushes that were refused: they were invalid, or the shard was too busy.
    counter pushes_refused => "pombo_pushes" { outcome = "refused" };
    /// Pushes that the shard did not answer in time: they may have been delivered.
    counter pushes_unknown => "pombo_pushes" { outcome = "unknown" };
    /// Connections of control and of the text port that were closed because they had waited longest for their client, and another connection needed the slot or the descriptor.
    counter gave_way => "pombo_control_gave_way";
    /// Lines of the text port that were refused: without a receiver, too long, or of another protocol.
    counter text_refused => "pombo_text_refused";
}

/// The type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// It only grows; the exposition adds `_total` to its name.
    Counter,
    /// A value of now, which may also fall.
    Gauge,
    /// Counts of durations up to each of [`Histogram::BOUNDS`]: `_bucket`, `_sum`, `_count`.
    Histogram,
    /// Texts, as labels; the exposition adds `_info` to its name.
    Info,
}

/// A metric family that is in neither [`Stats::ALL`] nor [`NodeCounts::ALL`].
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, without the suffix that its type adds.
    pub name: &'static str,
    /// Its type.
    pub kind: FamilyKind,
    /// The label that distinguishes its values, if there are several; the labels of an info, separated by commas.
    pub label: Option<&'static str>,
    /// Help text.
    pub help: &'static str,
}

const fn family(name: &'static str, kind: FamilyKind, label: Option<&'static str>, help: &'static str) -> Family {
    Family { name, kind, label, help }
}

/// Every [`Family`], in the order of the exposition.
pub const FAMILIES: &[Family] = {
    use FamilyKind::{Counter, Gauge, Histogram, Info};
    const SHARD: Option<&str> = Some("shard");
    &[
        family(
            "pombo_build",
            Info,
            Some("version,revision,features"),
            "What runs: the version, its commit if that is known, the features it is built with",
        ),
        family("pombo_closes", Counter, Some("code"), "Sessions closed, by close code"),
        family("pombo_refusals", Counter, Some("reason"), "Connections refused before they were sessions"),
        family("pombo_api_problems", Counter, Some("problem"), "Requests of the API answered with a problem"),
        family("pombo_connections", Gauge, None, "Connections open now, logged in or not"),
        family("pombo_connections_max", Gauge, None, "Most connections, by the setting"),
        family(
            "pombo_connections_limit",
            Gauge,
            Some("by"),
            "Most connections that connections_max, the limit of open files, and half of the memory each allow: the least \
             of them is the ceiling",
        ),
        family(
            "pombo_memory_max_bytes",
            Gauge,
            None,
            "Most bytes that sessions may hold, by the setting memory_bytes_max",
        ),
        family(
            "pombo_starved_listeners",
            Gauge,
            None,
            "Listeners that can't accept now, for want of descriptors or memory",
        ),
        family(
            "pombo_log_lines_dropped",
            Counter,
            None,
            "Lines of the log that were dropped, since the stream that they go to took nothing more",
        ),
        family(
            "pombo_push_seconds",
            Histogram,
            None,
            "How long pushes of other programs took, from when control had them to their answer",
        ),
        family("pombo_shard_sessions", Gauge, SHARD, "Sessions of a shard now"),
        family("pombo_shard_mail_bytes", Gauge, SHARD, "Bytes of mail that a shard has in hand for others now"),
        family("pombo_shard_mailbox_batches", Gauge, SHARD, "Batches of mail that wait for a shard now"),
        family(
            "pombo_shard_turn_seconds",
            Histogram,
            SHARD,
            "How long the turns of a shard took, without the wait in front of each",
        ),
        family(
            "pombo_shard_mail_wait_seconds",
            Histogram,
            SHARD,
            "How long batches of mail waited for a shard, to the poll before they were taken",
        ),
        family("process_cpu_seconds", Counter, None, "CPU time used"),
        family("process_resident_memory_bytes", Gauge, None, "Resident memory"),
        family("process_virtual_memory_bytes", Gauge, None, "Virtual memory"),
        family("process_threads", Gauge, None, "Threads"),
        family("process_start_time_seconds", Gauge, None, "When the process started, since 1970"),
        family("process_open_fds", Gauge, None, "Open file descriptors"),
        family("process_max_fds", Gauge, None, "Most open file descriptors"),
    ]
};

impl Stats {
    /// Counts a session closed with `code`.
    pub(crate) fn count_close(&mut self, code: u16) {
        let known = close::ALL.iter().position(|(known, _, _)| *known == code);
        self.closes[known.unwrap_or(close::ALL.len())] += 1;
    }
}

/// Counts that can be added up.
trait AddUp {
    fn add_up(&mut self, other: &Self);
}

impl<const N: usize> AddUp for [u64; N] {
    fn add_up(&mut self, other: &Self) {
        self.iter_mut().zip(other).for_each(|(count, more)| *count += more);
    }
}

impl AddUp for Histogram {
    fn add_up(&mut self, other: &Self) {
        self.counts.add_up(&other.counts);
        self.sum_ns += other.sum_ns;
    }
}

/// A histogram of durations, in plain fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many durations are up to each of [`Histogram::BOUNDS`] and longer than the bound before; the last element
    /// counts those beyond all bounds.
    pub counts: [u64; Self::BOUNDS.len() + 1],
    /// The sum of all durations, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Upper bounds in nanoseconds, each four times the one before: 4 µs to 1 s.
    pub const BOUNDS: [u64; 10] = {
        let mut bounds = [1 << 12; 10];
        let mut index = 1;
        while index < bounds.len() {
            bounds[index] = bounds[index - 1] << 2;
            index += 1;
        }
        bounds
    };

    /// Counts one duration.
    #[inline]
    pub fn note(&mut self, time: std::time::Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The bounds are powers of four from the sixth on, so the number of bits gives the index.
        let bits = u64::BITS - ns.saturating_sub(1).leading_zeros();
        let place = (bits.saturating_sub(11) / 2) as usize;
        self.counts[place.min(Self::BOUNDS.len())] += 1;
        self.sum_ns += ns;
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_count_is_added_up() {
        let mut stats = Stats { logins: 1, ..Stats::default() };
        stats.count_close(close::NORMAL);
        stats.count_close(4999);
        stats.turn_time.note(Duration::from_micros(5));
        let one = stats;
        stats.add(&one);
        assert_eq!((stats.logins, stats.closes[0], stats.closes[close::ALL.len()]), (2, 2, 2));
        assert_eq!((stats.turn_time.count(), stats.turn_time.sum_ns), (2, 10_000));
    }

    #[test]
    fn families_are_named_as_prometheus_wants_and_alike() {
        let mut families = BTreeMap::new();
        let shards = Stats::ALL.iter().map(|metric| (metric.family, metric.label, metric.is_gauge));
        let node = NodeCounts::ALL.iter().map(|metric| (metric.family, metric.label, metric.is_gauge));
        let mut names: Vec<_> = shards.chain(node).collect();
        for (family, label, is_gauge) in &names {
            assert!(family.starts_with("pombo_") && !family.ends_with("_total"), "{family}");
            let alike = (is_gauge, label.map(|(label, _)| label));
            assert_eq!(*families.entry(family).or_insert(alike), alike, "{family}");
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two counts have one name");
    }

    #[test]
    fn a_duration_counts_under_the_first_bound_that_it_does_not_pass() {
        for (place, bound) in Histogram::BOUNDS.into_iter().enumerate() {
            for (ns, expected) in [(bound - 1, place), (bound, place), (bound + 1, place + 1)] {
                let mut histogram = Histogram::default();
                histogram.note(Duration::from_nanos(ns));
                assert_eq!(histogram.counts[expected], 1, "{ns} ns: {histogram:?}");
            }
        }
        let mut histogram = Histogram::default();
        histogram.note(Duration::ZERO);
        histogram.note(Duration::MAX);
        assert_eq!((histogram.counts[0], histogram.counts[Histogram::BOUNDS.len()]), (1, 1));
    }
}
