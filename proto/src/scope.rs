//! Whose things a request names.
//!
//! To a caller of one account, the things of another one do not exist: whatever it asks about them, it is told what it
//! would be told of a thing of its own that is not there, before anything is looked up, so that neither answer nor time
//! tells whether it is.

use chatfn_domain::{
    caller::Caller,
    reasons::{self, Reason},
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

mod generated {
    use super::{Named, NamesAccounts};

    include!(concat!(env!("OUT_DIR"), "/names.rs"));
}

/// A field that may name an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// By a resource name, `accounts/{account}…`. Others, such as `templates/{template}`, belong to nobody.
    Resource(&'a str),
    /// By its id.
    Account(&'a str),
}

/// A request, or a part of one. Implemented by the build.
pub trait NamesAccounts {
    /// Shows each field that may name an account to `found`.
    fn visit<'a>(&'a self, found: &mut dyn FnMut(Named<'a>));
}

/// What a caller names is not there for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.kind().1.message(self.kind().0, .name, "was not found"))]
pub struct NotFound {
    /// Its resource name.
    pub name: String,
}

/// Checks that `caller` may name what `message` names.
///
/// # Errors
/// The first name that it may not.
pub fn check(caller: &Caller, message: &impl NamesAccounts) -> Result<(), NotFound> {
    let mut refused = None;
    message.visit(&mut |named| {
        let account = match named {
            Named::Account(account) => Some(account),
            Named::Resource(name) => account_of(name),
        };
        if refused.is_none() && account.is_some_and(|account| !caller.may_name(account)) {
            let name = match named {
                Named::Account(account) => format!("accounts/{account}"),
                Named::Resource(name) => name.to_owned(),
            };
            refused = Some(NotFound { name });
        }
    });
    refused.map_or(Ok(()), Err)
}

/// The account in a resource name. Names that do not parse are refused by whoever parses them.
fn account_of(name: &str) -> Option<&str> {
    name.strip_prefix("accounts/")?.split('/').next()
}

impl NotFound {
    /// The kind of thing, `function` for `accounts/acme/functions/chat.start`, and the reason. What is nothing of an
    /// account's is of no interest once the account is not the caller's.
    fn kind(&self) -> (&'static str, Reason) {
        match self.name.split('/').step_by(2).last() {
            Some("functions") => ("function", reasons::FUNCTION_NOT_FOUND),
            Some("versions") => ("version", reasons::VERSION_NOT_FOUND),
            Some("secrets") => ("secret", reasons::SECRET_NOT_FOUND),
            Some("deliveries") => ("delivery", reasons::DELIVERY_NOT_FOUND),
            Some("conversations") => ("conversation", reasons::CONVERSATION_NOT_FOUND),
            Some("replays") => ("replay", reasons::REPLAY_NOT_FOUND),
            _ => ("account", reasons::ACCOUNT_NOT_FOUND),
        }
    }
}

impl From<NotFound> for Status {
    fn from(error: NotFound) -> Self {
        let (kind, reason) = error.kind();
        let mut details = ErrorDetails::with_error_info(reason.name(), "chatfn", []);
        details.set_resource_info(kind, error.name.as_str(), "", "");
        Status::with_error_details(Code::NotFound, error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use chatfn_domain::caller::{Role, Scope};

    use super::*;
    use crate::{
        ingest::v1::{Event, PublishEventsRequest},
        invoker::v1::InvokeRequest,
        registry::v1::{Function, GetTemplateRequest, UpdateFunctionRequest},
    };

    fn acme() -> Caller {
        Caller::user("jane", Scope::Account("acme".parse().expect("an account")), Role::ALL)
    }

    fn update(name: &str) -> UpdateFunctionRequest {
        let function = Function { name: name.into(), source: "accounts/other".into(), ..Function::default() };
        UpdateFunctionRequest { function: Some(function), ..UpdateFunctionRequest::default() }
    }

    #[test]
    fn names_of_other_accounts_are_found_wherever_they_are() {
        let own = update("accounts/acme/functions/chat.start");
        assert_eq!(check(&acme(), &own), Ok(()));
        for name in [
            "accounts/other/functions/chat.start",
            "accounts/acme2/functions/x",
            "accounts/",
            "accounts/ACME",
        ] {
            assert_eq!(check(&acme(), &update(name)), Err(NotFound { name: name.into() }));
            assert_eq!(check(&Caller::anonymous(), &update(name)), Ok(()));
        }
        let invoke = InvokeRequest { function: "accounts/other/functions/a.b".into(), ..Default::default() };
        assert!(check(&acme(), &invoke).is_err());
        let event = Event { account: "other".into(), ..Event::default() };
        assert_eq!(check(&acme(), &event), Err(NotFound { name: "accounts/other".into() }));
        // Each of many is checked, and refused, by itself.
        assert_eq!(check(&acme(), &PublishEventsRequest { events: vec![event] }), Ok(()));
        assert_eq!(check(&acme(), &GetTemplateRequest { name: "templates/chat.start".into() }), Ok(()));
    }

    #[test]
    fn what_is_not_found_has_the_kind_of_its_name() {
        for (name, kind, reason) in [
            ("accounts/a", "account", "ACCOUNT_NOT_FOUND"),
            ("accounts/a/functions/chat.start", "function", "FUNCTION_NOT_FOUND"),
            ("accounts/a/functions/chat.start/versions/3", "version", "VERSION_NOT_FOUND"),
            ("accounts/a/deliveries/e-1", "delivery", "DELIVERY_NOT_FOUND"),
        ] {
            let status = Status::from(NotFound { name: name.into() });
            assert_eq!(status.code(), Code::NotFound);
            assert!(status.message().starts_with(&format!("{kind} {name:?} was not found. ")));
            assert_eq!(status.get_details_error_info().expect("details").reason, reason);
            assert_eq!(status.get_details_resource_info().expect("details").resource_type, kind);
        }
    }
}
