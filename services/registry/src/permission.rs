//! What of a function is for which role, beyond the table of methods.
//!
//! The hosts that a lambda may call are the account's policy, and so its admins' to decide on; all else about a function
//! is its developers'. A deploy decides on nothing where it makes live what an admin has allowed already.

use chatfn_domain::{
    caller::{Caller, Role},
    host::HostPattern,
    name::FunctionName,
    settings::FunctionSettings,
};

use crate::{
    draft::{ALLOWED_HOSTS, Draft},
    error::RegistryError,
};

/// Whether the caller, a developer, may create the function with this draft.
pub(crate) fn to_create(
    caller: &Caller,
    function: &FunctionName,
    draft: &Draft,
) -> Result<(), RegistryError> {
    if draft.settings.allowed_hosts.is_empty() {
        return Ok(());
    }
    to_change(caller, function, &[ALLOWED_HOSTS])
}

/// Whether the caller may change these fields of the draft.
pub(crate) fn to_change(
    caller: &Caller,
    function: &FunctionName,
    fields: &[&'static str],
) -> Result<(), RegistryError> {
    let role_for = |field| if field == ALLOWED_HOSTS { Role::Admin } else { Role::Developer };
    match fields.iter().copied().find(|&field| !caller.has_role(role_for(field))) {
        None => Ok(()),
        Some(field) => {
            Err(RegistryError::FieldForbidden { function: function.clone(), field, role: role_for(field) })
        }
    }
}

/// Whether the caller, a developer, may make a version with these settings live, where `allowed` are the settings of the draft
/// and of what is live. Fewer hosts are no matter: a rollback must not wait for an admin who has since allowed more.
pub(crate) fn to_roll_back(
    caller: &Caller,
    function: &FunctionName,
    settings: &FunctionSettings,
    allowed: [&FunctionSettings; 2],
) -> Result<(), RegistryError> {
    let is_allowed = |host: &HostPattern| allowed.iter().any(|it| it.allowed_hosts.contains(host));
    match settings.allowed_hosts.iter().find(|host| !is_allowed(host)) {
        Some(host) if !caller.has_role(Role::Admin) => {
            Err(RegistryError::HostForbidden { function: function.clone(), host: host.to_string() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chatfn_domain::caller::Scope;

    use super::*;

    const CREATE: &[&str] = &["source", ALLOWED_HOSTS];

    fn user(roles: &[Role]) -> Caller {
        Caller::user("jane", Scope::AllAccounts, roles.iter().copied())
    }

    fn function() -> FunctionName {
        "accounts/acme/functions/chat.start".parse().unwrap()
    }

    fn forbidden(roles: &[Role], fields: &[&'static str]) -> Option<(&'static str, Role)> {
        match to_change(&user(roles), &function(), fields) {
            Ok(()) => None,
            Err(RegistryError::FieldForbidden { field, role, .. }) => Some((field, role)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn hosts_are_the_admins_and_all_else_the_developers() {
        assert_eq!(forbidden(&[Role::Developer], &["source", "settings.timeout"]), None);
        assert_eq!(forbidden(&[Role::Developer], CREATE), Some((ALLOWED_HOSTS, Role::Admin)));
        assert_eq!(forbidden(&[Role::Admin], &[ALLOWED_HOSTS]), None);
        assert_eq!(forbidden(&[Role::Admin], CREATE), Some(("source", Role::Developer)));
        assert_eq!(forbidden(&[Role::Admin, Role::Developer], CREATE), None);
        assert!(to_change(&Caller::anonymous(), &function(), CREATE).is_ok(), "on one's own machine");
    }

    #[test]
    fn a_rollback_allows_no_host_that_no_admin_allows_now() {
        let of = |hosts: &[&str]| FunctionSettings {
            allowed_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..FunctionSettings::default()
        };
        let (draft, live) = (of(&["a.example.com"]), of(&["b.example.com"]));
        let may = |roles: &[Role], hosts: &[&str]| {
            to_roll_back(&user(roles), &function(), &of(hosts), [&draft, &live]).is_ok()
        };
        assert!(may(&[Role::Developer], &[]) && may(&[Role::Developer], &["b.example.com", "a.example.com"]));
        for more in ["c.example.com", "*.example.com", "a.example.com:8443"] {
            assert!(!may(&[Role::Developer], &["a.example.com", more]), "{more}");
            assert!(may(&[Role::Developer, Role::Admin], &["a.example.com", more]), "{more}");
        }
    }
}
