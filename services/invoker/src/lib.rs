//! Runs lambdas: each run in a fresh sandbox, never past its deadline.
