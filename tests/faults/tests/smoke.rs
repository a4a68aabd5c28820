//! The short form of `make faults`: a few kills, and one mistake that must be found.

use std::path::Path;

use chatfn_faults::{
    checker::check,
    mutants::MUTANTS,
    places::Places,
    plan::{Run, SETTLE, Scale},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_chatfn-faults");

#[tokio::test]
async fn kills_break_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places::new(Path::new(PROGRAM), folder.path(), None).unwrap();
    let mut run = Run::start(&places, 1).await.unwrap();
    run.all(Scale::Smoke).await.unwrap();
    assert_eq!(run.kills, 3);
    let history = run.end(&places.folder, SETTLE).await.unwrap();
    let verdict = check(&history);
    assert!(verdict.broken.is_empty(), "{:#?}", verdict.broken);
    assert!(verdict.acknowledged > 0 && verdict.effects > 0 && verdict.streamed > 0, "{verdict:?}");
}

#[tokio::test]
async fn a_mistake_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let [.., mutant] = MUTANTS;
    let verdict = mutant.run(Path::new(PROGRAM), folder.path(), 1).await.unwrap();
    assert!(mutant.is_caught(&verdict), "{:#?}", verdict.broken);
}
