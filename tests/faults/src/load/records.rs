//! What clients write down.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::history::{Publication, Repeat};

/// The clients' history, kept in a file, too, for whoever wants to see what happened.
#[derive(Debug)]
pub struct Records {
    number: AtomicU64,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    publications: Vec<Publication>,
    repeats: Vec<Repeat>,
    file: File,
}

impl Records {
    /// Nothing yet.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = Written { publications: Vec::new(), repeats: Vec::new(), file };
        Ok(Self { number: AtomicU64::new(1), written: Mutex::new(written) })
    }

    /// A number that was not given before.
    pub fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn add(&self, publication: Publication) {
        let mut written = self.lock();
        written.write(&publication);
        written.publications.push(publication);
    }

    pub(super) fn add_repeat(&self, repeat: Repeat) {
        let mut written = self.lock();
        written.write(&repeat);
        written.repeats.push(repeat);
    }

    /// Events that have their answer.
    pub fn len(&self) -> usize {
        self.lock().publications.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it.
    pub fn all(&self) -> (Vec<Publication>, Vec<Repeat>) {
        let written = self.lock();
        (written.publications.clone(), written.repeats.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn write(&mut self, record: &impl Serialize) {
        // For people only: what is checked is in memory.
        let _ = serde_json::to_writer(&self.file, record).map(|()| self.file.write_all(b"\n"));
    }
}
