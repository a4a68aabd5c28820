//! What is asked for at each scrape.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::{Kind, Metric};

type Read = dyn Fn() -> Vec<(Vec<&'static str>, f64)> + Send + Sync;

/// A counter or a gauge whose values are somebody else's.
pub(crate) struct Observed {
    metric: Metric,
    read: Box<Read>,
}

impl Observed {
    pub(crate) fn new(
        metric: Metric,
        read: impl Fn() -> Vec<(Vec<&'static str>, f64)> + Send + Sync + 'static,
    ) -> Self {
        assert!(!matches!(metric.kind, Kind::Histogram(_)), "{} is a histogram", metric.name);
        Self { metric, read: Box::new(read) }
    }
}

impl EncodeMetric for Observed {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let write = |mut encoder: MetricEncoder<'_>, value: f64| match self.metric.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Kind::Gauge | Kind::Histogram(_) => encoder.encode_gauge(&value),
        };
        for (values, value) in (self.read)() {
            if values.is_empty() {
                return write(encoder, value);
            }
            let labels: Vec<_> = self.metric.labels.iter().map(|label| label.name).zip(values).collect();
            write(encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge | Kind::Histogram(_) => MetricType::Gauge,
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observed").field(&self.metric.name).finish()
    }
}
