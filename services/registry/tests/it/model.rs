//! Whatever is done to an account's functions, through whichever registry, comes out as in a model of a few lines.

mod moves;

use std::collections::BTreeMap;

use chatfn_proto::registry::v1::{FunctionState, ListFunctionsRequest, ListVersionsRequest};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use self::moves::{Answer, EtagChoice, Move, Player};
use crate::harness::{Registry, World};

/// Cases unless the variable `PROPTEST_CASES` says otherwise: each is up to 40 calls on a real store.
const CASES: u32 = 48;

/// An account's functions, by template. What is not in here does not exist.
#[derive(Debug, Default)]
struct Model {
    functions: BTreeMap<&'static str, Function>,
    /// The last version that a template's functions had, deleted ones included.
    last_versions: BTreeMap<&'static str, i64>,
    /// How many changes were made.
    changes: usize,
    /// How many functions there ever were.
    created: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    /// Tells it from others of the same name, and its states from each other.
    id: u32,
    revision: u32,
    draft: u8,
    versions: BTreeMap<i64, u8>,
    live: Option<i64>,
    has_build_error: bool,
}

impl Function {
    fn state(&self) -> FunctionState {
        match self.live {
            None => FunctionState::Draft,
            Some(live) if self.versions[&live] == self.draft => FunctionState::Productive,
            Some(_) => FunctionState::Modified,
        }
    }
}

impl Model {
    /// Makes the move, and says what it is answered with: the function, `None` when it is gone, or a reason.
    fn make(&mut self, the: &Move) -> Answer {
        let template = the.template();
        if let Move::Create { draft, .. } = the {
            if self.functions.contains_key(template) {
                return Err("FUNCTION_EXISTS");
            }
            self.created += 1;
            self.changes += 1;
            let function = Function {
                id: self.created,
                revision: 0,
                draft: *draft,
                versions: BTreeMap::new(),
                live: None,
                has_build_error: false,
            };
            return Ok(Some(self.functions.entry(template).or_insert(function).clone()));
        }
        let Some(function) = self.functions.get_mut(template) else { return Err("FUNCTION_NOT_FOUND") };
        if the.etag() == EtagChoice::Stale {
            return Err("ETAG_MISMATCH");
        }
        let is_change = match the {
            Move::Create { .. } => unreachable!("handled above"),
            Move::Update { draft, .. } => std::mem::replace(&mut function.draft, *draft) != *draft,
            Move::Delete { .. } if function.live.is_some() => return Err("FUNCTION_DEPLOYED"),
            Move::Delete { .. } => {
                self.changes += 1;
                self.functions.remove(template);
                return Ok(None);
            }
            Move::Undeploy { .. } => function.live.take().is_some(),
            Move::Deploy { version, .. }
                if version.is_some_and(|it| !function.versions.contains_key(&it)) =>
            {
                return Err("VERSION_NOT_FOUND");
            }
            Move::Deploy { builds: false, .. } => {
                // It is kept that it failed, and by whom.
                self.changes += 1;
                function.has_build_error = true;
                return Err("BUILD_FAILED");
            }
            Move::Deploy { version, .. } => {
                function.has_build_error = false;
                let last = self.last_versions.entry(template).or_default();
                let number = match (*version, function.live) {
                    (Some(number), _) => number,
                    (None, Some(live)) if function.versions[&live] == function.draft => live,
                    (None, _) => {
                        *last += 1;
                        function.versions.insert(*last, function.draft);
                        *last
                    }
                };
                function.live.replace(number) != Some(number)
            }
        };
        self.changes += usize::from(is_change);
        function.revision += u32::from(is_change);
        Ok(Some(function.clone()))
    }
}

fn moves() -> impl Strategy<Value = Vec<(Move, bool)>> {
    let template = || prop_oneof![2 => Just("chat.start"), 1 => Just("chat.end")];
    let etag = || prop_oneof![3 => Just(EtagChoice::None), 2 => Just(EtagChoice::Current), 1 => Just(EtagChoice::Stale)];
    let any_move = prop_oneof![
        3 => (template(), 0u8..3).prop_map(|(template, draft)| Move::Create { template, draft }),
        4 => (template(), 0u8..3, etag()).prop_map(|(template, draft, etag)| Move::Update { template, draft, etag }),
        5 => (template(), proptest::option::weighted(0.3, 1i64..5), etag(), proptest::bool::weighted(0.8)).prop_map(
            |(template, version, etag, builds)| Move::Deploy { template, version, etag, builds }
        ),
        2 => (template(), etag()).prop_map(|(template, etag)| Move::Undeploy { template, etag }),
        3 => (template(), etag()).prop_map(|(template, etag)| Move::Delete { template, etag }),
    ];
    // Whether the move is made again at the end of the next one.
    proptest::collection::vec((any_move, proptest::bool::weighted(0.3)), 1..30)
}

/// Plays the moves, each through the next registry, and compares every answer, and in the end all there is.
async fn play(
    registries: &[&Registry],
    world: &World,
    account: &str,
    moves: Vec<(Move, bool)>,
) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    let mut player = Player::new(account, world.invoker.clone());
    let mut to_repeat = None;
    for (number, (the, is_repeated)) in moves.into_iter().enumerate() {
        let registry = registries[number % registries.len()];
        let the = player.possible(the);
        let expected = model.make(&the);
        let request = player.request(&the, number);
        let answer = player.make(registry, &request, &expected).await?;
        // A repetition of what succeeded gets the first answer, whatever has happened since, and changes nothing.
        if let Some((earlier, first)) = to_repeat.take() {
            let again = player.send(registries[(number + 1) % registries.len()], &earlier).await;
            prop_assert_eq!(again.map_err(|error| error.to_string()), Ok(first));
        }
        to_repeat = answer.filter(|_| is_repeated).map(|answer| (request, answer));
        player.check(registry, &model.functions).await?;
    }
    compare_lists(registries[0], account, &model).await?;
    let entries = player.entries(registries[0]).await;
    prop_assert_eq!(entries, model.changes);
    Ok(())
}

async fn compare_lists(registry: &Registry, account: &str, model: &Model) -> Result<(), TestCaseError> {
    let request = ListFunctionsRequest { parent: account.to_owned(), ..Default::default() };
    let listed = registry.functions().list_functions(request).await.unwrap().into_inner().functions;
    let names: Vec<_> = listed.iter().map(|it| it.name.rsplit('/').next().unwrap()).collect();
    prop_assert_eq!(names, model.functions.keys().copied().collect::<Vec<_>>());
    for (template, function) in &model.functions {
        let parent = format!("{account}/functions/{template}");
        let request = ListVersionsRequest { parent, ..Default::default() };
        let versions = registry.functions().list_versions(request).await.unwrap().into_inner().versions;
        let numbers: Vec<_> = versions.iter().rev().map(|version| version.number).collect();
        prop_assert_eq!(numbers, function.versions.keys().copied().collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_does_what_the_model_does() {
    let world = World::start().await;
    let (second, third) = (world.another().await, world.another().await);
    let registries = [&world.registry, &second, &third];
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(CASES);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let played = tokio::task::block_in_place(|| {
        runner.run(&moves(), |moves| {
            number.set(number.get() + 1);
            let account = format!("accounts/case-{}", number.get());
            tokio::runtime::Handle::current().block_on(play(&registries, &world, &account, moves))
        })
    });
    played.unwrap_or_else(|error| panic!("{error}"));
}
