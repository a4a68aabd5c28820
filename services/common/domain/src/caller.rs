//! Who makes a call, and what it may do.

use std::{fmt, str::FromStr, sync::Arc};

use crate::name::AccountId;

/// What a person or a program of an account may do. A caller has any number of them; none implies another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Secrets, and what concerns the whole account.
    Admin,
    /// The life of functions.
    Developer,
    /// Publishing events and running functions.
    Invocation,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Developer, Self::Invocation];

    /// As tokens and messages spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Invocation => "invocation",
        }
    }
}

/// A service of chatfn, as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// The control plane.
    Registry,
    /// Records and delivers events.
    EventIngest,
    /// Runs lambdas.
    Invoker,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Registry, Self::EventIngest, Self::Invoker];

    /// As certificates, programs and messages spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::EventIngest => "event-ingest",
            Self::Invoker => "invoker",
        }
    }
}

/// A word that names no role or service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {expected}")]
pub struct UnknownWord {
    /// The words that do.
    pub expected: String,
}

macro_rules! words {
    ($kind:ident) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $kind {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL
                    .into_iter()
                    .find(|it| it.as_str() == text)
                    .ok_or_else(|| UnknownWord { expected: Self::ALL.map(Self::as_str).join(", ") })
            }
        }
    };
}

words!(Role);
words!(Service);

/// Whose things a caller may name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those of one account.
    Account(AccountId),
    /// Those of every account: the chat platform, which publishes for all of them.
    AllAccounts,
}

/// Who makes a call: what its token or certificate proved, or nobody in particular on a server that asks for neither.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    subject: Arc<str>,
    identity: Identity,
}

/// What a caller has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nothing, and the server does not ask: it serves its own machine alone. May do everything.
    Anonymous,
    /// A person or program, by a signed token.
    User {
        /// Whose things it may name.
        scope: Scope,
        /// What it may do with them, in order, each once.
        roles: Arc<[Role]>,
    },
    /// A service of this cluster, by its certificate. It acts for every account.
    Service(Service),
}

impl Caller {
    /// Whoever reaches a server that asks for no identity.
    pub fn anonymous() -> Self {
        Self { subject: "anonymous".into(), identity: Identity::Anonymous }
    }

    /// The holder of a token. `subject` is who its issuer says it is.
    pub fn user(subject: &str, scope: Scope, roles: impl IntoIterator<Item = Role>) -> Self {
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.sort_unstable();
        roles.dedup();
        Self { subject: subject.into(), identity: Identity::User { scope, roles: roles.into() } }
    }

    /// A service. `subject` is the name in its certificate.
    pub fn service(subject: &str, service: Service) -> Self {
        Self { subject: subject.into(), identity: Identity::Service(service) }
    }

    /// Who it is, for logs and audits: the token's subject, the name in the certificate, or `anonymous`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What it has proved.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The one account that it belongs to, for quotas; `None` for whoever acts for all accounts.
    pub fn account(&self) -> Option<&AccountId> {
        match &self.identity {
            Identity::User { scope: Scope::Account(account), .. } => Some(account),
            _ => None,
        }
    }

    /// Whether it may name things of this account. If not, they must look to it as if they did not exist.
    pub fn may_name(&self, account: &str) -> bool {
        self.account().is_none_or(|own| own.as_str() == account)
    }

    /// Whether it has this role. Services have none; who is anonymous has all.
    pub fn has_role(&self, role: Role) -> bool {
        match &self.identity {
            Identity::Anonymous => true,
            Identity::User { roles, .. } => roles.contains(&role),
            Identity::Service(_) => false,
        }
    }

    /// Whether it is this service, or anonymous.
    pub fn is_service(&self, service: Service) -> bool {
        match self.identity {
            Identity::Anonymous => true,
            Identity::User { .. } => false,
            Identity::Service(own) => own == service,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_names_the_things_of_its_own_account_alone() {
        let acme = Scope::Account("acme".parse().unwrap());
        let user = Caller::user("jane", acme, [Role::Developer, Role::Admin, Role::Developer]);
        assert!(user.may_name("acme"));
        for other in ["acm", "acme2", "Acme", "", "*"] {
            assert!(!user.may_name(other), "{other:?}");
        }
        assert!(user.has_role(Role::Admin) && user.has_role(Role::Developer));
        assert!(!user.has_role(Role::Invocation));
        assert!(Service::ALL.into_iter().all(|service| !user.is_service(service)));
        assert_eq!(user.account().map(AccountId::as_str), Some("acme"));
    }

    #[test]
    fn a_service_acts_for_every_account_but_has_no_role() {
        let service = Caller::service("spiffe://chatfn/invoker", Service::Invoker);
        assert!(service.may_name("acme") && service.account().is_none());
        assert!(service.is_service(Service::Invoker) && !service.is_service(Service::Registry));
        assert!(Role::ALL.into_iter().all(|role| !service.has_role(role)));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for service in Service::ALL {
            assert_eq!(service.to_string().parse(), Ok(service));
        }
        let error = "Admin".parse::<Role>().unwrap_err();
        assert_eq!(error.to_string(), "must be one of admin, developer, invocation");
    }
}
