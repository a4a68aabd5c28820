//! How current what is live is.

use std::time::Duration;

use chatfn_telemetry::{Label, Metric, Metrics, declare};

use crate::{Deployments, state::Contact};

const SOURCE: Label = Label::among("source", &["nothing", "registry", "memory", "file"]);

declare! {
    /// The metrics of what is live, in each service that watches it.
    pub METRICS = {
        AGE: Metric::gauge("chatfn_deployments_age_seconds")
            .means("Time since what is served was what the registry said; 0 while it is watched, absent while nothing is known.")
            .when_off("Grows: the registry cannot be reached, and deploys do not arrive here. See chatfn_rpc_client_calls_total by callee registry, and this service's log."),
        SERVED: Metric::gauge("chatfn_deployments_source").by(&[SOURCE])
            .means("1 for where what is live comes from: a watch that is under way (`registry`), one that broke (`memory`), the snapshot file (`file`), or nowhere yet (`nothing`).")
            .when_off("`nothing`: the service does not serve until the registry answers; give it a --snapshot-file for the next time."),
        FUNCTIONS: Metric::gauge("chatfn_deployments_functions").means("Functions that are live."),
        TEMPLATES: Metric::gauge("chatfn_deployments_templates").means("Templates that are known."),
        CHANGES: Metric::counter("chatfn_deployments_changes_total")
            .means("Changes that look-ups have seen; a snapshot is one."),
    }
}

impl Deployments {
    /// Tells how current this is.
    ///
    /// # Panics
    /// When a service calls it twice.
    pub fn observe(&self, metrics: &Metrics) {
        let of = |read: fn(&Self) -> Option<f64>| {
            let deployments = self.clone();
            move || read(&deployments)
        };
        metrics.observe(&AGE, of(|it| Some(it.contact().age()?.as_secs_f64())));
        let deployments = self.clone();
        metrics.observe_each(&SERVED, move || {
            let now = deployments.contact().source();
            SOURCE.values.iter().map(|source| (vec![*source], f64::from(u8::from(*source == now)))).collect()
        });
        metrics.observe(&FUNCTIONS, of(|it| it.read(|state| state.functions.len() as f64).ok()));
        metrics.observe(&TEMPLATES, of(|it| it.read(|state| state.templates.len() as f64).ok()));
        metrics.observe(&CHANGES, of(|it| Some(*it.changed().borrow() as f64)));
    }
}

impl Contact {
    /// Time since what is live was what the registry said.
    pub(crate) fn age(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Now => Some(Duration::ZERO),
            // A clock that was set back makes it look fresh; nothing is decided by it.
            Self::Last(time) | Self::File(time) => Some(time.elapsed().unwrap_or_default()),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Never => "nothing",
            Self::Now => "registry",
            Self::Last(_) => "memory",
            Self::File(_) => "file",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::state::State;

    fn told(contact: Contact) -> String {
        let (deployments, metrics) = (Deployments::empty(), Metrics::new());
        deployments.observe(&metrics);
        if !matches!(contact, Contact::Never) {
            deployments.replace(State::default());
        }
        deployments.set_contact(contact);
        metrics.encode()
    }

    #[test]
    fn what_is_stale_says_so() {
        let never = told(Contact::Never);
        assert!(never.contains("chatfn_deployments_source{source=\"nothing\"} 1"), "{never}");
        assert!(!never.contains("\nchatfn_deployments_age_seconds "), "nothing has no age: {never}");
        let now = told(Contact::Now);
        assert!(now.contains("chatfn_deployments_age_seconds 0.0\n"), "{now}");
        let hour = SystemTime::now() - Duration::from_secs(3_600);
        for (contact, source) in [(Contact::Last(hour), "memory"), (Contact::File(hour), "file")] {
            let text = told(contact);
            assert!(text.contains("chatfn_deployments_age_seconds 36"), "{text}");
            assert!(text.contains(&format!("chatfn_deployments_source{{source=\"{source}\"}} 1")), "{text}");
        }
    }
}
