//! `chatfn-event-ingest` with failpoints, for `make faults`. Under a name of its own, so that a build for tests never lies
//! where a release is looked for.

#[path = "../main.rs"]
mod service;

fn main() -> anyhow::Result<std::process::ExitCode> {
    service::main()
}
