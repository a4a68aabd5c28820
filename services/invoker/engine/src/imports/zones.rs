//! Time zones, from the tables that are compiled in: the same on every machine, whatever it has installed.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::{Dst, TimeZone, TimeZoneDatabase};

/// Seconds since 1970. From here on the current rules of a zone are not written out any more.
const END: i64 = 4_102_444_800; // 2100
/// Before every date that JavaScript has.
const BEGINNING: i64 = -10_000_000_000_000;

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The names of all zones, as a JSON array.
pub(super) fn names() -> String {
    let mut names: Vec<_> = DATABASE.available().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    serde_json::to_string(&names).expect("strings are always JSON")
}

/// `[[seconds since 1970, 0, offset in seconds, whether it is summer time], …]` as JSON: what holds from each
/// of these moments on. None if there is no such zone.
pub(super) fn zone(name: &[u8]) -> Option<String> {
    let zone = find(name)?;
    let first = zone.to_offset_info(Timestamp::MIN);
    let mut periods = vec![(BEGINNING, 0, first.offset().seconds(), summer(first.dst()))];
    for transition in zone.following(Timestamp::MIN) {
        let at = transition.timestamp().as_second();
        if at >= END {
            break;
        }
        periods.push((at, 0, transition.offset().seconds(), summer(transition.dst())));
    }
    Some(serde_json::to_string(&periods).expect("numbers are always JSON"))
}

/// `milliseconds name` to the zone's offset at that time in seconds. None if there is no such zone.
pub(super) fn offset(question: &[u8]) -> Option<String> {
    let at = question.iter().position(|byte| *byte == b' ')?;
    let millis: f64 = str::from_utf8(&question[..at]).ok()?.parse().ok()?;
    let zone = find(&question[at + 1..])?;
    // Offsets have whole seconds, and beyond what a timestamp can hold its bound is as good: the cast saturates.
    let second = (millis / 1e3).floor() as i64;
    let second = second.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    let time = Timestamp::from_second(second).ok()?;
    Some(zone.to_offset(time).seconds().to_string())
}

fn find(name: &[u8]) -> Option<TimeZone> {
    DATABASE.get(str::from_utf8(name).ok()?).ok()
}

fn summer(dst: Dst) -> u8 {
    u8::from(dst.is_dst())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn berlin_is_as_its_clocks_say() {
        assert_eq!(offset(b"1719835200000 Europe/Berlin").as_deref(), Some("7200"));
        assert_eq!(offset(b"1704067200000 europe/berlin").as_deref(), Some("3600"));
        assert_eq!(offset(b"1e300 UTC").as_deref(), Some("0"));
        let periods = zone(b"Europe/Berlin").unwrap();
        assert!(periods.starts_with("[[-10000000000000,0,3208,0],"), "local mean time at first: {periods}");
        assert!(periods.contains("[1711846800,0,7200,1],[1729990800,0,3600,0]"), "{periods}");
        assert!(names().contains("\"America/New_York\"") && names().contains("\"UTC\""));
    }

    #[test]
    fn what_is_no_zone_has_no_answer() {
        for wrong in [&b"Mars/Olympus"[..], b"", b"../etc/passwd", &[0xff]] {
            assert!(zone(wrong).is_none());
        }
        for wrong in [&b"0 Mars/Olympus"[..], b"0", b"x UTC", b" UTC"] {
            assert!(offset(wrong).is_none());
        }
    }
}
