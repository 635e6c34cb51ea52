//! Chooses the receiver of each message.

/// The rule by which senders choose receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Targets {
    /// 0 and 1 to each other, 2 and 3 to each other; an odd last one to itself.
    Pairs,
    /// Each to the next, the last to the first; with a fan-out to so many behind it, in turn.
    Next,
    /// Each to itself.
    #[value(name = "self")]
    #[serde(rename = "self")]
    Itself,
    /// Each message to any of the others.
    Random,
}

/// Chooses the receiver of each message.
pub(super) struct Chooser {
    targets: Targets,
    /// Those who send, and are sent to.
    connections: u32,
    /// How many each sends to in turn, of [`Targets::Next`].
    fan_out: u32,
    random: Random,
}

impl Chooser {
    pub(super) fn new(targets: Targets, connections: u32, fan_out: u32) -> Self {
        Self { targets, connections, fan_out, random: Random(0x9e37_79b9_7f4a_7c15) }
    }

    /// The receiver of the message with this number among those of `sender`.
    #[inline]
    pub(super) fn receiver(&mut self, sender: u32, number: u64) -> u32 {
        let connections = self.connections;
        match self.targets {
            // Those beyond are only there to come and go.
            _ if sender >= connections => sender,
            Targets::Pairs if sender ^ 1 < connections => sender ^ 1,
            Targets::Next => {
                let step = 1 + if self.fan_out > 1 { (number % u64::from(self.fan_out)) as u32 } else { 0 };
                let receiver = sender + step;
                if receiver < connections { receiver } else { receiver % connections }
            }
            Targets::Random if connections > 1 => {
                let other = self.random.below(connections - 1);
                other + u32::from(other >= sender)
            }
            Targets::Itself | Targets::Pairs | Targets::Random => sender,
        }
    }
}

/// Marsaglia's xorshift64: even enough to choose a receiver, and the same in every run.
struct Random(u64);

impl Random {
    #[inline]
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(targets: Targets, connections: u32, expected: &[u32]) {
        let mut chooser = Chooser::new(targets, connections, 1);
        let receivers: Vec<u32> = (0..connections).map(|sender| chooser.receiver(sender, 7)).collect();
        assert_eq!(receivers, expected);
    }

    #[test]
    fn targets() {
        check(Targets::Pairs, 4, &[1, 0, 3, 2]);
        check(Targets::Pairs, 3, &[1, 0, 2]);
        check(Targets::Next, 3, &[1, 2, 0]);
        check(Targets::Itself, 3, &[0, 1, 2]);
        check(Targets::Random, 2, &[1, 0]);
        for targets in [Targets::Pairs, Targets::Next, Targets::Itself, Targets::Random] {
            check(targets, 1, &[0]);
            assert_eq!(Chooser::new(targets, 4, 1).receiver(5, 0), 5, "one beyond");
        }
    }

    #[test]
    fn a_fan_out_goes_round() {
        let mut chooser = Chooser::new(Targets::Next, 5, 3);
        let receivers: Vec<u32> = (0..5).map(|number| chooser.receiver(3, number)).collect();
        assert_eq!(receivers, [4, 0, 1, 4, 0]);
    }

    #[test]
    fn random_targets_reach_all_others_evenly() {
        let (mut chooser, mut hits) = (Chooser::new(Targets::Random, 10, 1), [0; 10]);
        for number in 0..90_000 {
            hits[chooser.receiver(3, number) as usize] += 1;
        }
        assert_eq!(hits[3], 0);
        assert!(hits.iter().enumerate().all(|(index, hits)| index == 3 || (9_000..11_000).contains(hits)), "{hits:?}");
    }
}
