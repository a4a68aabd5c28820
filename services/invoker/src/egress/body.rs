//! Response bodies, bounded each and all together.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EgressError;

/// The memory that all response bodies of the process share.
#[derive(Debug, Clone)]
pub(super) struct Buffers {
    free: Arc<Semaphore>,
    per_body: usize,
}

impl Buffers {
    /// `in_all` bytes for all bodies, `per_body` for each.
    pub(super) fn new(in_all: usize, per_body: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(in_all.min(Semaphore::MAX_PERMITS))), per_body }
    }

    /// Whether a body of the announced length may be read at all.
    pub(super) fn check_announced(&self, headers: &HeaderMap) -> Result<(), EgressError> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match announced {
            Some(length) if length > self.per_body as u64 => {
                Err(EgressError::ResponseTooLarge(self.per_body))
            }
            _ => Ok(()),
        }
    }

    /// Reads `body` to its end. The memory counts as used until the returned bytes are dropped. Cancel safe.
    pub(super) async fn read(&self, mut body: Incoming) -> Result<Bytes, BodyError> {
        let mut held = Held { bytes: Vec::new(), permit: None };
        while let Some(frame) = body.frame().await {
            // Anything else is trailers, which fetch does not show.
            let Ok(data) = frame?.into_data() else { continue };
            if held.bytes.len() + data.len() > self.per_body {
                return Err(EgressError::ResponseTooLarge(self.per_body).into());
            }
            held.reserve(&self.free, data.len())?;
            held.bytes.extend_from_slice(&data);
        }
        Ok(if held.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(held) })
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Refused(#[from] EgressError),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// Bytes and the claim on the memory that they take.
struct Held {
    bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn reserve(&mut self, free: &Arc<Semaphore>, bytes: usize) -> Result<(), EgressError> {
        let bytes = u32::try_from(bytes).map_err(|_| EgressError::Overloaded)?;
        // Waiting could last for ever: everyone who waits holds memory that others wait for.
        let more = Arc::clone(free).try_acquire_many_owned(bytes).map_err(|_| EgressError::Overloaded)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
