//! What a failed statement means, as an enum that services can match on.

use sqlx::postgres::PgDatabaseError;

/// The meaning of an [`sqlx::Error`]; borrows constraint names from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure<'e> {
    /// A row with this key exists. `constraint` is the unique constraint's or index's name.
    UniqueViolation {
        /// Name in the schema; empty if the server sent none.
        constraint: &'e str,
    },
    /// The row refers to one that does not exist, or is still referred to.
    ForeignKeyViolation {
        /// Name in the schema; empty if the server sent none.
        constraint: &'e str,
    },
    /// A `CHECK` refused the row.
    CheckViolation {
        /// Name in the schema; empty if the server sent none.
        constraint: &'e str,
    },
    /// A column that must have a value has none.
    NotNullViolation {
        /// The column; empty if the server sent none.
        column: &'e str,
    },
    /// A concurrent transaction got in the way (40001); nothing was written.
    SerializationFailure,
    /// The server broke a deadlock by ending this transaction (40P01); nothing was written.
    Deadlock,
    /// A lock was not granted within `lock_timeout` (55P03).
    LockTimeout,
    /// The statement ran into `statement_timeout`, or somebody cancelled it; Postgres uses one SQLSTATE
    /// (57014) for both.
    StatementCanceled,
    /// No connection of the pool became free in time, or the server could not be reached in that time.
    PoolTimeout,
    /// The server has no connection slot left (53300).
    TooManyConnections,
    /// The connection is gone: network, server restart, idle-in-transaction limit, or pool closed. If a
    /// `COMMIT` was under way, **whether it took effect is unknown**.
    ConnectionLost,
    /// The server cannot write at the moment: it is a standby, or is out of disk, memory or locks, or its disk fails.
    CannotWrite,
    /// A query that must return a row returned none.
    RowNotFound,
    /// Anything else: most likely a mistake of ours.
    Other {
        /// SQLSTATE, if the server reported the error.
        code: Option<&'e str>,
    },
}

impl Failure<'_> {
    /// Whether the same transaction, run again from its start, may succeed without anybody's help.
    ///
    /// After [`Failure::ConnectionLost`] that is only safe for work that may happen twice.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::SerializationFailure
                | Self::Deadlock
                | Self::LockTimeout
                | Self::StatementCanceled
                | Self::PoolTimeout
                | Self::TooManyConnections
                | Self::ConnectionLost
                | Self::CannotWrite
        )
    }

    /// Whether it is the violation (of any kind) of the constraint or unique index `name`.
    #[must_use]
    pub fn violates(&self, name: &str) -> bool {
        match self {
            Self::UniqueViolation { constraint }
            | Self::ForeignKeyViolation { constraint }
            | Self::CheckViolation { constraint } => *constraint == name,
            _ => false,
        }
    }
}

/// What `error` means.
#[must_use]
pub fn classify(error: &sqlx::Error) -> Failure<'_> {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => classify_sqlstate(error),
            None => Failure::Other { code: None },
        },
        sqlx::Error::PoolTimedOut => Failure::PoolTimeout,
        // What is not the protocol comes from a connection that broke off, or from something between.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Failure::ConnectionLost,
        sqlx::Error::RowNotFound => Failure::RowNotFound,
        _ => Failure::Other { code: None },
    }
}

/// SQLSTATEs: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn classify_sqlstate(error: &PgDatabaseError) -> Failure<'_> {
    let constraint = error.constraint().unwrap_or_default();
    match error.code() {
        "23505" => Failure::UniqueViolation { constraint },
        "23503" | "23001" => Failure::ForeignKeyViolation { constraint },
        "23514" => Failure::CheckViolation { constraint },
        "23502" => Failure::NotNullViolation { column: error.column().unwrap_or_default() },
        "40001" => Failure::SerializationFailure,
        "40P01" => Failure::Deadlock,
        "55P03" => Failure::LockTimeout,
        "57014" => Failure::StatementCanceled,
        "53300" => Failure::TooManyConnections,
        // 57P01 shutdown by the administrator, 57P02 crash of another backend, 57P03 starting or stopping,
        // 57P05 idle session, 25P03 idle in transaction; class 08: connection exceptions.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Failure::ConnectionLost,
        code if code.starts_with("08") => Failure::ConnectionLost,
        // 25006: it has become a standby, and kept its connections; classes 53 and 58: no disk, memory or locks are left, or
        // the system failed.
        "25006" => Failure::CannotWrite,
        code if code.starts_with("53") || code.starts_with("58") => Failure::CannotWrite,
        code => Failure::Other { code: Some(code) },
    }
}

/// `error` and its causes on one line, for a log or a terminal; a cause whose text the line already has
/// (sqlx's own messages repeat their causes) is left out.
#[must_use]
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
