//! The host, called with anything: each answer is a number or the end of that guest, and little is held.
//!
//! An input is a byte with a number of calls, the calls (one byte for the import, then for each argument a byte
//! that chooses it), and what then lies in the guest's memory.

#![no_main]

use std::sync::Arc;

use chatfn_engine::attack::{Attacker, MEMORY_BYTES, imports, late_call};
use chatfn_engine::{
    Call, FetchResponse, FunctionOutcome, Host, HostOp, OpError, OpResult, SecretText, ServiceLocation,
};
use chatfn_fuzz::block_on;
use libfuzzer_sys::fuzz_target;

/// Answers at once with what it was asked.
struct Echo;

impl Host for Echo {
    fn start(
        &self,
        op: HostOp,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<OpResult, OpError>> + Send + 'static>> {
        let answer = match op {
            HostOp::Fetch(request) => OpResult::Fetch(FetchResponse {
                status: 200,
                status_text: request.method,
                url: request.url,
                redirected: false,
                headers: request.headers,
                body: request.body.unwrap_or_default(),
            }),
            HostOp::ReadSecret(request) => OpResult::Secret(SecretText(request.key)),
            HostOp::InvokeFunction(request) => {
                let json = String::from_utf8_lossy(&request.payload_json).into_owned();
                OpResult::Function(FunctionOutcome::Returned { json })
            }
            HostOp::LocateService(service) => {
                OpResult::Service(ServiceLocation { url: service, account: String::new() })
            }
        };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

fn argument(choice: u8, text: usize) -> u64 {
    let end = MEMORY_BYTES as u64;
    match choice {
        0..=63 => u64::from(choice),
        64..=127 => text as u64,
        128..=191 => text as u64 >> (choice % 8),
        192..=207 => end - u64::from(choice - 192),
        208..=223 => end + u64::from(choice - 208),
        224..=239 => u64::MAX << (choice - 224),
        _ => u64::MAX - u64::from(choice - 240),
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((count, mut rest)) = data.split_first() else { return };
    let mut calls = Vec::new();
    for _ in 0..count % 16 {
        let Some((import, arguments)) = rest.split_first() else { break };
        let import = usize::from(*import) % imports().len();
        let Some((arguments, after)) = arguments.split_at_checked(imports()[import].arity()) else { break };
        calls.push((import, arguments));
        rest = after;
    }
    let text = rest.len().min(MEMORY_BYTES);
    block_on(async {
        let mut attacker = Attacker::new(Call { host: Arc::new(Echo), ..late_call() }).await;
        attacker.memory()[..text].copy_from_slice(&rest[..text]);
        for (import, arguments) in calls {
            let arguments: Vec<_> = arguments.iter().map(|choice| argument(*choice, text)).collect();
            if attacker.call(import, &arguments).await.is_none() {
                break;
            }
        }
        assert!(attacker.held_by_host() < 4 << 20, "the host holds {} bytes", attacker.held_by_host());
    });
});
