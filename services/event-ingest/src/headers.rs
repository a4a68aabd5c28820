//! Headers of events as they are stored: JSON, `[{"key": …, "value": …}]`, in the order of the publisher.

use std::borrow::Cow;

use chatfn_proto::{ingest::v1::EventHeader, invoker::v1::Header};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
}

/// What is stored of an event's headers; `None` when there are none.
///
/// # Errors
/// None that text can bring about.
pub(crate) fn to_json(headers: &[EventHeader]) -> Result<Option<Vec<u8>>, serde_json::Error> {
    if headers.is_empty() {
        return Ok(None);
    }
    let stored: Vec<_> = headers
        .iter()
        .map(|EventHeader { key, value }| Stored { key: key.into(), value: value.into() })
        .collect();
    serde_json::to_vec(&stored).map(Some)
}

/// What a lambda sees of them.
pub(crate) fn from_json(json: Option<&[u8]>) -> Vec<Header> {
    let stored: Option<Vec<Stored<'_>>> = json.and_then(|json| serde_json::from_slice(json).ok());
    let header =
        |Stored { key, value }: Stored<'_>| Header { key: key.into_owned(), value: value.into_owned() };
    stored.unwrap_or_default().into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_read_in_its_order() {
        let header = |key: &str, value: &str| EventHeader { key: key.to_owned(), value: value.to_owned() };
        let sent = [header("x-brand", "acme"), header("x-brand", "\"ä\"\n"), header("a", "")];
        let json = to_json(&sent).unwrap().unwrap();
        let seen: Vec<_> = from_json(Some(&json)).into_iter().map(|it| header(&it.key, &it.value)).collect();
        assert_eq!(seen, sent);
        assert_eq!(to_json(&[]).unwrap(), None);
        assert!(from_json(None).is_empty());
    }
}
