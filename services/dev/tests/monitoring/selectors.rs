//! What a query asks for. Not a parser of PromQL, of which promtool is one: it finds the names that chatfn or Prometheus gives
//! to series, and the braces behind them.

/// Some series.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Labels, and what values they are compared with; regular expressions are alternatives of plain words, or are left out.
    pub(crate) matchers: Vec<(String, Vec<String>)>,
}

/// What a query selects.
pub(crate) fn selectors(query: &str) -> Vec<Selector> {
    let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_word) {
        let word_and_rest = &rest[start..];
        let end = word_and_rest.find(|it| !is_word(it)).unwrap_or(word_and_rest.len());
        let (word, after) = word_and_rest.split_at(end);
        rest = after;
        if !word.starts_with("chatfn_") && word != "up" {
            continue;
        }
        let mut matchers = Vec::new();
        if let Some((inside, after)) = after.strip_prefix('{').and_then(|it| it.split_once('}')) {
            matchers = inside.split(", ").map(matcher).collect();
            rest = after;
        }
        found.push(Selector { name: word.to_owned(), matchers });
    }
    found
}

fn matcher(text: &str) -> (String, Vec<String>) {
    let (label, value) = text.split_once(['=', '!']).unwrap_or_else(|| panic!("{text} compares nothing"));
    let value = value.split('"').nth(1).unwrap_or_else(|| panic!("{text} has no value"));
    let is_plain = value.chars().all(|it| it.is_ascii_alphanumeric() || "_|-.".contains(it));
    let values = if is_plain { value.split('|').map(str::to_owned).collect() } else { Vec::new() };
    (label.to_owned(), values)
}

#[test]
fn names_and_labels_are_found() {
    let query =
        r#"sum by (job) (rate(chatfn_a_total{x!="1", code=~"A|B"}[5m])) / up > chatfn_b{m!~"a.+/(B|C)"}"#;
    let selector = |name: &str, matchers: &[(&str, &[&str])]| Selector {
        name: name.to_owned(),
        matchers: matchers
            .iter()
            .map(|(label, values)| ((*label).to_owned(), values.iter().map(|it| (*it).to_owned()).collect()))
            .collect(),
    };
    let expected = [
        selector("chatfn_a_total", &[("x", &["1"]), ("code", &["A", "B"])]),
        selector("up", &[]),
        selector("chatfn_b", &[("m", &[])]),
    ];
    assert_eq!(selectors(query), expected);
}
