//! A replica of event-ingest, and its links.

use std::{fs, path::PathBuf};

use chatfn_rpc::Client;

use super::client;
use crate::{process::Process, proxy::Proxy};

/// A replica of event-ingest.
pub struct Replica {
    /// Its process.
    pub process: Process,
    /// Arms a failpoint while it exists.
    pub(super) orders: PathBuf,
    /// How far its clock is from the machine's, if it has one that can be set.
    pub clock: Option<PathBuf>,
    /// From clients.
    pub from_clients: Proxy,
    /// To Postgres.
    pub to_database: Proxy,
    /// To the invoker.
    pub to_invoker: Proxy,
}

impl Replica {
    /// The next process, or this one, ends (or is halted) at the `pass`-th passing of `edge`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn arm(&self, edge: &str, action: &str, pass: u64) -> anyhow::Result<()> {
        let unfinished = self.orders.with_extension("unfinished");
        fs::write(&unfinished, format!("{edge} {action} {pass}"))?;
        Ok(fs::rename(unfinished, &self.orders)?)
    }

    /// Whether nothing has passed there yet.
    pub fn is_armed(&self) -> bool {
        self.orders.exists()
    }

    /// Nothing is armed any more.
    pub fn disarm(&self) {
        let _ = fs::remove_file(&self.orders);
    }

    /// Where clients call it.
    pub fn client(&self) -> anyhow::Result<Client> {
        client(self.from_clients.address())
    }
}
