//! Where spans go.

use std::time::Duration;

use http::Uri;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};

use super::{Recorder, Traces};

/// Spans that wait to be sent. More are dropped: telling must not hold up the work.
const QUEUE: usize = 4096;
/// How long sending a batch of them may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// Settings of traces; flatten them into a service's clap arguments.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct TracesArgs {
    /// Where an OpenTelemetry collector takes OTLP over gRPC, such as `http://127.0.0.1:4317`; without it nothing is recorded
    #[arg(long, env = "CHATFN_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Uri>,

    /// Which part of the calls that come without a traceparent is recorded, from 0 to 1; of those that come with one, the caller
    /// decides
    #[arg(long, env = "CHATFN_TRACE_RATIO", value_name = "RATIO", default_value_t = 0.01)]
    pub trace_ratio: f64,
}

/// Settings of traces that are wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TracesConfigError {
    /// It is no share.
    #[error("--trace-ratio ({0}) must be from 0 to 1")]
    Ratio(f64),
    /// It is not where a collector can be.
    #[error("--otlp-endpoint ({0}) must be http:// or https://, a host and a port, and nothing else")]
    Endpoint(Uri),
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] TracesConfigError),
    /// The exporter cannot be made.
    #[error("cannot send spans to --otlp-endpoint")]
    Exporter(#[from] ExporterBuildError),
}

impl Default for TracesArgs {
    fn default() -> Self {
        Self { otlp_endpoint: None, trace_ratio: 0.01 }
    }
}

impl TracesArgs {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), TracesConfigError> {
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return Err(TracesConfigError::Ratio(self.trace_ratio));
        }
        match &self.otlp_endpoint {
            Some(uri) if !is_origin(uri) => Err(TracesConfigError::Endpoint(uri.clone())),
            _ => Ok(()),
        }
    }

    /// Begins to record what `service` does, if a collector is set. It need not be there: what cannot be sent is dropped.
    ///
    /// # Errors
    /// The settings are wrong.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start(&self, service: &'static str, version: &'static str) -> Result<Traces, TracesError> {
        self.validate()?;
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(Traces::off()) };
        let tls = tonic::transport::ClientTlsConfig::new().with_native_roots();
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.to_string())
            .with_timeout(EXPORT_LIMIT);
        if endpoint.scheme() == Some(&http::uri::Scheme::HTTPS) {
            exporter = exporter.with_tls_config(tls);
        }
        let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let batches = BatchSpanProcessor::builder(exporter.build()?).with_batch_config(batches).build();
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.namespace", "chatfn"),
            KeyValue::new("service.name", service),
            KeyValue::new("service.version", version),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(batches)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(self.trace_ratio))))
            .with_resource(resource.build())
            .build();
        tracing::info!(otlp.endpoint = %endpoint, "recording traces");
        Ok(Traces(Some(Recorder { tracer: provider.tracer("chatfn"), provider })))
    }
}

fn is_origin(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.port().is_some()
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(endpoint: &str, trace_ratio: f64) -> Result<(), String> {
        let otlp_endpoint = Some(endpoint.parse().expect("a URI"));
        TracesArgs { otlp_endpoint, trace_ratio }.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(TracesArgs::default().validate().map_err(|error| error.to_string()), Ok(()));
        assert_eq!(checked("http://collector:4317", 1.0), Ok(()));
        assert_eq!(checked("https://collector:4317/", 0.0), Ok(()));
        for bad in ["collector:4317", "http://collector", "http://c:4317/v1/traces", "http://u:p@c:4317"] {
            assert!(checked(bad, 1.0).is_err_and(|error| error.contains("--otlp-endpoint")), "{bad}");
        }
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(checked("http://collector:4317", bad).is_err(), "{bad}");
        }
    }
}
