//! Page tokens, which hold for one list and filter only.

use chatfn_domain::event::event_hash;
use chatfn_rpc::ApiError;
use uuid::Uuid;

use crate::{
    error,
    store::{Time, deliveries::Key},
};

/// Deliveries of a page whose size is not given.
const DEFAULT_SIZE: i64 = 50;

/// Number of deliveries of a page, for a size that the contract has checked.
pub(super) fn size(requested: i32) -> i64 {
    if requested <= 0 { DEFAULT_SIZE } else { requested.into() }
}

/// A token that goes on after `position` in the list that `list` tells apart. Opaque, but no secret.
pub(super) fn token(list: &[&str], position: Key) -> String {
    let Key { accept_time, lane, sequence } = position;
    let position = format!("{:016x}{lane:04x}{sequence:016x}", accept_time.micros());
    format!("{}{position}", seal(list, &position))
}

/// The position of a token of this list; `None` for the first page.
pub(super) fn position(list: &[&str], token: &str) -> Result<Option<Key>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (sealed, position) = token.split_at_checked(16)?;
        let (time, rest) = position.split_at_checked(16)?;
        let (lane, sequence) = rest.split_at_checked(4)?;
        let number = |hex: &str| u64::from_str_radix(hex, 16).ok().map(u64::cast_signed);
        let key = Key {
            accept_time: Time::from_micros(number(time)?),
            lane: u16::from_str_radix(lane, 16).ok()?.cast_signed(),
            sequence: number(sequence)?,
        };
        (sealed == seal(list, position)).then_some(key)
    };
    read().map(Some).ok_or_else(error::invalid_page_token)
}

/// A token that goes on after the thing of this id in the list that `list` tells apart.
pub(super) fn id_token(list: &[&str], id: Uuid) -> String {
    let position = id.simple().to_string();
    format!("{}{position}", seal(list, &position))
}

/// The id of a token of this list; `None` for the first page.
pub(super) fn id(list: &[&str], token: &str) -> Result<Option<Uuid>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (sealed, position) = token.split_at_checked(16)?;
        (sealed == seal(list, position)).then_some(position)?.parse().ok()
    };
    read().map(Some).ok_or_else(error::invalid_page_token)
}

/// A token that goes on after these numbers of a stream that `list` tells apart.
pub(super) fn numbers_token(list: &[&str], numbers: &[i64]) -> String {
    let position: String = numbers.iter().map(|number| format!("{number:x}.")).collect();
    format!("{}{position}", seal(list, &position))
}

/// The numbers of a token of this stream, as many as `count`; `None` for the first call.
pub(super) fn numbers(list: &[&str], token: &str, count: usize) -> Result<Option<Vec<i64>>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (sealed, position) = token.split_at_checked(16)?;
        let position = (sealed == seal(list, position)).then_some(position)?.strip_suffix('.')?;
        let numbers: Result<Vec<i64>, _> =
            position.split('.').map(|number| i64::from_str_radix(number, 16)).collect();
        numbers.ok().filter(|numbers| numbers.len() == count)
    };
    read().map(Some).ok_or_else(error::invalid_resume_token)
}

fn seal(list: &[&str], position: &str) -> String {
    let parts: Vec<&[u8]> = list.iter().chain([&position]).map(|part| part.as_bytes()).collect();
    event_hash(&parts)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_list_and_unchanged_only() {
        let key = Key { accept_time: Time::from_micros(-5), lane: 63, sequence: 77 };
        let token = token(&["a", "3"], key);
        assert_eq!(position(&["a", "3"], &token).unwrap(), Some(key));
        assert_eq!(position(&["a", "3"], "").unwrap(), None);
        assert!(position(&["a", "4"], &token).is_err());
        for at in 0..token.len() {
            let mut bad = token.clone().into_bytes();
            bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            assert!(position(&["a", "3"], std::str::from_utf8(&bad).unwrap()).is_err());
        }
        let id = Uuid::from_u128(7);
        assert_eq!(super::id(&["a"], &id_token(&["a"], id)).unwrap(), Some(id));
        assert!(super::id(&["b"], &id_token(&["a"], id)).is_err());
        let many = numbers_token(&["a"], &[1, i64::MAX, 0]);
        assert_eq!(numbers(&["a"], &many, 3).unwrap(), Some(vec![1, i64::MAX, 0]));
        assert!(numbers(&["a"], &many, 2).is_err() && numbers(&["b"], &many, 3).is_err());
        for bad in ["x", "é", "00112233445566778899aabbccddeeff", &"0".repeat(1024)] {
            assert!(position(&["a", "3"], bad).is_err());
            assert!(super::id(&["a"], bad).is_err() && numbers(&["a"], bad, 1).is_err());
        }
    }
}
