//! What one run has read.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::name::SecretName;
use secrecy::ExposeSecret as _;

use super::{SecretError, cache::Value};

/// Different secrets that a run may ask for, and different values that it may get: each is looked for in all texts.
pub(super) const MAX_VALUES: usize = 32;

/// The secrets that a run has read, with those that it had read by the functions that it invoked.
#[derive(Default)]
pub(crate) struct SecretsRead(Mutex<Read>);

#[derive(Default)]
struct Read {
    /// Found or not: each costs the registry a question.
    asked: HashSet<SecretName>,
    values: Vec<(String, Value)>,
}

impl SecretsRead {
    /// To be called before a secret is read.
    ///
    /// # Errors
    /// The run has asked for as many different ones as it may.
    pub(crate) fn ask(&self, name: &SecretName) -> Result<(), SecretError> {
        let asked = &mut self.lock().asked;
        if asked.len() >= MAX_VALUES && !asked.contains(name) {
            return Err(SecretError::TooMany(MAX_VALUES));
        }
        asked.insert(name.clone());
        Ok(())
    }

    /// Remembers a value. From now on it is taken out of the run's report.
    ///
    /// # Errors
    /// The run has read as many different ones as it may.
    pub(crate) fn add(&self, name: &SecretName, value: &Value) -> Result<(), SecretError> {
        let read = &mut self.lock().values;
        let known = |(key, old): &(String, Value)| {
            key == name.key.as_str() && old.expose_secret() == value.expose_secret()
        };
        if read.iter().any(known) {
            return Ok(());
        }
        if read.len() >= MAX_VALUES {
            return Err(SecretError::TooMany(MAX_VALUES));
        }
        read.push((name.key.to_string(), Arc::clone(value)));
        Ok(())
    }

    /// How many bytes its values have.
    pub(super) fn bytes(&self) -> usize {
        self.lock().values.iter().map(|(_, value)| value.expose_secret().len()).sum()
    }

    /// Its values by their keys.
    pub(super) fn values(&self) -> Vec<(String, Value)> {
        self.lock().values.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_do_not_exist_count_too() {
        let read = SecretsRead::default();
        let name =
            |number: usize| format!("accounts/acme/secrets/key-{number}").parse::<SecretName>().unwrap();
        for number in 0..MAX_VALUES {
            read.ask(&name(number)).unwrap();
        }
        assert_eq!(read.ask(&name(MAX_VALUES)), Err(SecretError::TooMany(MAX_VALUES)));
        assert_eq!(read.ask(&name(0)), Ok(()), "again is not another one");
    }
}
