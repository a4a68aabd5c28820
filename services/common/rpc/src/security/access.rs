//! Which method is for whom: the one table.
//!
//! A method that is not in it is for nobody. Whose things a caller may name is another matter: requests are checked
//! for the accounts that they name where they are read, in `chatfn-proto`.

use std::{collections::HashMap, sync::LazyLock};

use chatfn_domain::caller::{
    Caller, Identity, Role,
    Role::{Admin, Developer, Invocation},
    Service,
    Service::{EventIngest, Invoker, Registry},
};
use tonic::Code;

use crate::{ApiError, reasons};

/// Who may call a method: users that have one of the roles, and the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Any one of them suffices.
    pub roles: &'static [Role],
    /// By certificate.
    pub services: &'static [Service],
}

const ANY: &[Role] = &[Admin, Developer, Invocation];
/// Who puts right what went wrong.
const OPERATORS: &[Role] = &[Admin, Developer];
const NOBODY: &[Role] = &[];

/// Methods, the roles of users, and the services, that may call them.
const METHODS: &[(&str, &[Role], &[Service])] = &[
    // The catalogue holds nothing of any account.
    ("chatfn.registry.v1.TemplateService/ListTemplates", ANY, &[]),
    ("chatfn.registry.v1.TemplateService/GetTemplate", ANY, &[]),
    //
    ("chatfn.registry.v1.FunctionService/CreateFunction", &[Developer], &[]),
    // The invoker, to test drafts.
    ("chatfn.registry.v1.FunctionService/GetFunction", ANY, &[Invoker]),
    ("chatfn.registry.v1.FunctionService/ListFunctions", ANY, &[]),
    // An admin, for the hosts that lambdas may call; the registry tells field from field.
    ("chatfn.registry.v1.FunctionService/UpdateFunction", &[Admin, Developer], &[]),
    ("chatfn.registry.v1.FunctionService/DeleteFunction", &[Developer], &[]),
    ("chatfn.registry.v1.FunctionService/DeployFunction", &[Developer], &[]),
    ("chatfn.registry.v1.FunctionService/UndeployFunction", &[Developer], &[]),
    ("chatfn.registry.v1.FunctionService/GetVersion", ANY, &[]),
    ("chatfn.registry.v1.FunctionService/ListVersions", ANY, &[]),
    //
    ("chatfn.registry.v1.SecretService/SetSecret", &[Admin], &[]),
    ("chatfn.registry.v1.SecretService/GetSecret", &[Admin, Developer], &[]),
    ("chatfn.registry.v1.SecretService/ListSecrets", &[Admin, Developer], &[]),
    ("chatfn.registry.v1.SecretService/DeleteSecret", &[Admin], &[]),
    //
    ("chatfn.registry.v1.AuditService/ListAuditEntries", &[Admin], &[]),
    //
    ("chatfn.registry.v1.SecretAccessService/AccessSecret", NOBODY, &[Invoker]),
    ("chatfn.registry.v1.DeploymentWatchService/WatchDeployments", NOBODY, &[EventIngest, Invoker]),
    //
    ("chatfn.invoker.v1.InvokerService/Invoke", &[Developer, Invocation], &[EventIngest]),
    ("chatfn.invoker.v1.InvokerService/TestInvoke", &[Developer], &[]),
    ("chatfn.invoker.v1.InvokerService/Prepare", NOBODY, &[Registry]),
    //
    ("chatfn.ingest.v1.EventIngestService/PublishEvent", &[Invocation], &[]),
    ("chatfn.ingest.v1.EventIngestService/PublishEvents", &[Invocation], &[]),
    ("chatfn.ingest.v1.EventIngestService/StreamEvents", &[Invocation], &[]),
    //
    ("chatfn.ingest.v1.DeliveryService/GetDelivery", ANY, &[]),
    ("chatfn.ingest.v1.DeliveryService/ListDeliveries", ANY, &[]),
    ("chatfn.ingest.v1.DeliveryService/GetConversation", ANY, &[]),
    ("chatfn.ingest.v1.DeliveryService/TailDeliveries", ANY, &[]),
    ("chatfn.ingest.v1.DeliveryService/Reconcile", ANY, &[]),
    ("chatfn.ingest.v1.DeliveryService/ResumeConversation", OPERATORS, &[]),
    ("chatfn.ingest.v1.DeliveryService/SkipEvent", OPERATORS, &[]),
    //
    ("chatfn.ingest.v1.ReplayService/CreateReplay", OPERATORS, &[]),
    ("chatfn.ingest.v1.ReplayService/GetReplay", ANY, &[]),
    ("chatfn.ingest.v1.ReplayService/ListReplays", ANY, &[]),
    ("chatfn.ingest.v1.ReplayService/CancelReplay", OPERATORS, &[]),
];

/// What probes ask; anyone may: probes come before tokens.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";
/// What tools ask; anyone may, as the contract is no secret.
pub(crate) const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

static TABLE: LazyLock<HashMap<&str, Access>> = LazyLock::new(|| {
    METHODS.iter().map(|(method, roles, services)| (*method, Access { roles, services })).collect()
});

/// Who may call `package.Service/Method`; `None` is nobody.
pub fn of(method: &str) -> Option<Access> {
    TABLE.get(method).copied()
}

/// Whether the method at this request path is for anyone, known or not.
pub(crate) fn is_open(path: &str) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    service.is_some_and(|service| service == HEALTH || REFLECTION.contains(&service))
}

/// Whether `caller` may call the method at this request path.
pub(crate) fn check(path: &str, caller: &Caller) -> Result<(), ApiError> {
    let method = path.strip_prefix('/').unwrap_or(path);
    let Some(access) = of(method) else {
        return Err(unknown_method(path, &[]));
    };
    let allowed = match caller.identity() {
        Identity::Anonymous => true,
        Identity::User { roles, .. } => roles.iter().any(|role| access.roles.contains(role)),
        Identity::Service(service) => access.services.contains(service),
    };
    if allowed { Ok(()) } else { Err(refused(method, access, caller)) }
}

/// There is no method at this request path, of a server that has these services, if that is to be told.
pub(crate) fn unknown_method(path: &str, services: &[&str]) -> ApiError {
    let method = path.strip_prefix('/').unwrap_or(path);
    let here = match services {
        [] => String::new(),
        services => format!(" here, but those of {}", words(services.iter().copied())),
    };
    let message = format!(
        "there is no method {method:?}{here}; grpcurl with `list` and `describe` tells which there are"
    );
    ApiError::new(Code::Unimplemented, reasons::METHOD_UNKNOWN, message)
}

fn refused(method: &str, access: Access, caller: &Caller) -> ApiError {
    let method = method.rsplit_once('.').map_or(method, |(_, method)| method);
    if access.roles.is_empty() || matches!(caller.identity(), Identity::Service(_)) {
        let services = words(access.services.iter().map(|service| service.as_str()));
        let who = match caller.identity() {
            Identity::Service(service) => format!("this certificate is of {service}"),
            _ => "a token does not do".to_owned(),
        };
        let message = match services.as_str() {
            "" => format!("{method} is not for services; {who}"),
            services => format!("only {services} may call {method}, by certificate; {who}"),
        };
        return ApiError::permission_denied(reasons::SERVICE_REQUIRED, message)
            .metadata("services", services);
    }
    let roles = words(access.roles.iter().map(|role| role.as_str()));
    ApiError::permission_denied(
        reasons::ROLE_REQUIRED,
        format!("{method} needs the role {roles}, which the token does not have; ask whoever issues tokens for one"),
    )
    .metadata("roles", roles)
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use chatfn_domain::caller::Scope;

    use super::*;
    use crate::ErrorReport;

    fn user(roles: &[Role]) -> Caller {
        Caller::user("jane", Scope::AllAccounts, roles.iter().copied())
    }

    fn error(path: &str, caller: &Caller) -> ErrorReport {
        ErrorReport::from_status(&check(path, caller).expect_err("refused").into())
    }

    #[test]
    fn no_method_is_named_twice() {
        assert_eq!(TABLE.len(), METHODS.len());
    }

    #[test]
    fn the_role_that_is_needed_is_named() {
        let path = "/chatfn.registry.v1.SecretService/GetSecret";
        assert!(check(path, &user(&[Developer])).is_ok());
        let error = error(path, &user(&[Invocation]));
        assert_eq!((error.code, error.reason.as_deref()), (Code::PermissionDenied, Some("ROLE_REQUIRED")));
        assert!(
            error.message.starts_with("SecretService/GetSecret needs the role admin or developer"),
            "{error:?}"
        );
        assert_eq!(error.metadata["roles"], "admin or developer");
    }

    #[test]
    fn what_is_for_services_is_for_no_user() {
        let path = "/chatfn.registry.v1.SecretAccessService/AccessSecret";
        assert!(check(path, &Caller::service("i", Invoker)).is_ok());
        for caller in [user(&Role::ALL), Caller::service("r", Registry), Caller::service("e", EventIngest)] {
            let error = error(path, &caller);
            assert_eq!(error.reason.as_deref(), Some("SERVICE_REQUIRED"));
            assert!(error.message.starts_with("only invoker may call"), "{error:?}");
        }
        let error = error("/chatfn.registry.v1.SecretService/SetSecret", &Caller::service("i", Invoker));
        assert!(error.message.contains("not for services"), "{error:?}");
    }

    #[test]
    fn what_is_not_named_is_for_nobody() {
        for path in ["/a.B/C", "", "/", "/chatfn.registry.v1.SecretService", "//grpc.health.v1.Health/Check"]
        {
            assert_eq!(error(path, &user(&Role::ALL)).reason.as_deref(), Some("METHOD_UNKNOWN"), "{path}");
            assert!(!is_open(path), "{path}");
        }
        assert!(is_open("/grpc.health.v1.Health/Check"));
    }
}
