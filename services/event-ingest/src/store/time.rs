//! Points in time as Postgres keeps them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid},
};

/// Microseconds from 1970 to 2000, where Postgres begins to count.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
const MICROS: i64 = 1_000_000;

/// A `timestamptz`: microseconds since 1970. sqlx knows this type only together with one of two date
/// libraries, neither of which is used otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(i64);

impl Time {
    /// The first microsecond of year 1.
    pub(crate) const MIN: Self = Self(-62_135_596_800 * MICROS);
    /// Year 10000.
    pub(crate) const MAX: Self = Self(253_402_300_800 * MICROS);

    /// What this machine's clock says, which may not be what Postgres' says; 1970 if it says less.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    pub(crate) fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub(crate) fn micros(self) -> i64 {
        self.0
    }

    /// The time of a wire timestamp, cut to microseconds; `None` outside of the years 1 to 9999, which
    /// the wire type excludes.
    pub(crate) fn from_wire(wire: &prost_types::Timestamp) -> Option<Self> {
        let years = Self::MIN.0 / MICROS..Self::MAX.0 / MICROS;
        let valid = years.contains(&wire.seconds) && (0..1_000_000_000).contains(&wire.nanos);
        valid.then(|| Self(wire.seconds * MICROS + i64::from(wire.nanos / 1000)))
    }

    /// So long before, but no earlier than year 1.
    pub(crate) fn minus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros)).max(Self::MIN)
    }

    /// Time that has passed since `earlier`; zero if it is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    pub(crate) fn to_wire(self) -> prost_types::Timestamp {
        let nanos = i32::try_from(self.0.rem_euclid(MICROS) * 1000).unwrap_or_default();
        prost_types::Timestamp { seconds: self.0.div_euclid(MICROS), nanos }
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <i64 as Encode<'_, Postgres>>::encode(self.0.saturating_sub(POSTGRES_EPOCH), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => {
                Ok(Self(<i64 as Decode<'r, Postgres>>::decode(value)?.saturating_add(POSTGRES_EPOCH)))
            }
            PgValueFormat::Text => Err("a time in text form; only prepared statements are used".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_times_survive_and_bad_ones_are_refused() {
        for (seconds, nanos) in [(0, 0), (-1, 999_999_000), (1_700_000_000, 5_000), (-62_135_596_800, 0)] {
            let wire = prost_types::Timestamp { seconds, nanos };
            assert_eq!(Time::from_wire(&wire).unwrap().to_wire(), wire);
        }
        for (seconds, nanos) in [(253_402_300_800, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(Time::from_wire(&prost_types::Timestamp { seconds, nanos }), None);
        }
    }
}
