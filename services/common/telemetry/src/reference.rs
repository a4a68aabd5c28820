//! The reference of all metrics, as a page.

use std::fmt::Write as _;

use crate::{Kind, Label, Metric};

/// The metrics as a table in Markdown: name, type, unit, labels, what each means, and what to do when it is off.
pub fn reference(metrics: &[Metric]) -> String {
    let mut page =
        "| metric | type | labels | meaning | when it is off |\n|---|---|---|---|---|\n".to_owned();
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let unit = metric.unit().map(|unit| format!(", {unit}")).unwrap_or_default();
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            page,
            "| `{}` | {kind}{unit} | {} | {} | {} |",
            metric.name,
            labels.join("; "),
            cell(metric.meaning),
            cell(metric.when_off),
        );
    }
    page
}

fn label(label: &Label) -> String {
    if label.values.is_empty() {
        return format!("`{}`: {}", label.name, label.origin);
    }
    let values: Vec<String> = label.values.iter().map(|value| format!("`{value}`")).collect();
    format!("`{}`: {}", label.name, values.join(" "))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row() {
        const LABELS: &[Label] =
            &[Label::among("code", &["OK", "NOT_FOUND"]), Label::of("method", "the contract's")];
        let metric = Metric::counter("chatfn_x_sent_bytes_total")
            .by(LABELS)
            .means("Sent.")
            .when_off("Send less | more.");
        assert!(reference(&[metric]).ends_with(
            "| `chatfn_x_sent_bytes_total` | counter, bytes | `code`: `OK` `NOT_FOUND`; `method`: the contract's | Sent. | \
             Send less \\| more. |\n"
        ));
    }
}
