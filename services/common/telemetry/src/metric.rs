//! How a metric is declared.

use crate::Label;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by these upper bounds.
    Histogram(&'static [f64]),
}

/// A metric, as it is declared, once, in a crate's `metrics.rs` by [`declare!`](crate::declare).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// As it is scraped: `chatfn_<part>_<thing>`, then the unit (`_seconds`, `_bytes`), then `_total` for counters.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [Label],
    /// What it means: a sentence.
    pub meaning: &'static str,
    /// What to do when it is off. Empty if it is there to be looked at with others.
    pub when_off: &'static str,
}

impl Metric {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, labels: &[], meaning: "", when_off: "" }
    }

    /// Counts; `name` ends in `_total`.
    pub const fn counter(name: &'static str) -> Self {
        Self::new(name, Kind::Counter)
    }

    /// Has a value.
    pub const fn gauge(name: &'static str) -> Self {
        Self::new(name, Kind::Gauge)
    }

    /// Counts values up to each of these bounds, which grow.
    pub const fn histogram(name: &'static str, bounds: &'static [f64]) -> Self {
        Self::new(name, Kind::Histogram(bounds))
    }

    /// By these labels.
    #[must_use]
    pub const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// What it means.
    #[must_use]
    pub const fn means(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }

    /// What to do when it is off.
    #[must_use]
    pub const fn when_off(self, when_off: &'static str) -> Self {
        Self { when_off, ..self }
    }

    /// The name without `_total`, which the encoder writes.
    pub(crate) fn base_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => {
                self.name.strip_suffix("_total").unwrap_or_else(|| panic!("{} must end in _total", self.name))
            }
            Kind::Gauge | Kind::Histogram(_) => self.name,
        }
    }

    /// The unit, if the name has one.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"]
            .into_iter()
            .find(|unit| self.base_name().strip_suffix(unit).is_some_and(|name| name.ends_with('_')))
    }
}

/// Upper bounds of histograms, by what is counted.
pub mod buckets {
    /// Seconds of what takes from some microseconds to a minute: runs, calls, transactions.
    pub const SECONDS: &[f64] = &[
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        10.0, 30.0, 60.0,
    ];
    /// Seconds of what may wait for hours.
    pub const LONG_SECONDS: &[f64] =
        &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0];
    /// How many at a time.
    pub const COUNT: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
}

/// Declares the metrics of a crate: a constant for each, and the list of all.
///
/// ```
/// use chatfn_telemetry::Metric;
///
/// chatfn_telemetry::declare! {
///     /// All of them.
///     pub METRICS = {
///         CALLS: Metric::counter("chatfn_example_calls_total").means("Calls.").when_off("Call less."),
///     }
/// }
/// assert_eq!(METRICS, [CALLS]);
/// ```
#[macro_export]
macro_rules! declare {
    ($(#[$meta:meta])* $visibility:vis $all:ident = { $($name:ident: $metric:expr,)+ }) => {
        $(const $name: $crate::Metric = $metric;)+

        $(#[$meta])*
        $visibility const $all: &[$crate::Metric] = &[$($name),+];
    };
}
