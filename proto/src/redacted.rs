//! `Debug` of the messages that hold the value of a secret, without it: whoever logs a message, or fails a test
//! with it, gives nothing away. The contract marks these fields `debug_redact`, and the build derives no `Debug`
//! for their messages, so that a marked one without an implementation here does not compile.

use std::fmt;

use crate::registry::v1::{AccessSecretResponse, SetSecretRequest};

impl fmt::Debug for SetSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parent, key, value: _, etag, request_id } = self;
        f.debug_struct("SetSecretRequest")
            .field("parent", parent)
            .field("key", key)
            .field("etag", etag)
            .field("request_id", request_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AccessSecretResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value: _, revision } = self;
        f.debug_struct("AccessSecretResponse").field("revision", revision).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let request = SetSecretRequest { value: "hunter2".into(), ..Default::default() };
        let response = AccessSecretResponse { value: "hunter2".into(), revision: 1 };
        assert!(!format!("{request:?} {request:#?} {response:?} {response:#?}").contains("hunter2"));
    }
}
