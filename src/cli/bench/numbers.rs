//! Numbers as people read them.

/// A time in the unit that suits it.
pub(super) fn time(us: f64) -> String {
    match us {
        ..1_000.0 => format!("{us:.1} µs"),
        ..1_000_000.0 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A whole number, its thousands apart.
pub(in crate::cli) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number for an axis.
pub fn quantity(number: f64) -> String {
    match number {
        1e6.. => format!("{} M", short(number / 1e6)),
        1e3.. => format!("{} k", short(number / 1e3)),
        _ => short(number),
    }
}

/// Up to two places, but no zeros at the end.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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

    #[test]
    fn quantities() {
        for (number, text) in [(0.0, "0"), (0.25, "0.25"), (999.0, "999"), (1500.0, "1.5 k"), (2_340_000.0, "2.34 M")] {
            assert_eq!(quantity(number), text);
        }
    }
}
