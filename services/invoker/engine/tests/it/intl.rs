//! Intl and time zones. What is expected is what Node shows.

use serde_json::json;

use crate::support::result;

async fn eval(body: &str) -> serde_json::Value {
    result(&format!("async function lambda() {{ const at = new Date(1720000000000); {body} }}"), "null").await
}

#[tokio::test]
async fn dates_are_shown_as_in_node() {
    let body = "return [
        at.toLocaleString(), at.toLocaleDateString(), at.toLocaleTimeString(),
        at.toLocaleString('en-US', { timeZone: 'America/New_York' }), at.toLocaleTimeString('en-GB'), at.toLocaleDateString('de-DE'),
        at.toLocaleDateString('en-US', { weekday: 'long', year: 'numeric', month: 'long', day: 'numeric' }),
        at.toLocaleDateString('en-GB', { day: '2-digit', month: 'short', year: 'numeric' }),
        at.toLocaleString('de-DE', { dateStyle: 'full', timeStyle: 'short', timeZone: 'Europe/Berlin' }),
        at.toLocaleString('en-US', { dateStyle: 'medium', timeStyle: 'long', timeZone: 'Europe/Berlin' }),
        at.toLocaleString('en-US', { hour: 'numeric', minute: '2-digit', hour12: true, timeZone: 'Asia/Tokyo' }),
        at.toLocaleString('en-US', { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZone: 'UTC' }),
        new Intl.DateTimeFormat('en-US', { dateStyle: 'long', timeStyle: 'full', timeZone: 'America/New_York' }).format(at),
        new Date(NaN).toLocaleString(),
      ]";
    assert_eq!(
        eval(body).await,
        json!([
            "7/3/2024, 9:46:40 AM",
            "7/3/2024",
            "9:46:40 AM",
            "7/3/2024, 5:46:40 AM",
            "09:46:40",
            "3.7.2024",
            "Wednesday, July 3, 2024",
            "03 Jul 2024",
            "Mittwoch, 3. Juli 2024 um 11:46",
            "Jul 3, 2024, 11:46:40 AM GMT+2",
            "6:46 PM",
            "Jul 3, 09:46",
            "July 3, 2024 at 5:46:40 AM Eastern Daylight Time",
            "Invalid Date"
        ])
    );
}

#[tokio::test]
async fn numbers_are_shown_as_in_node() {
    let body = "return [
        (1234567.891).toLocaleString(), (1234.5).toLocaleString('de-DE'), (10n ** 20n).toLocaleString('en-US'), (0.256).toLocaleString('en-US', { style: 'percent' }),
        new Intl.NumberFormat('en-US', { style: 'currency', currency: 'USD' }).format(-1234.5), new Intl.NumberFormat('de-DE', { style: 'currency', currency: 'EUR' }).format(0.5),
        new Intl.NumberFormat('en', { notation: 'compact' }).format(1234567), new Intl.NumberFormat('en', { style: 'unit', unit: 'minute', unitDisplay: 'long' }).format(16),
        new Intl.NumberFormat('en', { minimumIntegerDigits: 2, maximumFractionDigits: 1 }).format(3.14159), NaN.toLocaleString(),
        ['one', 'two', 'few', 'other'].map((_, n) => new Intl.PluralRules('en', { type: 'ordinal' }).select(n + 1)),
        new Intl.RelativeTimeFormat('en', { numeric: 'auto' }).format(-1, 'day'), new Intl.RelativeTimeFormat('de').format(3, 'hour'),
        new Intl.ListFormat('en').format(['a', 'b', 'c']), Intl.getCanonicalLocales('EN-us'), new Intl.Locale('de-AT').language,
      ]";
    assert_eq!(
        eval(body).await,
        json!([
            "1,234,567.891",
            "1.234,5",
            "100,000,000,000,000,000,000",
            "26%",
            "-$1,234.50",
            "0,50\u{a0}€",
            "1.2M",
            "16 minutes",
            "03.1",
            "NaN",
            ["one", "two", "few", "other"],
            "yesterday",
            "in 3 Stunden",
            "a, b, and c",
            ["en-US"],
            "de"
        ])
    );
}

#[tokio::test]
async fn what_is_not_there_falls_back_or_throws() {
    let body = "const name = (call) => { try { return call() } catch (error) { return error.name } };
      return [at.toLocaleDateString('fr-FR'), name(() => at.toLocaleString('en', { timeZone: 'Mars/Olympus' })), name(() => new Intl.DateTimeFormat('not a locale')),
        new Intl.DateTimeFormat().resolvedOptions().timeZone, new Intl.DateTimeFormat('en-AU').resolvedOptions().locale.slice(0, 2), typeof Intl.Collator]";
    assert_eq!(eval(body).await, json!(["7/3/2024", "RangeError", "RangeError", "UTC", "en", "undefined"]));
}

#[tokio::test]
async fn luxon_knows_its_zones_and_languages() {
    let source = "const { DateTime, Duration, Interval, IANAZone, Settings } = require('luxon');
      const zoned = (zone) => DateTime.fromISO('2024-07-01T12:00:00Z', { zone });
      // At top level as in a run.
      const early = zoned('Europe/Berlin').toISO();
      async function lambda() {
        const berlin = zoned('Europe/Berlin');
        return [
          early, berlin.toISO(), zoned('America/New_York').toFormat('ccc, LLL d yyyy, HH:mm ZZZZ z'), berlin.toLocaleString(DateTime.DATETIME_FULL),
          berlin.setLocale('de').toFormat('cccc, d. LLLL yyyy'), berlin.offset, berlin.isInDST, DateTime.fromISO('2024-01-01T00:00', { zone: 'Europe/Berlin' }).toUTC().toISO(),
          DateTime.fromObject({ year: 2024, month: 3, day: 31, hour: 2, minute: 30 }, { zone: 'Europe/Berlin' }).toISO(),
          zoned('Asia/Kolkata').offset, zoned('UTC+3').toISO(), zoned('Mars/Olympus').isValid, IANAZone.isValidZone('Europe/Paris'),
          DateTime.fromFormat('24 12 2024', 'dd MM yyyy').toISODate(), berlin.diff(berlin.minus({ days: 2, hours: 3 }), ['days', 'hours']).toObject(),
          Duration.fromObject({ hours: 2, minutes: 7 }).toHuman(), DateTime.utc(2024, 1, 1).toRelative({ base: DateTime.utc(2024, 1, 3) }),
          Interval.after(berlin, { hours: 1 }).length('minutes'), Math.abs(DateTime.now().toMillis() - Date.now()) < 1000, DateTime.local().zoneName,
          DateTime.fromMillis(0).setZone('America/Sao_Paulo').toISO(), berlin.startOf('week').weekdayLong,
        ];
      }";
    assert_eq!(
        result(source, "1").await,
        json!([
            "2024-07-01T14:00:00.000+02:00",
            "2024-07-01T14:00:00.000+02:00",
            "Mon, Jul 1 2024, 08:00 EDT America/New_York",
            "July 1, 2024 at 2:00 PM GMT+2",
            "Montag, 1. Juli 2024",
            120,
            true,
            "2023-12-31T23:00:00.000Z",
            "2024-03-31T03:30:00.000+02:00",
            330,
            "2024-07-01T15:00:00.000+03:00",
            false,
            true,
            "2024-12-24",
            {"days": 2, "hours": 3},
            "2 hours, 7 minutes",
            "2 days ago",
            60,
            true,
            "UTC",
            "1969-12-31T21:00:00.000-03:00",
            "Monday"
        ])
    );
}

#[tokio::test]
async fn what_the_name_of_a_locale_leaves_out_is_known() {
    // The first and the last row of the table, two from its middle, and none.
    let body = "
      const full = (tag) => new Intl.Locale(tag).maximize().toString();
      return [['aa', 'zzj', 'zh-TW', 'und-Grek', 'xq'].map(full), Intl.getCanonicalLocales(['ru-su', 'az-SU', 'en-us'])]";
    assert_eq!(
        eval(body).await,
        json!(
            [["aa-Latn-ET", "zzj-Hani-CN", "zh-Hant-TW", "el-Grek-GR", "xq"], ["ru-RU", "az-AZ", "en-US"],]
        )
    );
}
