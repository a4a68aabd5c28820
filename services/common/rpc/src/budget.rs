//! The arithmetic of `grpc-timeout`: parsing, encoding, and what a hop may pass on. No clock in here.

use std::time::Duration;

/// The header that carries the budget, relative to its arrival.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A hop keeps at least this much of the budget for its own answer to travel back.
const MIN_MARGIN: Duration = Duration::from_millis(5);

/// A hop keeps at least one part in this many (5 %).
const MARGIN_DIVISOR: u32 = 20;

/// The gRPC specification allows one to eight digits.
const MAX_DIGITS: usize = 8;
const MAX_VALUE: u128 = 99_999_999;

/// Why a `grpc-timeout` value was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutParseError {
    /// Nothing before the unit, or nothing at all.
    #[error("the value has no digits")]
    NoDigits,
    /// More than eight digits.
    #[error("the value has more than 8 digits")]
    TooManyDigits,
    /// Something other than ASCII digits before the unit (a sign, a space, a point).
    #[error("the value is not a whole number")]
    NotANumber,
    /// The last character is not one of `H M S m u n`.
    #[error("the unit is not one of H, M, S, m, u, n")]
    UnknownUnit,
}

/// Parses a `grpc-timeout` value strictly, as the gRPC specification writes it: one to eight digits and
/// one unit of `H M S m u n`. Zero is valid and means "already expired".
///
/// # Errors
/// Anything else: being lenient here would turn a caller's typing error into a call without a limit.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, TimeoutParseError> {
    let (unit, digits) = value.split_last().ok_or(TimeoutParseError::NoDigits)?;
    if digits.is_empty() {
        return Err(TimeoutParseError::NoDigits);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(TimeoutParseError::NotANumber);
    }
    if digits.len() > MAX_DIGITS {
        return Err(TimeoutParseError::TooManyDigits);
    }
    let number = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(TimeoutParseError::UnknownUnit),
    })
}

/// Encodes a budget in the finest unit that fits into eight digits. Rounds down, so that what is sent
/// never exceeds `budget`; saturates at 99,999,999 hours.
pub fn encode_timeout(budget: Duration) -> String {
    const NANOS_PER_UNIT: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let nanos = budget.as_nanos();
    NANOS_PER_UNIT
        .iter()
        .map(|(per_unit, unit)| (nanos / per_unit, unit))
        .find(|(value, _)| *value <= MAX_VALUE)
        .map_or_else(|| format!("{MAX_VALUE}H"), |(value, unit)| format!("{value}{unit}"))
}

/// What a hop keeps for itself out of `remaining`: the larger of 5 ms and 5 %.
///
/// Without it caller and callee would expire at the same instant, and the caller would nearly always see
/// its own bare timeout instead of the callee's explained one.
pub fn hop_margin(remaining: Duration) -> Duration {
    (remaining / MARGIN_DIVISOR).max(MIN_MARGIN)
}

/// What a hop may pass on out of `remaining`. Always smaller than `remaining`, or zero.
pub fn hop_budget(remaining: Duration) -> Duration {
    remaining.saturating_sub(hop_margin(remaining))
}

/// Whether a call with this budget cannot succeed and should be refused before any work is done: work
/// that is thrown away at the deadline is what turns an overload into an outage.
pub fn is_doomed(budget: Duration, floor: Duration) -> bool {
    budget.is_zero() || budget < floor
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
            ("0m", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn malformed() {
        for (text, expected) in [
            ("", TimeoutParseError::NoDigits),
            ("S", TimeoutParseError::NoDigits),
            ("abc", TimeoutParseError::NotANumber),
            ("-1m", TimeoutParseError::NotANumber),
            ("+1m", TimeoutParseError::NotANumber),
            (" 1m", TimeoutParseError::NotANumber),
            ("1 m", TimeoutParseError::NotANumber),
            ("1.5S", TimeoutParseError::NotANumber),
            ("123456789m", TimeoutParseError::TooManyDigits),
            ("5X", TimeoutParseError::UnknownUnit),
            ("5", TimeoutParseError::NoDigits),
            ("55", TimeoutParseError::UnknownUnit),
            ("1m ", TimeoutParseError::NotANumber),
            ("1s", TimeoutParseError::UnknownUnit),
            ("\u{0661}m", TimeoutParseError::NotANumber),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Err(expected), "{text:?}");
        }
    }

    /// The grammar of the specification, written down independently of the parser.
    fn is_valid(text: &[u8]) -> bool {
        matches!(text, [digits @ .., unit]
            if (1..=8).contains(&digits.len())
            && digits.iter().all(|b| b"0123456789".contains(b))
            && b"HMSmun".contains(unit))
    }

    proptest! {
        #[test]
        fn accepts_exactly_the_grammar(text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            "[-+ 0-9]{0,10}[A-Za-z]?".prop_map(String::into_bytes),
        ]) {
            prop_assert_eq!(parse_timeout(&text).is_ok(), is_valid(&text));
        }

        #[test]
        fn encoding_never_grows_and_loses_little(nanos in any::<u64>()) {
            let budget = Duration::from_nanos(nanos);
            let sent = parse_timeout(encode_timeout(budget).as_bytes()).expect("our own encoding parses");
            prop_assert!(sent <= budget);
            // Eight digits of one unit are six of the next one in the worst case (1000 times as long).
            prop_assert!((budget - sent).as_nanos() <= budget.as_nanos() / 100_000);
        }

        #[test]
        fn a_hop_shrinks_the_budget_by_its_margin(nanos in any::<u64>()) {
            let remaining = Duration::from_nanos(nanos);
            let passed_on = hop_budget(remaining);
            if remaining > MIN_MARGIN {
                prop_assert!(passed_on < remaining);
                prop_assert_eq!(remaining - passed_on, hop_margin(remaining));
                prop_assert!(remaining - passed_on >= MIN_MARGIN);
                prop_assert!(remaining - passed_on >= remaining / 20);
            } else {
                prop_assert_eq!(passed_on, Duration::ZERO);
            }
        }

        #[test]
        fn a_larger_budget_never_passes_on_less(a in any::<u64>(), b in any::<u64>()) {
            let (small, large) = (Duration::from_nanos(a.min(b)), Duration::from_nanos(a.max(b)));
            prop_assert!(hop_budget(small) <= hop_budget(large));
        }

        #[test]
        fn doomed_is_below_the_floor(budget in any::<u32>(), floor in any::<u32>()) {
            let doomed = is_doomed(Duration::from_nanos(budget.into()), Duration::from_nanos(floor.into()));
            prop_assert_eq!(doomed, budget == 0 || budget < floor);
        }
    }

    #[test]
    fn encoding_saturates() {
        assert_eq!(encode_timeout(Duration::MAX), "99999999H");
        assert_eq!(encode_timeout(Duration::ZERO), "0n");
        assert_eq!(encode_timeout(Duration::from_millis(250)), "250000u");
    }
}
