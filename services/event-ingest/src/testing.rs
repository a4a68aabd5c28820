//! For the tests of pure logic.

use proptest::prelude::ProptestConfig;

/// As many cases as `CHATFN_PROPTEST_CASES` says; 10,000 by default.
pub(crate) fn cases() -> ProptestConfig {
    let cases = std::env::var("CHATFN_PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(10_000), ..ProptestConfig::default() }
}
