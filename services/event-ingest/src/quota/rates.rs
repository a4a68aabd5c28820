//! The settings of quotas.

use std::{collections::HashMap, io, path::PathBuf};

use chatfn_domain::name::{AccountId, NameError};
use serde::Deserialize;

/// Settings of quotas.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct QuotaConfig {
    /// Events that an account may publish on each replica, per second on average
    #[arg(long = "account-events-per-second", env = "CHATFN_EVENT_INGEST_ACCOUNT_EVENTS_PER_SECOND", value_name = "COUNT", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub events_per_second: u32,

    /// KiB that an account may publish on each replica, per second on average
    #[arg(long = "account-kib-per-second", env = "CHATFN_EVENT_INGEST_ACCOUNT_KIB_PER_SECOND", value_name = "KIB", default_value_t = 8 * 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub kib_per_second: u32,

    /// JSON file of accounts with quotas of their own: {"acme": {"events_per_second": 100, "kib_per_second": 512}}
    #[arg(
        long = "account-quotas-file",
        env = "CHATFN_EVENT_INGEST_ACCOUNT_QUOTAS_FILE",
        value_name = "FILE"
    )]
    pub file: Option<PathBuf>,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        Self { events_per_second: 5_000, kib_per_second: 8 * 1024, file: None }
    }
}

/// Quotas that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The file cannot be read.
    #[error("--account-quotas-file {} cannot be read", .path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not have the form that is asked for.
    #[error(
        "--account-quotas-file {} must be a JSON object such as \
         {{\"acme\": {{\"events_per_second\": 100, \"kib_per_second\": 512}}}}, with whole numbers from 1; \
         what an account leaves out is as for all others", .path.display()
    )]
    Form {
        /// Its path.
        path: PathBuf,
        /// Where it does not.
        #[source]
        source: serde_json::Error,
    },
    /// A key is not the name of an account.
    #[error("--account-quotas-file {}: {account:?} is not the id of an account", .path.display())]
    Account {
        /// The file's path.
        path: PathBuf,
        /// The key.
        account: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
}

/// What an account may publish in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) events: f64,
    pub(crate) bytes: f64,
}

/// What each account may publish in a second.
#[derive(Debug)]
pub(crate) struct Rates {
    usual: Rate,
    own: HashMap<AccountId, Rate>,
}

impl Rates {
    pub(crate) fn of(&self, account: &AccountId) -> Rate {
        self.own.get(account).copied().unwrap_or(self.usual)
    }
}

/// An account's entry in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    events_per_second: Option<std::num::NonZeroU32>,
    kib_per_second: Option<std::num::NonZeroU32>,
}

impl QuotaConfig {
    /// Reads the file, if there is one.
    pub(crate) fn load(&self) -> Result<Rates, QuotaError> {
        let rate = |events: u32, kib: u32| Rate { events: events.into(), bytes: f64::from(kib) * 1024.0 };
        let mut own = HashMap::new();
        if let Some(path) = &self.file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| QuotaError::Read { path: path.clone(), source })?;
            let entries: HashMap<String, Entry> = serde_json::from_str(&text)
                .map_err(|source| QuotaError::Form { path: path.clone(), source })?;
            for (account, entry) in entries {
                let events = entry.events_per_second.map_or(self.events_per_second, Into::into);
                let kib = entry.kib_per_second.map_or(self.kib_per_second, Into::into);
                let id = account.parse().map_err(|source| QuotaError::Account {
                    path: path.clone(),
                    account: account.clone(),
                    source,
                })?;
                own.insert(id, rate(events, kib));
            }
        }
        Ok(Rates { usual: rate(self.events_per_second, self.kib_per_second), own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Rates, QuotaError> {
        let path = std::env::temp_dir().join(format!("chatfn-quotas-{}", uuid::Uuid::new_v4().simple()));
        std::fs::write(&path, text).unwrap();
        let rates = QuotaConfig { file: Some(path.clone()), ..QuotaConfig::default() }.load();
        std::fs::remove_file(&path).unwrap();
        rates
    }

    #[test]
    fn accounts_of_the_file_have_their_own() {
        let rates = load(r#"{"acme": {"events_per_second": 7}, "big": {"kib_per_second": 3}}"#).unwrap();
        let of = |account: &str| rates.of(&account.parse().unwrap());
        assert_eq!(of("acme"), Rate { events: 7.0, bytes: 8192.0 * 1024.0 });
        assert_eq!(of("big"), Rate { events: 5_000.0, bytes: 3072.0 });
        assert_eq!(of("other"), Rate { events: 5_000.0, bytes: 8192.0 * 1024.0 });
    }

    #[test]
    fn files_that_say_something_else_are_refused() {
        for bad in [
            "",
            "[]",
            r#"{"acme": 5}"#,
            r#"{"acme": {"events": 5}}"#,
            r#"{"acme": {"events_per_second": 0}}"#,
            r#"{"acme": {"events_per_second": -1}}"#,
        ] {
            assert!(matches!(load(bad), Err(QuotaError::Form { .. })), "{bad}");
        }
        assert!(matches!(load(r#"{"no account": {}}"#), Err(QuotaError::Account { .. })));
        let missing = QuotaConfig { file: Some("/nonexistent/quotas".into()), ..QuotaConfig::default() };
        assert!(matches!(missing.load(), Err(QuotaError::Read { .. })));
    }
}
