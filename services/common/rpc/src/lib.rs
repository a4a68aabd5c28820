//! How every chatfn service speaks gRPC: deadlines, errors, health, reflection, lifecycle.
