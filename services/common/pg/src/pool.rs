//! Connection pools whose every connection carries the service's timeouts.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use crate::budget;

/// Longest way of an answer that the server has given in time.
pub(crate) const WAY: Duration = Duration::from_secs(1);

/// Where the database is, and how long a service is willing to wait for it.
///
/// Flatten it into a service's own `clap` arguments. The timeouts are sent as start-up options of each
/// connection, so they hold for every statement without a round trip. A transaction-pooling PgBouncer
/// cannot stand in between: it refuses start-up options, and would mix up the limits of calls ([`budget`](crate::budget)).
///
/// The sum of `max_connections` over all pods, surge included, must stay below the server's limit.
#[derive(Clone, Debug, clap::Args)]
pub struct PoolConfig {
    /// Postgres URL: postgres://user:password@host:5432/database.
    #[arg(id = "database-url", long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub url: DatabaseUrl,

    /// Most connections that this pool opens.
    // The gRPC server's settings, which services flatten beside these, have a field of the same name.
    #[arg(
        id = "database-max-connections",
        long = "database-max-connections",
        env = "CHATFN_DATABASE_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub max_connections: u32,

    /// Longest wait for a free connection; longer than most deadlines makes no sense.
    #[arg(
        long = "database-acquire-timeout",
        env = "CHATFN_DATABASE_ACQUIRE_TIMEOUT",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub acquire_timeout: Duration,

    /// Longest run of one statement; one of a call that has less time left ends with it.
    #[arg(
        long = "database-statement-timeout",
        env = "CHATFN_DATABASE_STATEMENT_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_duration
    )]
    pub statement_timeout: Duration,

    /// Longest wait for a row or table lock.
    #[arg(
        long = "database-lock-timeout",
        env = "CHATFN_DATABASE_LOCK_TIMEOUT",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub lock_timeout: Duration,

    /// How long a transaction may sit idle before the server ends it (it holds locks, and holds back vacuum).
    #[arg(
        long = "database-idle-in-transaction-timeout",
        env = "CHATFN_DATABASE_IDLE_IN_TRANSACTION_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration
    )]
    pub idle_in_transaction_session_timeout: Duration,

    /// The name that `pg_stat_activity` shows for this pool's connections.
    #[arg(
        long = "database-application-name",
        env = "CHATFN_DATABASE_APPLICATION_NAME",
        value_name = "NAME",
        default_value = "chatfn"
    )]
    pub application_name: String,
}

impl PoolConfig {
    /// The defaults of the command line, for `url`.
    #[must_use]
    pub fn new(url: DatabaseUrl) -> Self {
        Self {
            url,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            idle_in_transaction_session_timeout: Duration::from_secs(10),
            application_name: "chatfn".to_owned(),
        }
    }

    /// The connection options of one connection of this pool, timeouts included.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`].
    pub fn connect_options(&self) -> Result<PgConnectOptions, ConnectError> {
        let millis = |timeout: Duration| format!("{}ms", timeout.as_millis());
        Ok(self.url.connect_options()?.application_name(&self.application_name).options([
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(self.idle_in_transaction_session_timeout)),
        ]))
    }
}

/// Opens a pool after one connection has proved that the server answers.
///
/// Returns within [`PoolConfig::acquire_timeout`].
///
/// # Errors
/// [`ConnectError`]; the message names the server, never the password. The pool alone would retry a refused
/// connection until its timeout and then report only the timeout.
pub async fn connect(config: &PoolConfig) -> Result<PgPool, ConnectError> {
    let options = config.connect_options()?;
    let unreachable = |source| ConnectError::Unreachable { server: config.url.to_string(), source };
    let probe = timeout(config.acquire_timeout, options.connect())
        .await
        .map_err(|_elapsed| unreachable(sqlx::Error::PoolTimedOut))?
        .map_err(unreachable)?;
    // Only the answer mattered; an error while saying goodbye does not.
    let _ = probe.close().await;
    #[expect(clippy::disallowed_methods, reason = "this is the place where pools are made")]
    let pool = PgPoolOptions::new();
    let default = config.statement_timeout;
    // One that lies idle and is dead leaves time to open another.
    let look = config.acquire_timeout / 2;
    let return_within = config.statement_timeout + WAY;
    Ok(pool
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        // Setting the limit of statements shows as well whether the server is there.
        .test_before_acquire(false)
        .before_acquire(move |connection, _| {
            Box::pin(async move {
                let limited = timeout(look, budget::limit_idle(connection, default)).await;
                Ok(limited.unwrap_or(false))
            })
        })
        .after_release(move |connection, _| Box::pin(is_done(connection, return_within)))
        .after_connect(move |connection, _| Box::pin(budget::limit_new(connection, default)))
        .connect_lazy_with(options))
}

/// Whether what was asked over a connection that is given back was answered, or is before long.
///
/// The future of a statement may have been dropped before. The pool then waits for the rest of the answer, without end if the
/// connection has died without a word, and counts it meanwhile. Waiting less than the server may take would leave statements
/// behind that go on, beside those of the connections that replace theirs.
///
/// Costs nothing where nothing is missing, as with nearly all: unlike a ping, it asks the server nothing. The pool does so
/// afterwards, without a limit: what dies in that very moment keeps its place until the system gives it up, and so does what died
/// while more was written to it than the system takes, which the pool writes before it closes. A ping here would only come
/// before that one.
async fn is_done(connection: &mut PgConnection, longest: Duration) -> Result<bool, sqlx::Error> {
    match timeout(longest, connection.flush()).await {
        Ok(done) => done.map(|()| true),
        Err(_elapsed) => {
            tracing::info!("a connection is given up: a statement that nobody waits for was not answered");
            Ok(false)
        }
    }
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be used. The value itself is not repeated: it may hold a password.
    #[error("the Postgres URL is not of the form postgres://user:password@host:5432/database")]
    InvalidUrl(#[source] sqlx::Error),
    /// The server did not answer, or refused us.
    #[error("cannot connect to Postgres at {server}; check that it runs and that DATABASE_URL is right")]
    Unreachable {
        /// The server's URL without its password.
        server: String,
        /// What the driver reported.
        #[source]
        source: sqlx::Error,
    },
}

/// A Postgres URL that keeps its password to itself: `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL with its password, for the driver or for the environment of a child process. Not for logs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The same server, credentials and parameters, another database.
    ///
    /// Edits the text, because a URL that the driver writes has parameters that `psql` refuses.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`].
    pub fn with_database(&self, database: &str) -> Result<Self, ConnectError> {
        self.connect_options()?;
        let (address, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let authority = address.find("://").map_or(0, |scheme| scheme + "://".len());
        let end = address[authority..].find('/').map_or(address.len(), |path| authority + path);
        let parameters: Vec<&str> =
            query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("dbname=")).collect();
        let separator = if parameters.is_empty() { "" } else { "?" };
        let encoded: String = database.bytes().map(percent_encode).collect();
        Ok(Self(format!("{}/{encoded}{separator}{}", &address[..end], parameters.join("&"))))
    }

    /// The driver's options for this URL, without any of [`PoolConfig`]'s timeouts.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`].
    pub fn connect_options(&self) -> Result<PgConnectOptions, ConnectError> {
        if !(self.0.starts_with("postgres://") || self.0.starts_with("postgresql://")) {
            return Err(ConnectError::InvalidUrl(sqlx::Error::Configuration(
                "the scheme is neither postgres:// nor postgresql://".into(),
            )));
        }
        self.0.parse().map_err(ConnectError::InvalidUrl)
    }
}

impl<T: Into<String>> From<T> for DatabaseUrl {
    /// Takes any text: checked when it is used, because `clap` repeats a value that it refuses.
    fn from(url: T) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connect_options() {
            Ok(options) => write!(
                f,
                "postgres://{}@{}:{}/{}",
                options.get_username(),
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or(options.get_username()),
            ),
            Err(_) => f.write_str("<not a Postgres URL>"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// One byte of a URL path segment.
fn percent_encode(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

/// Parses `500ms`, `10s`, `2m`, … into a duration of at least 1 ms: Postgres reads 0 as "no limit".
///
/// # Errors
/// A sentence for the command line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<jiff::SignedDuration>()
        .map_err(|error| error.to_string())
        .and_then(|duration| Duration::try_from(duration).map_err(|error| error.to_string()))?;
    if duration < Duration::from_millis(1) || duration > Duration::from_secs(24 * 3600) {
        return Err("must be between 1ms and 24h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        database: PoolConfig,
    }

    #[test]
    fn no_form_of_the_config_shows_the_password() {
        let config = PoolConfig::new("postgres://me:hunter2@db.internal:6432/chat".into());
        assert_eq!(config.url.to_string(), "postgres://me@db.internal:6432/chat");
        assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        let error = DatabaseUrl::from("mysql://me:hunter2@db/chat").connect_options().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn the_command_line_defaults_are_those_of_new() {
        let parsed = Cli::parse_from(["x", "--database-url", "postgres://me@db/chat"]).database;
        let built = PoolConfig::new("postgres://me@db/chat".into());
        assert_eq!(format!("{parsed:?}"), format!("{built:?}"));
    }

    #[test]
    fn with_database_changes_nothing_else() {
        for (url, expected) in [
            (
                "postgres://me:p%40ss@h:5433/a?sslmode=disable",
                "postgres://me:p%40ss@h:5433/b%20c?sslmode=disable",
            ),
            ("postgres://h?dbname=a&sslmode=require", "postgres://h/b%20c?sslmode=require"),
            ("postgresql://h", "postgresql://h/b%20c"),
        ] {
            let other = DatabaseUrl::from(url).with_database("b c").unwrap();
            assert_eq!(other.expose(), expected);
            assert_eq!(other.connect_options().unwrap().get_database(), Some("b c"));
        }
    }

    #[test]
    fn zero_would_mean_no_limit_and_is_refused() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for refused in ["0s", "-1s", "soon", "25h"] {
            assert!(parse_duration(refused).is_err(), "{refused}");
        }
    }
}
