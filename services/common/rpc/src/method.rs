//! Per-method exceptions to the server's rules.

use std::{collections::HashMap, time::Duration};

/// How one method, or a whole service, differs from the server's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodPolicy {
    pub(crate) limit: TimeLimit,
    pub(crate) admission: Admission,
    pub(crate) ends_on_drain: bool,
}

/// Among which calls a method's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The calls in progress.
    Calls,
    /// The calls in progress or, when those are all, the few more that are kept.
    Reserve,
    /// The streams that anyone may open.
    OpenStreams,
    /// None.
    Free,
}

/// Which deadline a method gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// The server's default and maximum.
    Server,
    /// Its own default and maximum.
    Own { default: Duration, max: Duration },
    /// What the caller asks for, uncapped; none if it asks for nothing.
    Caller,
}

impl MethodPolicy {
    /// The server's rules, to be modified.
    pub const fn standard() -> Self {
        Self { limit: TimeLimit::Server, admission: Admission::Calls, ends_on_drain: false }
    }

    /// Its own default (when the caller gives no deadline) and maximum instead of the server's.
    pub const fn bounded(default: Duration, max: Duration) -> Self {
        Self { limit: TimeLimit::Own { default, max }, ..Self::standard() }
    }

    /// A stream that lives until its caller leaves: no default, no maximum; a deadline that the caller
    /// does set still holds.
    pub const fn long_lived() -> Self {
        Self { limit: TimeLimit::Caller, ..Self::standard() }
    }

    /// When no permit is left, takes one of those that are kept for such methods (an eighth on top): for what people call to
    /// look into an overload, or to end it.
    #[must_use]
    pub const fn with_reserve(mut self) -> Self {
        self.admission = Admission::Reserve;
        self
    }

    /// Takes no permit: for methods that must answer during overload and are cheap.
    #[must_use]
    pub const fn without_admission(mut self) -> Self {
        self.admission = Admission::Free;
        self
    }

    /// Takes a permit of a second set, as large as that of the calls: for streams that anyone may open, which must neither
    /// take the place of calls nor be without limit.
    #[must_use]
    pub(crate) const fn admitted_apart(mut self) -> Self {
        self.admission = Admission::OpenStreams;
        self
    }

    /// When the server drains, it ends calls of this method with `UNAVAILABLE` instead of waiting for
    /// them: for watches that anyone can resume, and which would else hold up every shutdown.
    #[must_use]
    pub const fn ended_on_drain(mut self) -> Self {
        self.ends_on_drain = true;
        self
    }
}

/// The policies of a server, by method path and by service.
#[derive(Debug, Default)]
pub(crate) struct Methods {
    by_name: HashMap<String, MethodPolicy>,
}

impl Methods {
    /// `name` is `package.Service/Method` or `package.Service`, with or without a leading slash.
    pub(crate) fn set(&mut self, name: &str, policy: MethodPolicy) {
        self.by_name.insert(name.trim_matches('/').to_owned(), policy);
    }

    /// The policy of the method at this request path; a method's own goes before its service's.
    pub(crate) fn get(&self, path: &str) -> MethodPolicy {
        let path = path.strip_prefix('/').unwrap_or(path);
        self.by_name
            .get(path)
            .or_else(|| self.by_name.get(path.split_once('/')?.0))
            .copied()
            .unwrap_or(MethodPolicy::standard())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_goes_before_its_service() {
        let mut methods = Methods::default();
        methods.set("/a.B/Watch", MethodPolicy::long_lived());
        methods.set("a.B", MethodPolicy::standard().without_admission());
        assert_eq!(methods.get("/a.B/Watch"), MethodPolicy::long_lived());
        assert_eq!(methods.get("/a.B/Get").admission, Admission::Free);
        assert_eq!(methods.get("/a.Bc/Get"), MethodPolicy::standard());
        assert_eq!(methods.get("nonsense"), MethodPolicy::standard());
    }
}
