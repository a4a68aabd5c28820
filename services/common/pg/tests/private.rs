//! Private servers: their folders, their ends, and what they survive.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chatfn_pg::private::{Durability, PrivateError, PrivateOptions, PrivatePostgres};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

async fn start(dir: &Path) -> Result<PrivatePostgres, PrivateError> {
    let options = PrivateOptions {
        dir: Some(dir.to_path_buf()),
        // As fast as it gets: none of these tests kills the machine.
        durability: Durability::ThrowAway,
        ..PrivateOptions::default()
    };
    PrivatePostgres::start(options).await
}

async fn session(server: &PrivatePostgres) -> PgConnection {
    server.url("postgres").connect_options().unwrap().connect().await.unwrap()
}

/// A parent folder that every user can enter, for the server's folder.
fn folder() -> tempfile::TempDir {
    folder_with_mode(0o755)
}

fn folder_with_mode(mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    folder
}

fn is_alive(pid: i32) -> bool {
    // A zombie waits for its parent and does nothing any more.
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')),
        Err(_) => !Path::new("/proc/self/stat").exists() && kill(Pid::from_raw(pid), None).is_ok(),
    }
}

/// Returns when `holds` does. What other processes do is not told to this one, so it looks again and again;
/// the sleep only lets them work in between.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ended(pid: i32) {
    until(|| !is_alive(pid)).await;
}

#[tokio::test]
async fn a_temporary_server_works_and_leaves_nothing() {
    // In place of one that all have.
    let settings = vec!["autovacuum_naptime=7s".to_owned()];
    let server =
        PrivatePostgres::start(PrivateOptions { settings, ..PrivateOptions::default() }).await.unwrap();
    let (pid, dir) = (server.pid().cast_signed(), server.dir().to_path_buf());
    let mut session = session(&server).await;
    for (setting, expected) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("autovacuum_naptime", "7s"),
    ] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert_eq!(value, expected, "{setting}");
    }
    server.ensure_database("some name").await.unwrap();
    server.ensure_database("some name").await.unwrap();
    drop(server);
    assert!(!is_alive(pid), "the server must be gone when drop returns, open session or not");
    assert!(!dir.exists());
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let server = PrivatePostgres::start(PrivateOptions {
        durability: Durability::ThrowAway,
        ..PrivateOptions::default()
    });
    let server = server.await.unwrap();
    let options = server.url("postgres").connect_options().unwrap().password("guess");
    let error = options.connect().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28P01");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn data_survives_a_killed_server_and_its_stale_pid_file() {
    let parent = folder();
    let dir = parent.path().join("pg");
    let server = start(&dir).await.unwrap();
    let mut first = session(&server).await;
    first.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (42)").await.unwrap();
    let pid = server.pid().cast_signed();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    ended(pid).await;
    drop(server);
    assert!(dir.join("data/postmaster.pid").exists(), "the test must meet a stale file");

    let server = start(&dir).await.unwrap();
    let kept: i32 =
        sqlx::query_scalar("SELECT x FROM kept").fetch_one(&mut session(&server).await).await.unwrap();
    assert_eq!(kept, 42);
}

#[tokio::test]
async fn a_stale_pid_that_is_somebody_elses_by_now_is_ignored() {
    let parent = folder();
    let dir = parent.path().join("pg");
    start(&dir).await.unwrap().stop().await.unwrap();
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let stale = format!("{}\n{}\n", other.id(), dir.join("data").display());
    fs::write(dir.join("data/postmaster.pid"), stale).unwrap();

    let started = start(&dir).await;
    let untouched = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    started.unwrap();
    assert!(untouched, "the other process must not be signalled");
}

#[tokio::test]
async fn a_folder_has_one_owner_at_a_time() {
    let parent = folder();
    let dir = parent.path().join("pg");
    let server = start(&dir).await.unwrap();
    assert!(matches!(start(&dir).await, Err(PrivateError::InUse { .. })));
    session(&server).await.ping().await.unwrap();
    server.stop().await.unwrap();
    start(&dir).await.unwrap();
}

#[tokio::test]
async fn folders_of_others_are_refused_and_left_alone() {
    for system in ["/var/lib/postgresql/15/main", "/var/lib/pgsql/data", "/etc/postgresql/15"] {
        let error = start(Path::new(system)).await.unwrap_err();
        assert!(matches!(error, PrivateError::SystemCluster { .. }), "{error}");
    }
    let parent = folder();
    fs::write(parent.path().join("thesis.txt"), "").unwrap();
    let error = start(parent.path()).await.unwrap_err();
    assert!(matches!(error, PrivateError::NotOurs { .. }), "{error}");
    fs::write(parent.path().join("PG_VERSION"), "15").unwrap();
    let error = start(parent.path()).await.unwrap_err();
    assert!(matches!(error, PrivateError::SystemCluster { .. }), "{error}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn root_is_told_when_the_unprivileged_user_cannot_enter() {
    if !Uid::effective().is_root() {
        return; // Only root runs Postgres as somebody else.
    }
    let closed = folder_with_mode(0o700);
    let error = start(&closed.path().join("pg")).await.unwrap_err();
    let closed = closed.path().canonicalize().unwrap();
    assert!(matches!(&error, PrivateError::Unreachable { blocked, .. } if *blocked == closed), "{error}");
}

/// `chatfn-db private` with a shell command, its output piped.
fn chatfn_db(options: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatfn-db"));
    command.arg("private").args(options).args(["--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn the_command_gets_its_databases_and_its_exit_code_is_ours() {
    let output =
        chatfn_db(&[], r#"echo "$DATABASE_URL $CHATFN_TEST_DATABASE_URL"; exit 7"#).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (database, server) = printed.trim().split_once(' ').unwrap();
    assert!(database.contains("/chatfn?"), "{printed}");
    assert!(server.contains("/postgres?"), "{printed}");
}

#[test]
fn a_signal_reaches_the_command() {
    let script = r#"trap "exit 42" TERM; echo ready; while :; do sleep 0.02; done"#;
    let mut child = chatfn_db(&[], script).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[tokio::test]
async fn the_server_dies_with_an_owner_that_is_killed_and_the_folder_is_usable_at_once() {
    let parent = folder();
    let dir = parent.path().join("pg");
    let mut owner = chatfn_db(&["--dir", dir.to_str().unwrap()], "echo ready; cat").spawn().unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid_file = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    assert!(is_alive(pid));

    owner.kill().unwrap();
    owner.wait().unwrap();
    // Starts while the old server may still be shutting down.
    let server = start(&dir).await.unwrap();
    ended(pid).await;
    session(&server).await.ping().await.unwrap();
}

#[tokio::test]
async fn a_killed_owner_leaves_neither_server_nor_temporary_folder() {
    let script = r#"psql "$DATABASE_URL" -Atc 'SHOW data_directory'; cat"#;
    let mut owner = chatfn_db(&[], script).spawn().unwrap();
    let mut data = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut data).unwrap();
    let data = Path::new(data.trim());
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();

    owner.kill().unwrap();
    owner.wait().unwrap();
    ended(pid).await;
    until(|| !data.parent().unwrap().exists()).await;
}
