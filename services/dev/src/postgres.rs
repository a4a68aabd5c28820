//! The database of a cluster: an existing one by its URL, or a private server.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{self, Path, PathBuf},
};

use anyhow::Context as _;
use chatfn_pg::{
    DatabaseUrl,
    migrate::{self, MIGRATIONS, RunOptions},
    private::{PrivateError, PrivateOptions, PrivatePostgres},
};

/// A migrated database.
pub(crate) struct Database {
    pub(crate) url: DatabaseUrl,
    /// The server, when it is ours.
    pub(crate) server: Option<PrivatePostgres>,
}

impl Database {
    /// Connects to `url`, or starts a private server whose cluster lives in `folder`.
    pub(crate) async fn open(url: Option<DatabaseUrl>, folder: PathBuf) -> anyhow::Result<Self> {
        let database = match url {
            Some(url) => Self { url, server: None },
            None => {
                let server = start(folder).await?;
                server.ensure_database("chatfn").await?;
                Self { url: server.url("chatfn"), server: Some(server) }
            }
        };
        migrate::run(&database.url, &MIGRATIONS, RunOptions::default())
            .await
            .context("the database cannot be migrated")?;
        Ok(database)
    }

    /// Stops the server when it is ours.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self.server {
            Some(server) => server.stop().await.context("the private Postgres did not stop"),
            None => Ok(()),
        }
    }
}

async fn start(folder: PathBuf) -> anyhow::Result<PrivatePostgres> {
    let options = |dir| PrivateOptions { dir: Some(dir), ..PrivateOptions::default() };
    match PrivatePostgres::start(options(folder.clone())).await {
        // Root, with a checkout below a home that nobody else may enter: a usual place for a first try.
        Err(PrivateError::Unreachable { user, blocked }) => {
            let elsewhere = reachable_folder(&folder);
            tracing::warn!(
                "Postgres runs as user {user}, who may not enter {}: its data goes to {}",
                blocked.display(),
                elsewhere.display()
            );
            Ok(PrivatePostgres::start(options(elsewhere)).await?)
        }
        started => Ok(started?),
    }
}

/// Removes what a private server without an owner has left for `folder`.
pub(crate) fn forget(folder: &Path) -> anyhow::Result<()> {
    for folder in [folder, &reachable_folder(folder)] {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A folder outside of homes that always stands for the same `folder`.
fn reachable_folder(folder: &Path) -> PathBuf {
    let mut hash = DefaultHasher::new();
    // Not canonical: the folder need not exist.
    path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()).hash(&mut hash);
    Path::new("/var/tmp").join(format!("chatfn-{:016x}", hash.finish()))
}
