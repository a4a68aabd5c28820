//! Postgres: pools, migrations, error classification, and private servers for laptops and tests.
