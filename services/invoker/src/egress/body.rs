//! Response bodies, bounded each and all together.

use std::sync::Arc;

use bytes::Bytes;
use chatfn_domain::name::AccountId;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::EgressError;
use crate::places::{Place, Places};

/// The memory that all response bodies of the process share, divided among accounts.
#[derive(Debug, Clone)]
pub(super) struct Buffers {
    bytes: Arc<Places>,
    per_body: usize,
}

impl Buffers {
    /// `in_all` bytes for all bodies, `per_body` for each.
    pub(super) fn new(in_all: usize, per_body: usize) -> Self {
        Self { bytes: Places::new("bytes of response bodies", in_all), per_body }
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

    /// Reads `body` to its end. The memory counts as used by the account until the returned bytes are dropped. Cancel safe.
    pub(super) async fn read(&self, account: &AccountId, mut body: Incoming) -> Result<Bytes, BodyError> {
        let mut held = Held { bytes: Vec::new(), place: None };
        while let Some(frame) = body.frame().await {
            // Anything else is trailers, which fetch does not show.
            let Ok(data) = frame?.into_data() else { continue };
            if held.bytes.len() + data.len() > self.per_body {
                return Err(EgressError::ResponseTooLarge(self.per_body).into());
            }
            held.make_room(&self.bytes, account, data.len(), self.per_body)?;
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
    place: Option<Place>,
}

impl Held {
    /// Room for so many more bytes, of at most `most` in all. It grows twofold, so that a body in many pieces seldom asks for more; what
    /// counts as used is the room.
    fn make_room(
        &mut self,
        places: &Arc<Places>,
        account: &AccountId,
        bytes: usize,
        most: usize,
    ) -> Result<(), EgressError> {
        let needed = self.bytes.len() + bytes;
        let room = self.place.as_ref().map_or(0, Place::size);
        if needed <= room {
            return Ok(());
        }
        let wanted = needed.max((2 * room).min(most));
        // Waiting could last for ever: everyone who waits holds memory that others wait for.
        let more = places.take_many(account, wanted - room).map_err(|_| EgressError::Overloaded)?;
        match &mut self.place {
            Some(place) => place.merge(more),
            none => *none = Some(more),
        }
        self.bytes.reserve_exact(wanted - self.bytes.len());
        Ok(())
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
