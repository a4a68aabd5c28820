//! docs/BENCHMARKS.md: what each benchmark measures, as its own front page has it. What stands above the line is written by
//! people: figures, and on which machine.

use std::{fmt::Write as _, fs};

use crate::{check_below, repository};

const LINE: &str = "<!-- What follows is made of the benchmarks' front pages: make docs -->\n";

const BENCHES: [(&str, &str); 4] = [
    ("One run of a lambda", "services/invoker/benches/invoke/main.rs"),
    ("Too many calls", "services/invoker/benches/overload/main.rs"),
    ("The way of an event", "services/dev/benches/ingest/main.rs"),
    ("The control plane", "services/dev/benches/registry/main.rs"),
];

#[test]
fn benchmarks_are_those_of_the_code() {
    let mut page = String::new();
    for (heading, source) in BENCHES {
        let text = fs::read_to_string(repository().join(source)).expect("the benchmark is there");
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let front: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        let front = front.join("\n").replace("[`ROUNDS`]", "`ROUNDS`");
        assert!(front.contains("| figure | meaning | goal |"), "{source} says what its figures are");
        write!(page, "\n## {heading}\n\n{front}\n\nIts code begins at [`{source}`](../{source}).\n").unwrap();
    }
    check_below("BENCHMARKS.md", LINE, &page);
}
