//! Numbers as people read them.

use indicatif::HumanCount;

/// A time in the unit that suits it.
pub(super) fn time(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us:.1} µs"),
        ..1_000_000.0 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A whole number, its thousands apart.
pub(super) fn whole(number: u64) -> String {
    HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567"), (100000, "100,000")] {
            assert_eq!(whole(number), text);
        }
        for (us, text) in [(0.0, "0.0 µs"), (999.94, "999.9 µs"), (1500.0, "1.50 ms"), (2_500_000.0, "2.50 s")] {
            assert_eq!(time(us), text);
        }
    }
}
