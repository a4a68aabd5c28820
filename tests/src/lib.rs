//! Black-box tests of the running cluster.
