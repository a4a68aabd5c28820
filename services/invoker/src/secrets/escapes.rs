//! Texts without their percent-encoding.

use std::ops::Range;

use super::needles::{CUT, Whole};

/// A text in which every escape is what it stands for: what URLs encode depends on the part of the URL, and on who wrote
/// it.
pub(super) struct Unescaped {
    pub(super) bytes: Vec<u8>,
    /// Where each of `bytes` began, and the length of the text.
    began: Vec<u32>,
}

impl Unescaped {
    /// `None` when there is nothing to do.
    pub(super) fn of(text: &str, whole: Whole) -> Option<Self> {
        if !text.contains('%') {
            return None;
        }
        let text = text.as_bytes();
        let mut unescaped =
            Self { bytes: Vec::with_capacity(text.len()), began: Vec::with_capacity(text.len() + 1) };
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            let (byte, length) = match escape(&text[at..], whole) {
                Escape::Not => (*byte, 1),
                Escape::Of(byte) => (byte, 3),
                Escape::Cut(length) => {
                    at += length;
                    continue;
                }
            };
            unescaped.bytes.push(byte);
            unescaped.began.push(offset(at));
            at += length;
        }
        unescaped.began.push(offset(text.len()));
        Some(unescaped)
    }

    /// Where in the text a part of `bytes` was, with what was cut right after it.
    pub(super) fn origin(&self, range: &Range<usize>) -> Range<usize> {
        self.began[range.start] as usize..self.began[range.end] as usize
    }
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("a report has less than 4 GiB")
}

enum Escape {
    Not,
    Of(u8),
    /// Its first bytes, where the text was cut.
    Cut(usize),
}

/// The escape that `text` begins with.
fn escape(text: &[u8], whole: Whole) -> Escape {
    let [b'%', rest @ ..] = text else { return Escape::Not };
    let is_cut = |rest: &[u8]| rest.starts_with(CUT) || (rest.is_empty() && whole == Whole::Perhaps);
    match (hex(rest), rest.get(1..).and_then(hex)) {
        (Some(high), Some(low)) => Escape::Of(high << 4 | low),
        (Some(_), None) if is_cut(&rest[1..]) => Escape::Cut(2),
        (None, _) if is_cut(rest) => Escape::Cut(1),
        _ => Escape::Not,
    }
}

/// The hexadecimal digit that `text` begins with.
fn hex(text: &[u8]) -> Option<u8> {
    let digit = char::from(*text.first()?).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(text: &str, whole: Whole) -> Vec<u8> {
        Unescaped::of(text, whole).expect("there is something to do").bytes
    }

    #[test]
    fn escapes_are_undone_where_they_are_whole() {
        assert_eq!(unescaped("a%20%c3%A4%", Whole::Yes), "a ä%".as_bytes());
        assert_eq!(unescaped("100%, %zz %2 %2525", Whole::Perhaps), b"100%, %zz %2 %25");
        assert!(Unescaped::of("plain", Whole::Perhaps).is_none());
    }

    #[test]
    fn half_an_escape_goes_where_a_text_was_cut() {
        for cut in ["a%", "a%2"] {
            assert_eq!(unescaped(cut, Whole::Perhaps), b"a");
            assert_eq!(unescaped(cut, Whole::Yes), cut.as_bytes());
            assert_eq!(unescaped(&format!("{cut}… more"), Whole::Yes), "a… more".as_bytes());
        }
    }

    #[test]
    fn what_is_found_is_where_it_was() {
        let text = "<a%20b%2";
        let unescaped = Unescaped::of(text, Whole::Perhaps).unwrap();
        let at = |range| &text[unescaped.origin(&range)];
        assert_eq!((at(1..3), at(2..3), at(3..4), at(0..1)), ("a%20", "%20", "b%2", "<"));
    }
}
