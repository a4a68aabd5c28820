//! Hashes and HMAC, which would be slow in the sandbox.

use hmac::{HmacReset, KeyInit as _};
use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use wasmtime::Result;

use crate::sandbox::GuestFault;

// In step with guest/prelude/65-crypto.js.
const FIRST: u8 = 1;
const LAST: u8 = 2;
const KEYED: u8 = 4;
const HEADER_BYTES: usize = 6;
/// The most that is hashed in one call: the deadline cannot end a run in between. Well below a millisecond.
const MAX_BYTES: usize = HEADER_BYTES + 1024 + (256 << 10);

/// A hash whose last part has not come yet.
pub(crate) type Hashing = Box<dyn DynDigest + Send>;

/// `[algorithm, flags, length of the key in four bytes, key, data]`: one part of what is to be hashed. The
/// first part begins a hash, the last one is answered with it, the others with nothing.
pub(super) fn hash(state: &mut Option<Hashing>, question: &[u8]) -> Result<Vec<u8>> {
    let (&[algorithm, flags, a, b, c, d], rest) =
        question.split_first_chunk::<HEADER_BYTES>().ok_or(GuestFault("a hash of nothing"))?;
    let key_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    if question.len() > MAX_BYTES || key_bytes > rest.len() {
        return Err(GuestFault("a hash of wrong lengths").into());
    }
    let (key, data) = rest.split_at(key_bytes);
    if flags & FIRST != 0 {
        let key = (flags & KEYED != 0).then_some(key);
        *state = Some(begin(algorithm, key).ok_or(GuestFault("an unknown hash"))?);
    }
    let hashing = state.as_mut().ok_or(GuestFault("a hash that was not begun"))?;
    hashing.update(data);
    if flags & LAST == 0 {
        return Ok(Vec::new());
    }
    let hashing = state.take().expect("it was just used");
    Ok(hashing.finalize().into_vec())
}

fn begin(algorithm: u8, key: Option<&[u8]>) -> Option<Hashing> {
    macro_rules! of {
        ($hash:ty) => {
            match key {
                None => Box::new(<$hash>::default()),
                Some(key) => Box::new(HmacReset::<$hash>::new_from_slice(key).ok()?),
            }
        };
    }
    Some(match algorithm {
        1 => of!(Md5),
        2 => of!(Sha1),
        3 => of!(Sha224),
        4 => of!(Sha256),
        5 => of!(Sha384),
        6 => of!(Sha512),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(algorithm: u8, flags: u8, key_bytes: u32, rest: &[u8]) -> Vec<u8> {
        [&[algorithm, flags][..], &key_bytes.to_le_bytes(), rest].concat()
    }

    #[test]
    fn parts_make_the_hash_of_the_whole() {
        let whole = hash(&mut None, &question(4, FIRST | LAST, 0, b"abc")).unwrap();
        let mut state = None;
        assert!(hash(&mut state, &question(4, FIRST, 0, b"a")).unwrap().is_empty());
        assert!(hash(&mut state, &question(4, 0, 0, b"b")).unwrap().is_empty());
        assert_eq!(hash(&mut state, &question(4, LAST, 0, b"c")).unwrap(), whole);
        assert!(state.is_none());
    }

    #[test]
    fn what_no_sound_guest_sends_is_a_fault() {
        for wrong in [
            question(4, LAST, 0, b"never begun"),
            question(0, FIRST, 0, b"no such hash"),
            question(4, FIRST | KEYED, 9, b"shorter"),
            question(4, FIRST | KEYED, u32::MAX, b""),
            question(4, FIRST, 0, &vec![0; MAX_BYTES]),
            vec![4, FIRST],
            Vec::new(),
        ] {
            assert!(hash(&mut None, &wrong).is_err(), "{:?}", &wrong[..wrong.len().min(9)]);
        }
    }
}
