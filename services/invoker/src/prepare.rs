//! Whether a source could be deployed.

use std::{sync::Arc, time::Instant};

use chatfn_domain::{
    name::{AccountId, FunctionName},
    settings::Language,
};
use chatfn_engine::{Engine, PrepareError, PrepareLimits, Prepared};
use chatfn_proto::{
    convert::{parse, to_duration, to_language},
    invoker::v1::{BuildError, BuildErrorKind, PrepareRequest, PreparedSource, prepare_response::Outcome},
};
use tokio::sync::Semaphore;

use crate::{
    error::InvokerError,
    functions::{PREPARE_TIMEOUT, is_authors},
    places::Places,
    source,
};

/// Calls that wait for each preparation that may be under way.
const WAITING_PER_PREPARE: usize = 8;
/// Stands for the accounts of requests that name none: those of a registry of an earlier release.
const UNNAMED: &str = "unnamed";

/// Prepares sources for deployers and testers. Has limits of its own, so that deploys cannot starve runs.
pub(crate) struct Preparer {
    engine: Engine,
    under_way: Semaphore,
    /// Preparations under way and calls that wait for one.
    accepted: Arc<Places>,
}

impl Preparer {
    /// Prepares up to `max_prepares` sources at once.
    pub(crate) fn new(engine: Engine, max_prepares: u32) -> Self {
        let max_prepares = max_prepares as usize;
        Self {
            engine,
            under_way: Semaphore::new(max_prepares),
            accepted: Places::new("preparations", max_prepares * (1 + WAITING_PER_PREPARE)),
        }
    }

    /// Prepares a source and throws the outcome away. Cancel safe.
    pub(crate) async fn prepare(&self, request: PrepareRequest) -> Result<Outcome, InvokerError> {
        let begun = Instant::now();
        let account = match request.function.as_str() {
            "" => UNNAMED.parse().expect("an account"),
            function => parse::<FunctionName>("function", function)?.account,
        };
        let language = to_language(request.language());
        Ok(match self.build(&account, &request.source, language, request.memory_mib).await? {
            Ok(prepared) => Outcome::Prepared(PreparedSource {
                size_bytes: i64::try_from(prepared.size_bytes()).unwrap_or(i64::MAX),
                duration: Some(to_duration(begun.elapsed())),
                warnings: to_warnings(&prepared),
            }),
            Err(error) => Outcome::BuildError(error),
        })
    }

    /// Prepares a source, as soon as there is a place for it. `Ok(Err(…))` says why the source is wrong; 0 MiB stand for the
    /// default. Cancel safe.
    pub(crate) async fn build(
        &self,
        account: &AccountId,
        source: &str,
        language: Language,
        memory_mib: u32,
    ) -> Result<Result<Prepared, BuildError>, InvokerError> {
        let _accepted = self.accepted.take(account)?;
        let _under_way = self.under_way.acquire().await.expect("it is never closed");
        let default = PrepareLimits::default();
        let memory_bytes = match memory_mib {
            0 => default.memory_bytes,
            mib => (mib as usize) << 20,
        };
        let limits = PrepareLimits { timeout: PREPARE_TIMEOUT, memory_bytes, ..default };
        match source::prepare(&self.engine, source, language, limits).await {
            Ok(prepared) => Ok(Ok(prepared)),
            Err(error) if is_authors(&error) => Ok(Err(to_build_error(error))),
            Err(error) => Err(InvokerError::Load(error.into())),
        }
    }
}

/// What the author should know of a source that can be deployed.
pub(crate) fn to_warnings(prepared: &Prepared) -> Vec<String> {
    prepared.warnings().iter().map(ToString::to_string).collect()
}

fn to_build_error(error: PrepareError) -> BuildError {
    let message = error.to_string();
    let (kind, line, column, stack) = match error {
        PrepareError::Syntax { line, column, .. } => (BuildErrorKind::Syntax, line, column, String::new()),
        PrepareError::TopLevelThrow { line, column, stack, .. } => {
            (BuildErrorKind::TopLevelThrow, line, column, stack)
        }
        PrepareError::ForbiddenAtTopLevel { line, column, .. } => {
            (BuildErrorKind::ForbiddenAtTopLevel, line, column, String::new())
        }
        PrepareError::Unreadable { .. } => (BuildErrorKind::Syntax, 0, 0, String::new()),
        PrepareError::NoLambda => (BuildErrorKind::NoLambda, 0, 0, String::new()),
        PrepareError::ForbiddenImport { line, column, .. } => {
            (BuildErrorKind::UnknownModule, line, column, String::new())
        }
        PrepareError::Timeout { .. } => (BuildErrorKind::Timeout, 0, 0, String::new()),
        PrepareError::Memory { .. } => (BuildErrorKind::OutOfMemory, 0, 0, String::new()),
        PrepareError::TooLarge { .. } => (BuildErrorKind::TooLarge, 0, 0, String::new()),
        // Not build errors; see `is_authors`.
        PrepareError::NoCapacity | PrepareError::Internal { .. } => {
            (BuildErrorKind::Unspecified, 0, 0, String::new())
        }
    };
    BuildError { kind: kind.into(), message, line, column, stack }
}
