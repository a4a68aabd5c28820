//! The gRPC contract of chatfn: generated types and services, validators, and the descriptor set.
//!
//! Promises: what is generated here is what `proto/chatfn/**/*.proto` says, annotations included; a
//! message that passes [`validate::Validate`] satisfies every rule written beside its fields; no caller
//! gets beyond [`validate::validated`] with the name of something of another account; no message
//! shows the value of a secret when it is formatted for a log.
//!
//! Start reading in the `.proto` files: they are the documentation. [`convert`] holds the one
//! translation between wire types and the domain's.

pub mod convert;
mod redacted;
pub mod scope;
pub mod validate;

/// `chatfn.registry`: the control plane.
pub mod registry {
    /// Version 1.
    #[expect(clippy::allow_attributes, reason = "tonic generates them")]
    pub mod v1 {
        tonic::include_proto!("chatfn.registry.v1");
    }
}

/// `chatfn.invoker`: runs lambdas.
pub mod invoker {
    /// Version 1.
    #[expect(clippy::allow_attributes, reason = "tonic generates them")]
    pub mod v1 {
        tonic::include_proto!("chatfn.invoker.v1");
    }
}

/// `chatfn.ingest`: records events and accounts for them.
pub mod ingest {
    /// Version 1.
    #[expect(clippy::allow_attributes, reason = "tonic generates them")]
    pub mod v1 {
        tonic::include_proto!("chatfn.ingest.v1");
    }
}

/// The compiled contract with all that it imports, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
