//! The whole cluster in one process on a private Postgres, for a laptop.
