//! Any bytes as a source: prepared or refused as the author's mistake, run within its deadline, and the next run
//! is clean. An odd first byte makes the rest the body of a lambda.

#![no_main]

use chatfn_engine::PrepareError;
use chatfn_fuzz::{ENGINE, LIMITS, SHORT, assert_clean, block_on, call, prepare_engine, saw, saw_report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: prepare_engine(), |data: &[u8]| {
    let Some((form, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let source = match form % 2 {
        0 => text.into_owned(),
        _ => format!("async function lambda(input, context) {{ {text}\n}}"),
    };
    match block_on(ENGINE.prepare(&source, LIMITS)) {
        Ok(prepared) => {
            let report = block_on(ENGINE.run(&prepared, call(SHORT))).expect("the platform works");
            assert!(report.logs.len() <= 101);
            saw_report(&report);
        }
        Err(error @ (PrepareError::Internal { .. } | PrepareError::NoCapacity)) => {
            panic!("a source is its author's affair: {error:?}")
        }
        Err(error) => saw(&error.to_string()),
    }
    assert_clean();
});
