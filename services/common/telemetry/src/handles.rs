//! What services update.

use std::{borrow::Cow, marker::PhantomData, sync::Arc, time::Duration};

use prometheus_client::metrics::{
    counter,
    family::{Family, MetricConstructor},
    gauge, histogram,
};

use crate::{Label, LabelValue};

/// The labels of one series.
pub(crate) type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// Counts something. Cheap to clone and to update.
pub type Count = counter::Counter;

/// Has a value that goes up and down. Cheap to clone and to update.
pub type Gauge = gauge::Gauge;

/// One handle for each value of a label.
#[derive(Debug)]
struct ByValue<H, L>(Arc<[H]>, PhantomData<fn(L)>);

impl<H, L: LabelValue> ByValue<H, L> {
    fn new(handles: impl Iterator<Item = H>) -> Self {
        Self(handles.collect(), PhantomData)
    }

    fn of(&self, value: L) -> &H {
        &self.0[value.index()]
    }
}

impl<H, L> Clone for ByValue<H, L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

macro_rules! by_value {
    ($(#[$meta:meta])* $name:ident of $handle:ty) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name<L>(ByValue<$handle, L>);

        impl<L: LabelValue> $name<L> {
            pub(crate) fn new(handles: impl Iterator<Item = $handle>) -> Self {
                Self(ByValue::new(handles))
            }

            /// That of a value.
            pub fn of(&self, value: L) -> &$handle {
                self.0.of(value)
            }
        }

        impl<L> Clone for $name<L> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }
    };
}

by_value! {
    /// A counter for each value of a label. Cheap to clone.
    Counts of Count
}
by_value! {
    /// A gauge for each value of a label. Cheap to clone.
    Gauges of Gauge
}
by_value! {
    /// A histogram for each value of a label. Cheap to clone.
    Histograms of Histogram
}

/// Counts how often values up to each of some bounds were seen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Histogram(histogram::Histogram);

impl Histogram {
    pub(crate) fn new(inner: histogram::Histogram) -> Self {
        Self(inner)
    }

    /// A value was seen.
    pub fn observe(&self, value: f64) {
        self.0.observe(value);
    }

    /// Something took, or waited, so long.
    pub fn took(&self, duration: Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// How a family makes another histogram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds(pub(crate) &'static [f64]);

impl Bounds {
    pub(crate) fn histogram(self) -> histogram::Histogram {
        histogram::Histogram::new(self.0.iter().copied())
    }
}

impl MetricConstructor<histogram::Histogram> for Bounds {
    fn new_metric(&self) -> histogram::Histogram {
        self.histogram()
    }
}

macro_rules! family {
    ($(#[$meta:meta])* $name:ident($family:ty) of $handle:ty, $wrap:expr) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name(&'static [Label], $family);

        impl $name {
            pub(crate) fn new(labels: &'static [Label], family: $family) -> Self {
                Self(labels, family)
            }

            /// The handle for these values of the labels, in their declared order. It is looked up: fetch it once, not for
            /// each update. How many there can be is the caller's to bound.
            ///
            /// # Panics
            /// When there are more or fewer values than labels.
            pub fn with<V: Into<Cow<'static, str>>>(&self, values: impl IntoIterator<Item = V>) -> $handle {
                let values: Vec<_> = values.into_iter().map(Into::into).collect();
                assert_eq!(values.len(), self.0.len(), "a value for each of {:?}", self.0);
                let labels: Labels = self.0.iter().map(|label| label.name).zip(values).collect();
                $wrap(self.1.get_or_create_owned(&labels))
            }
        }
    };
}

family! {
    /// Counters by labels whose values are found out while the service runs.
    CountFamily(Family<Labels, Count>) of Count, std::convert::identity
}
family! {
    /// Gauges by labels whose values are found out while the service runs.
    GaugeFamily(Family<Labels, Gauge>) of Gauge, std::convert::identity
}
family! {
    /// Histograms by labels whose values are found out while the service runs.
    HistogramFamily(Family<Labels, histogram::Histogram, Bounds>) of Histogram, Histogram
}

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct InProgress(Gauge);

impl InProgress {
    /// One more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}
