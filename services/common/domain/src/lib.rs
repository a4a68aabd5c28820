//! The vocabulary and rules of chatfn as plain types.
