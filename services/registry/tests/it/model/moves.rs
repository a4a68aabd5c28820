//! Moves, and how they are made on a real registry.

use std::collections::{BTreeMap, HashMap};

use chatfn_proto::registry::v1::{
    self as wire, CreateFunctionRequest, DeleteFunctionRequest, DeployFunctionRequest,
    ListAuditEntriesRequest, UndeployFunctionRequest, UpdateFunctionRequest,
};
use chatfn_rpc::ErrorReport;
use proptest::{prelude::*, test_runner::TestCaseError};
use tonic::Status;

use super::Function;
use crate::{audit, harness::Registry, invoker::Script};

/// The function after a move, `None` when it is gone, or the reason of a refusal.
pub(super) type Answer = Result<Option<Function>, &'static str>;

/// Which etag a move names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtagChoice {
    None,
    Current,
    Stale,
}

/// Something that can be done to a function.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Create { template: &'static str, draft: u8 },
    Update { template: &'static str, draft: u8, etag: EtagChoice },
    Deploy { template: &'static str, version: Option<i64>, etag: EtagChoice, builds: bool },
    Undeploy { template: &'static str, etag: EtagChoice },
    Delete { template: &'static str, etag: EtagChoice },
}

impl Move {
    pub(super) fn template(&self) -> &'static str {
        match self {
            Self::Create { template, .. }
            | Self::Update { template, .. }
            | Self::Deploy { template, .. }
            | Self::Undeploy { template, .. }
            | Self::Delete { template, .. } => template,
        }
    }

    pub(super) fn etag(&self) -> EtagChoice {
        match self {
            Self::Create { .. } => EtagChoice::None,
            Self::Update { etag, .. }
            | Self::Deploy { etag, .. }
            | Self::Undeploy { etag, .. }
            | Self::Delete { etag, .. } => *etag,
        }
    }

    fn etag_mut(&mut self) -> Option<&mut EtagChoice> {
        match self {
            Self::Create { .. } => None,
            Self::Update { etag, .. }
            | Self::Deploy { etag, .. }
            | Self::Undeploy { etag, .. }
            | Self::Delete { etag, .. } => Some(etag),
        }
    }
}

/// A move as a call.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Create(CreateFunctionRequest),
    Update(UpdateFunctionRequest),
    Deploy(DeployFunctionRequest),
    Undeploy(UndeployFunctionRequest),
    Delete(DeleteFunctionRequest),
}

/// Makes moves in one account.
pub(super) struct Player {
    account: String,
    invoker: Script,
    /// The current etag of each template's function, while it exists.
    current: HashMap<&'static str, String>,
    /// An etag that each template's function had before, or that an earlier one of its name had.
    stale: HashMap<&'static str, String>,
    /// Every state's etag, by the function's id and revision.
    etags: HashMap<(u32, u32), String>,
}

impl Player {
    pub(super) fn new(account: &str, invoker: Script) -> Self {
        Self {
            account: account.to_owned(),
            invoker,
            current: HashMap::new(),
            stale: HashMap::new(),
            etags: HashMap::new(),
        }
    }

    /// The move without an etag that nobody can have.
    pub(super) fn possible(&self, mut the: Move) -> Move {
        let template = the.template();
        if let Some(etag) = the.etag_mut() {
            let known = match etag {
                EtagChoice::None => true,
                EtagChoice::Current => self.current.contains_key(template),
                EtagChoice::Stale => self.stale.contains_key(template),
            };
            if !known {
                *etag = EtagChoice::None;
            }
        }
        the
    }

    /// The call, with a `request_id` that stands for `number`.
    pub(super) fn request(&self, the: &Move, number: usize) -> Request {
        let template = the.template();
        let name = format!("{}/functions/{template}", self.account);
        let request_id = format!("00000000-0000-4000-8000-{number:012}");
        let etag = match the.etag() {
            EtagChoice::None => String::new(),
            EtagChoice::Current => self.current[template].clone(),
            EtagChoice::Stale => self.stale[template].clone(),
        };
        let function = |draft: u8| wire::Function {
            name: name.clone(),
            source: source(draft),
            etag: etag.clone(),
            ..Default::default()
        };
        match the {
            Move::Create { draft, .. } => Request::Create(CreateFunctionRequest {
                parent: self.account.clone(),
                template: template.to_owned(),
                function: Some(function(*draft)),
                request_id,
                ..Default::default()
            }),
            Move::Update { draft, .. } => Request::Update(UpdateFunctionRequest {
                function: Some(function(*draft)),
                request_id,
                ..Default::default()
            }),
            Move::Deploy { version, .. } => Request::Deploy(DeployFunctionRequest {
                version: version.unwrap_or(0),
                name,
                etag,
                request_id,
                ..Default::default()
            }),
            Move::Undeploy { .. } => Request::Undeploy(UndeployFunctionRequest { name, etag, request_id }),
            Move::Delete { .. } => Request::Delete(DeleteFunctionRequest { name, etag, request_id }),
        }
    }

    /// What the registry answers: the function, `None` when it is gone.
    pub(super) async fn send(
        &self,
        registry: &Registry,
        request: &Request,
    ) -> Result<Option<wire::Function>, Status> {
        let mut client = registry.functions();
        match request.clone() {
            Request::Create(it) => client.create_function(it).await.map(|it| it.into_inner().function),
            Request::Update(it) => client.update_function(it).await.map(|it| it.into_inner().function),
            Request::Deploy(it) => client.deploy_function(it).await.map(|it| it.into_inner().function),
            Request::Undeploy(it) => client.undeploy_function(it).await.map(|it| it.into_inner().function),
            Request::Delete(it) => client.delete_function(it).await.map(|_| None),
        }
    }

    /// Makes the move and compares its answer with the model's; gives the answer if it was not a refusal.
    pub(super) async fn make(
        &mut self,
        registry: &Registry,
        request: &Request,
        expected: &Answer,
    ) -> Result<Option<Option<wire::Function>>, TestCaseError> {
        if *expected == Err("BUILD_FAILED") {
            self.invoker.push_broken(Default::default());
        }
        let answer = self.send(registry, request).await;
        match (answer, expected) {
            (Ok(answer), Ok(function)) => {
                prop_assert_eq!(answer.is_some(), function.is_some());
                if let (Some(answer), Some(function)) = (&answer, function) {
                    self.compare(answer, function)?;
                }
                Ok(Some(answer))
            }
            (Err(status), Err(reason)) => {
                let report = ErrorReport::from_status(&status);
                prop_assert_eq!(report.reason.as_deref(), Some(*reason));
                Ok(None)
            }
            (answer, expected) => Err(TestCaseError::fail(format!("{answer:?} instead of {expected:?}"))),
        }
    }

    /// Compares what a registry has with the model, and learns the etags.
    pub(super) async fn check(
        &mut self,
        registry: &Registry,
        functions: &BTreeMap<&'static str, Function>,
    ) -> Result<(), TestCaseError> {
        for template in ["chat.start", "chat.end"] {
            let stored = registry.get(&format!("{}/functions/{template}", self.account)).await;
            let Some(function) = functions.get(template) else {
                prop_assert!(stored.is_err(), "{} does not exist", template);
                if let Some(etag) = self.current.remove(template) {
                    self.stale.insert(template, etag);
                }
                continue;
            };
            let stored = stored.map_err(|error| TestCaseError::fail(error.to_string()))?;
            self.compare(&stored, function)?;
            if let Some(before) = self.current.insert(template, stored.etag.clone())
                && before != stored.etag
            {
                self.stale.insert(template, before);
            }
        }
        Ok(())
    }

    fn compare(&mut self, stored: &wire::Function, function: &Function) -> Result<(), TestCaseError> {
        prop_assert_eq!(stored.state(), function.state());
        prop_assert_eq!(stored.live_version, function.live.unwrap_or(0));
        prop_assert_eq!(&stored.source, &source(function.draft));
        prop_assert_eq!(stored.build_error.is_some(), function.has_build_error);
        // One state has one etag, and no other state, of whichever function, has it.
        let state = (function.id, function.revision);
        if let Some(known) = self.etags.get(&state) {
            prop_assert_eq!(&stored.etag, known);
        } else {
            prop_assert!(!self.etags.values().any(|etag| *etag == stored.etag), "an etag came back");
            self.etags.insert(state, stored.etag.clone());
        }
        Ok(())
    }

    /// How many entries the account's audit has.
    pub(super) async fn entries(&self, registry: &Registry) -> usize {
        let request =
            ListAuditEntriesRequest { parent: self.account.clone(), page_size: 200, ..Default::default() };
        audit::list(registry, request).await.unwrap().entries.len()
    }
}

fn source(draft: u8) -> String {
    format!("function lambda() {{ return {draft}; }}")
}
