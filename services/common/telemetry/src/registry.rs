//! The metrics of one service.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::text,
    metrics::family::Family,
    registry::{Registry, Unit},
};

use crate::{
    Kind, LabelValue, Metric,
    handles::{
        Bounds, Count, CountFamily, Counts, Gauge, GaugeFamily, Gauges, Histogram, HistogramFamily,
        Histograms, Labels,
    },
    observed::Observed,
};

/// The metrics of one service: declared by [`declare!`](crate::declare), added at its start, read at each scrape. Clones share
/// them.
///
/// # Panics
/// Its methods, when they are given a metric of another kind than theirs, or one that was added before: a mistake that the first
/// start shows.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    registry: Registry,
    names: Vec<&'static str>,
}

impl Metrics {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a counter.
    pub fn count(&self, metric: &Metric) -> Count {
        expect(metric, &Kind::Counter, 0);
        let count = Count::default();
        self.add(metric, count.clone());
        count
    }

    /// Adds a counter with one label, of which every value is there from the start, as 0.
    pub fn counts<L: LabelValue>(&self, metric: &Metric) -> Counts<L> {
        let family = self.count_family(metric);
        Counts::new(each::<L>(metric).map(|label| family.with([label])))
    }

    /// Adds a counter whose labels' values are found out at the start.
    pub fn count_family(&self, metric: &Metric) -> CountFamily {
        expect(metric, &Kind::Counter, 1);
        let family = Family::<Labels, Count>::default();
        self.add(metric, family.clone());
        CountFamily::new(metric.labels, family)
    }

    /// Adds a gauge.
    pub fn gauge(&self, metric: &Metric) -> Gauge {
        expect(metric, &Kind::Gauge, 0);
        let gauge = Gauge::default();
        self.add(metric, gauge.clone());
        gauge
    }

    /// Adds a gauge with one label, of which every value is there from the start, as 0.
    pub fn gauges<L: LabelValue>(&self, metric: &Metric) -> Gauges<L> {
        let family = self.gauge_family(metric);
        Gauges::new(each::<L>(metric).map(|label| family.with([label])))
    }

    /// Adds a gauge whose labels' values are found out at the start.
    pub fn gauge_family(&self, metric: &Metric) -> GaugeFamily {
        expect(metric, &Kind::Gauge, 1);
        let family = Family::<Labels, Gauge>::default();
        self.add(metric, family.clone());
        GaugeFamily::new(metric.labels, family)
    }

    /// Adds a histogram.
    pub fn histogram(&self, metric: &Metric) -> Histogram {
        let histogram = bounds(metric, 0).histogram();
        self.add(metric, histogram.clone());
        Histogram::new(histogram)
    }

    /// Adds a histogram with one label, of which every value is there from the start.
    pub fn histograms<L: LabelValue>(&self, metric: &Metric) -> Histograms<L> {
        let family = self.histogram_family(metric);
        Histograms::new(each::<L>(metric).map(|label| family.with([label])))
    }

    /// Adds a histogram whose labels' values are found out at the start.
    pub fn histogram_family(&self, metric: &Metric) -> HistogramFamily {
        let family = Family::new_with_constructor(bounds(metric, 1));
        self.add(metric, family.clone());
        HistogramFamily::new(metric.labels, family)
    }

    /// Adds a counter or a gauge that is asked for at each scrape; `None`: unknown now, and left out. `read` must be quick.
    pub fn observe(&self, metric: &Metric, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        assert!(metric.labels.is_empty(), "{} has labels", metric.name);
        self.observe_each(metric, move || read().map(|value| (Vec::new(), value)).into_iter().collect());
    }

    /// As [`Metrics::observe`], for one that has labels: gives the values of each series' labels, in their declared order.
    pub fn observe_each(
        &self,
        metric: &Metric,
        read: impl Fn() -> Vec<(Vec<&'static str>, f64)> + Send + Sync + 'static,
    ) {
        self.add(metric, Observed::new(*metric, read));
    }

    /// All of them as text, in the format OpenMetrics 1.0.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Nothing but the writer could fail, and a String does not.
        let _ = text::encode(&mut text, &self.lock().registry);
        text
    }

    fn add(&self, metric: &Metric, added: impl prometheus_client::registry::Metric) {
        let mut inner = self.lock();
        assert!(!inner.names.contains(&metric.name), "{} is there already", metric.name);
        inner.names.push(metric.name);
        let name = metric.base_name();
        // The encoder ends it with a full stop.
        let meaning = metric.meaning.trim_end_matches('.');
        match metric.unit() {
            Some(unit) => {
                let name = name.strip_suffix(unit).unwrap_or(name).trim_end_matches('_');
                inner.registry.register_with_unit(name, meaning, Unit::Other(unit.to_owned()), added);
            }
            None => inner.registry.register(name, meaning, added),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metrics").field(&self.lock().names).finish()
    }
}

fn expect(metric: &Metric, kind: &Kind, least_labels: usize) {
    assert!(metric.kind == *kind, "{} is a {:?}", metric.name, metric.kind);
    assert!(
        metric.labels.len() >= least_labels && (least_labels > 0 || metric.labels.is_empty()),
        "{} has the labels {:?}",
        metric.name,
        metric.labels
    );
}

fn bounds(metric: &Metric, least_labels: usize) -> Bounds {
    expect(metric, &metric.kind, least_labels);
    match metric.kind {
        Kind::Histogram(bounds) => Bounds(bounds),
        other => panic!("{} is a {other:?}", metric.name),
    }
}

/// The values of the one label that a metric has.
fn each<L: LabelValue>(metric: &Metric) -> impl Iterator<Item = &'static str> {
    assert!(metric.labels == [L::LABEL], "{} has the labels {:?}", metric.name, metric.labels);
    L::LABEL.values.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InProgress;

    crate::label_values! {
        enum Colour: "colour" {
            Red = "red",
            Blue = "blue",
        }
    }

    crate::declare! {
        ALL = {
            BALLS: Metric::counter("chatfn_test_balls_total").by(&[Colour::LABEL]).means("Balls."),
            SENT: Metric::counter("chatfn_test_sent_bytes_total").means("What was sent."),
            HEIGHT: Metric::histogram("chatfn_test_flight_seconds", &[0.5, 1.0]).means("Flights."),
            LEVEL: Metric::gauge("chatfn_test_level").means("Water."),
            AGE: Metric::gauge("chatfn_test_age_seconds").by(&[crate::Label::of("of", "somewhere")]).means("Ages."),
        }
    }

    fn all() -> (Metrics, String) {
        let metrics = Metrics::new();
        let balls = metrics.counts::<Colour>(&BALLS);
        balls.of(Colour::Blue).inc();
        balls.of(Colour::Blue).inc_by(2);
        balls.of(Colour::Red).inc_by(0);
        metrics.count(&SENT).inc_by(7);
        metrics.histogram(&HEIGHT).observe(0.7);
        let level = metrics.gauge(&LEVEL);
        let held = InProgress::new(&level);
        metrics.observe_each(&AGE, || vec![(vec!["cheese"], 2.5)]);
        let text = metrics.encode();
        drop(held);
        assert_eq!(level.get(), 0);
        (metrics, text)
    }

    #[test]
    fn what_is_declared_is_what_is_scraped() {
        let (_, text) = all();
        for line in [
            "chatfn_test_balls_total{colour=\"red\"} 0",
            "chatfn_test_balls_total{colour=\"blue\"} 3",
            "chatfn_test_sent_bytes_total 7",
            "chatfn_test_flight_seconds_bucket{le=\"0.5\"} 0",
            "chatfn_test_flight_seconds_bucket{le=\"1.0\"} 1",
            "chatfn_test_flight_seconds_count 1",
            "chatfn_test_level 1",
            "chatfn_test_age_seconds{of=\"cheese\"} 2.5",
            "# HELP chatfn_test_balls Balls.",
            "# TYPE chatfn_test_balls counter",
            "# UNIT chatfn_test_flight_seconds seconds",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(types, ALL.len());
    }

    #[test]
    #[should_panic(expected = "is there already")]
    fn twice_is_a_mistake() {
        let (metrics, _) = all();
        metrics.gauge(&LEVEL);
    }

    #[test]
    #[should_panic(expected = "chatfn_test_level is a Gauge")]
    fn so_is_another_kind() {
        Metrics::new().count(&LEVEL);
    }
}
