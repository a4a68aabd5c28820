//! How long a request was on its way.
//!
//! `grpc-timeout` counts from when it arrives. What a network holds back and delivers later, as a partition does that heals, would
//! have all of its time left then, and a lambda would start for a caller that has given up and called again meanwhile. (Found by
//! `make faults`: such a run started behind the next event of its conversation.)
//!
//! So our client writes when it sends a request, by its own clock, and the server compares: how much later than the fastest request
//! from this client's clock over this connection did it arrive? Neither clock has to be right, or to agree with the other; both are monotonic.
//! What both have in common, the least time of the way itself, stays uncounted, and so does whatever happens to the first request
//! of a connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// When the request was sent: `{clock}-{microseconds}`, the clock's random number in hexadecimal digits, and its time. Only beside a
/// `grpc-timeout`; whatever else it may be is ignored.
pub(crate) const SENT: HeaderName = HeaderName::from_static("chatfn-sent");

/// Clocks that are told apart on a connection. One client has one; but something between may share a connection among clients.
const MAX_CLOCKS: usize = 16;

/// The fastest request is that of the last one to two of these in which any arrived. Short, because the clock of a machine that was
/// halted, as for a snapshot, may have stood still: all that it sends seems late by that, for so long. In this time two clocks that
/// nobody sets differ by less than a millisecond or two (quartz: 100 ppm).
const WINDOW: Duration = Duration::from_secs(5);

/// The clock of a client.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Nobody can pretend to have it.
    number: u64,
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { number: rand::random(), start: Instant::now() }
    }

    /// What is to be sent as [`SENT`] now.
    pub(crate) fn stamp(&self) -> HeaderValue {
        let text = format!("{:x}-{}", self.number, self.start.elapsed().as_micros());
        let mut value =
            HeaderValue::from_str(&text).unwrap_or_else(|_| unreachable!("digits, letters and a hyphen"));
        // Not worth a place in the connection's table of headers: it is never the same.
        value.set_sensitive(true);
        value
    }
}

/// What has arrived over a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// When the connection began.
    start: Instant,
    /// The one that was heard last comes last.
    clocks: Arc<Mutex<Vec<(u64, Fastest)>>>,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), clocks: Arc::default() }
    }

    /// How much longer than others of its clock a request has taken that arrived at `arrived`; zero if that is not known.
    pub(crate) fn delay(&self, arrived: Instant, headers: &HeaderMap) -> Duration {
        let Some((clock, sent)) = headers.get(SENT).and_then(read) else { return Duration::ZERO };
        let at = arrived.saturating_duration_since(self.start);
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fastest = match clocks.iter().rposition(|(number, _)| *number == clock) {
            Some(place) => clocks.remove(place).1,
            None => Fastest::default(),
        };
        let delay = fastest.delay(at, sent);
        if clocks.len() >= MAX_CLOCKS {
            clocks.remove(0);
        }
        clocks.push((clock, fastest));
        delay
    }
}

fn read(value: &HeaderValue) -> Option<(u64, Duration)> {
    let (clock, sent) = value.to_str().ok()?.split_once('-')?;
    Some((u64::from_str_radix(clock, 16).ok()?, Duration::from_micros(sent.parse().ok()?)))
}

/// The least difference between two clocks, at arrival and at sending, over a while. In microseconds.
#[derive(Debug, Default)]
struct Fastest {
    /// When the window began.
    since: Duration,
    current: Option<i64>,
    previous: Option<i64>,
}

impl Fastest {
    /// By how much the difference of a request is larger than the least.
    fn delay(&mut self, arrived: Duration, sent: Duration) -> Duration {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let difference = micros(arrived) - micros(sent);
        if self.current.is_some() && arrived >= self.since + WINDOW {
            self.previous = self.current.take();
        }
        if self.current.is_none() {
            self.since = arrived;
        }
        let current = self.current.map_or(difference, |least| least.min(difference));
        self.current = Some(current);
        let least = self.previous.map_or(current, |least| least.min(current));
        Duration::from_micros(u64::try_from(difference.saturating_sub(least)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn headers(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(SENT, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn what_takes_longer_than_the_fastest_is_late_by_that() {
        let mut fastest = Fastest::default();
        // The client's clock is at 7 s when the connection begins.
        assert_eq!(fastest.delay(MS * 40, MS * 7_000), Duration::ZERO, "nothing to compare with");
        assert_eq!(fastest.delay(MS * 105, MS * 7_100), Duration::ZERO, "it was faster");
        assert_eq!(fastest.delay(MS * 208, MS * 7_200), MS * 3);
        assert_eq!(fastest.delay(MS * 3_505, MS * 7_300), MS * 3_200, "held back");
        assert_eq!(fastest.delay(MS * 3_506, MS * 10_501), Duration::ZERO);
    }

    #[test]
    fn a_way_that_has_become_longer_is_the_way() {
        let mut fastest = Fastest::default();
        for second in 0..60_u32 {
            let way = if second < 30 { MS } else { MS * 500 };
            let sent = Duration::from_secs(second.into());
            let delay = fastest.delay(sent + way, sent);
            // At once, and for one to two windows.
            match second {
                30..35 => assert_eq!(delay, MS * 499),
                40.. => assert_eq!(delay, Duration::ZERO, "after {second} s"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_clock_that_stood_still_is_forgiven_soon() {
        let mut fastest = Fastest::default();
        let delays = (0..30_u32).map(|second| {
            let stood = if second < 10 { 0 } else { 20 };
            fastest.delay(Duration::from_secs((second + stood).into()), Duration::from_secs(second.into()))
        });
        let delays: Vec<_> = delays.collect();
        assert_eq!(delays[10], Duration::from_secs(20), "as if it had been on its way");
        assert!(delays[20..].iter().all(Duration::is_zero), "{delays:?}");
    }

    #[test]
    fn what_a_long_partition_holds_back_is_late_all_the_same() {
        let mut fastest = Fastest::default();
        fastest.delay(MS, Duration::ZERO);
        for sent in 1..60 {
            let delay = fastest.delay(Duration::from_secs(600), Duration::from_secs(sent));
            assert_eq!(delay, Duration::from_secs(600 - sent) - MS);
        }
    }

    #[test]
    fn clocks_are_told_apart_and_few_are_kept() {
        let arrivals = Arrivals::new();
        let arrived = arrivals.start + MS * 60_000;
        let delay = |text: &str| arrivals.delay(arrived, &headers(text));
        assert_eq!(delay("a-5000000"), Duration::ZERO);
        assert_eq!(delay("b-1000000"), Duration::ZERO, "another clock");
        assert_eq!(delay("a-3000000"), MS * 2_000);
        for clock in 0..MAX_CLOCKS {
            assert_eq!(delay(&format!("{:x}-1", clock + 100)), Duration::ZERO);
        }
        assert_eq!(arrivals.clocks.lock().unwrap().len(), MAX_CLOCKS);
        assert_eq!(delay("a-3000000"), Duration::ZERO, "forgotten");
        for text in ["", "-", "a", "a-", "-1", "g-1", "a--1", "a-1.5", "a-99999999999999999999", "a-1-1"] {
            assert_eq!(arrivals.delay(arrived, &headers(text)), Duration::ZERO, "{text}");
        }
        assert_eq!(arrivals.delay(arrived, &HeaderMap::new()), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_reads_what_a_client_writes() {
        let (clock, arrivals) = (Clock::new(), Arrivals::new());
        let delays = async |on_way| {
            let headers = HeaderMap::from_iter([(SENT, clock.stamp())]);
            tokio::time::advance(on_way).await;
            arrivals.delay(Instant::now(), &headers)
        };
        assert_eq!(delays(MS * 10).await, Duration::ZERO);
        assert_eq!(delays(MS * 2_010).await, MS * 2_000);
    }

    proptest! {
        /// Whatever the clocks say: never late by more than was waited, and by all of it once the way was known.
        #[test]
        fn never_later_than_it_was(
            ahead in 0..1_000_000_u64,
            ways in prop::collection::vec((0..200_u64, 0..1_000_u64), 1..200),
        ) {
            let mut fastest = Fastest::default();
            let mut now = 0;
            let mut least = u64::MAX;
            for (pause, way) in ways {
                now += pause;
                let [arrived, sent] = [now + way, now + ahead].map(Duration::from_millis);
                let delay = fastest.delay(arrived, sent);
                least = least.min(way);
                prop_assert!(delay <= MS * u32::try_from(way).unwrap());
                if now < 4_000 {
                    prop_assert_eq!(delay, MS * u32::try_from(way - least).unwrap());
                }
            }
        }

        #[test]
        fn nothing_overflows(steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..20)) {
            let mut fastest = Fastest::default();
            for (arrived, sent) in steps {
                fastest.delay(Duration::from_micros(arrived), Duration::from_micros(sent));
            }
        }
    }
}
