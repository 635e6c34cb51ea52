//! Medians of rounds, and ratios between servers within each round: noise that lasts longer than a round cancels out.

use serde::Serialize;

use super::super::Report;

/// With less than this share of the baseline's deliveries a second, lower CPU does not count.
const RATE_MIN: f64 = 0.95;

/// With more than this multiple of the baseline's median latency, it does not count either: waiting longer coalesces more.
const LATENCY_MAX: f64 = 1.1;

/// The figures of one run that are compared. In `connect` a login takes the place of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    /// CPU of the server per delivery.
    pub(super) cpu_us: f64,
    /// Part of it in user space; none if the kernel's ticks could not tell.
    pub(super) user_us: Option<f64>,
    /// Part of it in the kernel; none where `user_us` is none.
    pub(super) system_us: Option<f64>,
    /// Deliveries a second.
    pub(super) per_second: f64,
    /// Median latency.
    pub(super) p50_us: f64,
    /// 99 % are below.
    pub(super) p99_us: f64,
    /// Deliveries per segment that the server sent; none in `connect`, or where the kernel does not tell.
    pub(super) per_segment: Option<f64>,
    /// Private memory of the server per connection; none of too few connections.
    pub(super) bytes_per_connection: Option<f64>,
}

impl Figures {
    pub(super) fn of(report: &Report) -> Self {
        let cost = report.server_cost.as_ref();
        let cpu = cost.and_then(|cost| cost.cpu_per_delivery).or(report.logins.server_cpu_us);
        let (cpu_us, user_us, system_us) =
            cpu.map_or((0.0, None, None), |cpu| (cpu.total_us, cpu.user_us, cpu.system_us));
        let latency = report.messages.as_ref().map_or(&report.logins.latency, |messages| &messages.latency);
        Self {
            cpu_us,
            user_us,
            system_us,
            per_second: report.messages.as_ref().map_or(report.logins.per_second, |all| all.delivered_per_second),
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            per_segment: report.messages.as_ref().and_then(|messages| messages.delivered_per_segment),
            bytes_per_connection: cost.and_then(|cost| cost.private_bytes_per_connection),
        }
    }

    /// The median of each figure for itself; none of no rounds.
    pub(super) fn median(rounds: &[Option<Figures>]) -> Option<Self> {
        let of = |figure: fn(&Figures) -> f64| Spread::of(rounds.iter().flatten().map(figure)).map(|at| at.median);
        let of_known = |figure: fn(&Figures) -> Option<f64>| {
            Spread::of(rounds.iter().flatten().filter_map(figure)).map(|at| at.median)
        };
        Some(Self {
            cpu_us: of(|round| round.cpu_us)?,
            user_us: of_known(|round| round.user_us),
            system_us: of_known(|round| round.system_us),
            per_second: of(|round| round.per_second)?,
            p50_us: of(|round| round.p50_us)?,
            p99_us: of(|round| round.p99_us)?,
            per_segment: of_known(|round| round.per_segment),
            bytes_per_connection: of_known(|round| round.bytes_per_connection),
        })
    }
}

/// The distribution of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) least: f64,
    pub(super) lower_quartile: f64,
    pub(super) median: f64,
    pub(super) upper_quartile: f64,
    pub(super) most: f64,
}

impl Spread {
    /// None of no values, and values that are not finite are none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Between the two values around the quantile, in proportion.
        let at = |quantile: f64| {
            let place = quantile * last as f64;
            let below = values[place as usize];
            below + (values[(place as usize + 1).min(last)] - below) * place.fract()
        };
        Some(Self {
            least: at(0.0),
            lower_quartile: at(0.25),
            median: at(0.5),
            upper_quartile: at(0.75),
            most: at(1.0),
        })
    }
}

/// A server against the baseline, as ratios within rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub(super) cpu: Spread,
    pub(super) per_second: Spread,
    pub(super) p50: Spread,
    /// In `connect` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_per_connection: Option<Spread>,
    /// Whether it delivers as much as the baseline, and as soon: else its CPU says nothing.
    pub(super) counts: bool,
}

impl Verdict {
    /// Compares the rounds in which both have figures; none if there are no such rounds. Of `logins`, the rate is a
    /// result like the others, and does not decide whether they count.
    pub(super) fn of(rounds: &[Option<Figures>], baseline: &[Option<Figures>], logins: bool) -> Option<Self> {
        let pairs: Vec<_> = rounds.iter().zip(baseline).filter_map(|(ours, theirs)| (*ours).zip(*theirs)).collect();
        let ratio =
            |figure: fn(&Figures) -> f64| Spread::of(pairs.iter().map(|(ours, theirs)| figure(ours) / figure(theirs)));
        let per_second = ratio(|round| round.per_second)?;
        let p50 = ratio(|round| round.p50_us)?;
        Some(Self {
            cpu: ratio(|round| round.cpu_us)?,
            per_second,
            p50,
            // No figure is no number, which makes no part of a spread.
            bytes_per_connection: ratio(|round| round.bytes_per_connection.unwrap_or(f64::NAN)).filter(|_| logins),
            counts: logins || (per_second.median >= RATE_MIN && p50.median <= LATENCY_MAX),
        })
    }
}

/// The ratio of two medians of CPU, if a reader of the bars would take it for another result than `pairs`, the median of the
/// ratios within rounds: it lies on the other side of 1, or is more than a twentieth away.
pub(super) fn contradiction(ours: &Figures, theirs: &Figures, pairs: &Spread) -> Option<f64> {
    let bars = ours.cpu_us / theirs.cpu_us;
    // As they are shown: to two places.
    let [bars_shown, pairs_shown] = [bars, pairs.median].map(|ratio| (ratio * 100.0).round());
    let are_opposed = (bars_shown - 100.0) * (pairs_shown - 100.0) < 0.0;
    let are_apart = (bars / pairs.median - 1.0).abs() > 0.05;
    (bars.is_finite() && (are_opposed || are_apart)).then_some(bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_spread(values: &[f64], expected: Option<[f64; 5]>) {
        let spread = Spread::of(values.iter().copied());
        let spread = spread.map(|at| [at.least, at.lower_quartile, at.median, at.upper_quartile, at.most]);
        assert_eq!(spread, expected, "{values:?}");
    }

    #[test]
    fn spreads() {
        check_spread(&[], None);
        check_spread(&[f64::NAN, f64::INFINITY], None);
        check_spread(&[2.0], Some([2.0; 5]));
        check_spread(&[2.0, 1.0], Some([1.0, 1.25, 1.5, 1.75, 2.0]));
        check_spread(&[5.0, 1.0, 4.0, 2.0, 3.0], Some([1.0, 2.0, 3.0, 4.0, 5.0]));
        check_spread(&[3.0, f64::NAN, 1.0, 2.0], Some([1.0, 1.5, 2.0, 2.5, 3.0]));
    }

    fn round(cpu_us: f64, per_second: f64, p50_us: f64) -> Option<Figures> {
        let (user_us, system_us) = (Some(cpu_us / 4.0), Some(cpu_us * 0.75));
        Some(Figures {
            cpu_us,
            user_us,
            system_us,
            per_second,
            p50_us,
            p99_us: 0.0,
            per_segment: Some(1.0),
            bytes_per_connection: Some(8.0),
        })
    }

    /// Compares median CPU, rate and latency with the baseline, and whether the row counts.
    #[track_caller]
    fn check_verdict(rounds: &[Option<Figures>], logins: bool, expected: Option<([f64; 3], bool)>) {
        let baseline = [round(2.0, 100.0, 10.0), round(4.0, 100.0, 10.0), None];
        let verdict = Verdict::of(rounds, &baseline, logins);
        let verdict = verdict.map(|at| ([at.cpu.median, at.per_second.median, at.p50.median], at.counts));
        assert_eq!(verdict, expected);
    }

    #[test]
    fn verdicts() {
        check_verdict(&[round(1.0, 100.0, 10.0), round(2.0, 100.0, 10.0)], false, Some(([0.5, 1.0, 1.0], true)));
        check_verdict(&[round(1.0, 95.0, 11.0), None], false, Some(([0.5, 0.95, 1.1], true)));
        check_verdict(&[round(1.0, 94.0, 10.0), None], false, Some(([0.5, 0.94, 1.0], false)));
        check_verdict(&[round(1.0, 100.0, 12.0), None], false, Some(([0.5, 1.0, 1.2], false)));
        check_verdict(&[round(1.0, 50.0, 20.0), None], true, Some(([0.5, 0.5, 2.0], true)));
        check_verdict(&[None, None, round(1.0, 100.0, 10.0)], false, None);
        check_verdict(&[], false, None);
    }

    #[test]
    fn figures_that_a_round_does_not_have_are_left_out() {
        let unknown =
            |figures: Figures| Figures { user_us: None, system_us: None, bytes_per_connection: None, ..figures };
        let known = round(2.0, 100.0, 10.0);
        let median = Figures::median(&[known, known.map(unknown)]).expect("rounds");
        assert_eq!((median.user_us, median.bytes_per_connection), (Some(0.5), Some(8.0)));
        let rounds = [known.map(unknown)];
        let median = Figures::median(&rounds).expect("a round");
        assert_eq!((median.user_us, median.system_us, median.bytes_per_connection), (None, None, None));
        let verdict = Verdict::of(&rounds, &[known], true).expect("a pair");
        assert_eq!((verdict.cpu.median, verdict.bytes_per_connection), (1.0, None));
    }

    /// Compares rounds of CPU with those of the baseline: the ratio of the bars, if it contradicts that of the pairs.
    #[track_caller]
    fn check_contradiction(ours: &[f64], theirs: &[f64], expected: Option<f64>) {
        let [ours, theirs] = [ours, theirs].map(|all| all.iter().map(|us| round(*us, 1.0, 1.0)).collect::<Vec<_>>());
        let verdict = Verdict::of(&ours, &theirs, false).expect("pairs");
        let [ours, theirs] = [ours, theirs].map(|rounds| Figures::median(&rounds).expect("rounds"));
        assert_eq!(contradiction(&ours, &theirs, &verdict.cpu), expected);
    }

    #[test]
    fn bars_that_contradict_the_pairs() {
        check_contradiction(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0], None);
        check_contradiction(&[1.5, 1.5, 1.5], &[1.0, 1.0, 1.0], None);
        // Less in two of three pairs, and the greater median.
        check_contradiction(&[1.0, 2.25, 9.0], &[2.0, 1.0, 10.0], Some(1.125));
        // On the same side of 1, and far from each other.
        check_contradiction(&[1.5, 4.0, 30.0], &[1.0, 2.0, 10.0], None);
        check_contradiction(&[3.0, 4.0, 30.0], &[1.0, 2.0, 10.0], Some(2.0));
        // Nobody sees the difference.
        check_contradiction(&[1.001, 1.0, 0.999], &[1.0, 1.0, 1.0], None);
    }
}
