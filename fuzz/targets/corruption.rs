//! Any bytes anywhere in the guest's memory: the run is a report, and the next one is clean.
//!
//! An input is a series of patches: four bytes with a place, one with a length, then what is written there.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use chatfn_engine::{PrepareLimits, Prepared};
use chatfn_fuzz::{ENGINE, LIMITS, SHORT, assert_clean, block_on, call, prepare_engine, saw_report};
use libfuzzer_sys::fuzz_target;

static FUNCTION: LazyLock<Prepared> = LazyLock::new(|| {
    let source = "
      const kept = new Map([['a', { b: [1, 'x'] }]]);
      async function lambda(input) {
        console.log('%o', kept, input);
        await new Promise((resolve) => setTimeout(resolve, 0));
        await fetch('https://a.test/', { method: 'POST', body: 'x' }).catch(() => {});
        return [new URL('https://a.test/?b=1').search, crypto.randomUUID().length, ...kept.keys()];
      }";
    let patient = PrepareLimits { timeout: Duration::from_secs(60), ..LIMITS };
    block_on(ENGINE.prepare(source, patient)).expect("the function prepares")
});

fuzz_target!(init: prepare_engine(), |data: &[u8]| {
    let run = ENGINE.run_attacked(&FUNCTION, call(SHORT), |memory| {
        let mut rest = data;
        while let Some((head, after)) = rest.split_first_chunk::<5>() {
            let place = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize % memory.len();
            let len = usize::from(head[4]).min(after.len()).min(memory.len() - place);
            memory[place..place + len].copy_from_slice(&after[..len]);
            rest = &after[len..];
        }
    });
    saw_report(&block_on(run).expect("corruption is not the platform's failure"));
    assert_clean();
});
