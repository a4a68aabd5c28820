//! Finds many values in a text in one pass, with memory and time that grow with the text alone.
//!
//! A value is found by its first bytes, and followed from there (Knuth, Morris, Pratt). What is found is kept as regions
//! that do not touch one another, however many matches there are.

use std::{cell::OnceCell, collections::BTreeSet, ops::Range};

use secrecy::{ExposeSecret as _, zeroize::Zeroizing};

use super::{cache::Value, forms::forms, read::MAX_VALUES};

/// Shorter values are left alone: they would be found in the middle of words.
pub(super) const MIN_BYTES: usize = 6;
/// Where a text was cut: by `console` (guest/prelude/15-inspect.js), or by the toolbelt.
const CUT: char = '…';
/// Steps for each byte of a text, once around for each value that is followed. Only values that begin with one another
/// take so many; then all the rest of the text is taken for values.
const MAX_STEPS_PER_BYTE: usize = 32;
/// Steps that the shortest text may take.
const MIN_STEPS: usize = 4096;
/// Keys that a region names, of those whose values are in it: the first by name. A marker is longer than a short value,
/// and many values may be in one place.
const MAX_NAMED: usize = 4;
/// Bits of the filter: a multiple of what all needles set, so that most texts meet none by chance.
const FILTER_BITS: usize = 1 << 14;

/// Whether a text is as its author wrote it. The end of one that may have been cut may be the beginning of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    Perhaps,
}

/// All that is looked for.
pub(super) struct Needles {
    /// By name.
    keys: Vec<String>,
    /// By text, so that those with the same first bytes are neighbours.
    needles: Vec<Needle>,
    /// Whether any of them may begin with some bytes, by their hash.
    filter: Vec<u64>,
}

/// A set of keys: a bit for each of [`Needles::keys`].
type Keys = u32;
const _: () = assert!(MAX_VALUES <= Keys::BITS as usize);

/// One text, and the keys of which it is a form of the value.
struct Needle {
    text: Zeroizing<String>,
    keys: Keys,
    /// For each length of a beginning of `text`, the longest shorter beginning that ends it. Made when it is needed: most
    /// values are never found.
    fallback: OnceCell<Vec<u32>>,
}

/// A part of a text that is values from end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) range: Range<usize>,
    keys: Keys,
}

impl Needles {
    /// Looks for values that were read, by their keys.
    pub(super) fn of(values: &[(String, Value)]) -> Self {
        Self::new(values.iter().map(|(key, value)| (key.as_str(), value.expose_secret())))
    }

    pub(super) fn new<'a>(values: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let keys = values.clone().map(|(key, _)| key).collect::<BTreeSet<_>>();
        let keys: Vec<_> = keys.into_iter().map(ToOwned::to_owned).collect();
        let mut needles: Vec<Needle> = Vec::new();
        for (key, value) in values.filter(|(_, value)| value.len() >= MIN_BYTES) {
            let keys = 1 << keys.iter().position(|it| it == key).expect("it is one of them");
            let long_enough = forms(value).into_iter().filter(|text| text.len() >= MIN_BYTES);
            needles.extend(long_enough.map(|text| Needle { text, keys, fallback: OnceCell::new() }));
        }
        needles.sort_by(|a, b| a.text.cmp(&b.text));
        needles.dedup_by(|next, kept| {
            let same = next.text == kept.text;
            kept.keys |= if same { next.keys } else { 0 };
            same
        });
        let mut filter = vec![0; FILTER_BITS / 64];
        for needle in &needles {
            let bit = filter_bit(needle.head().iter().fold(0, shift));
            filter[bit / 64] |= 1 << (bit % 64);
        }
        Self { keys, needles, filter }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// The marker that stands for a region.
    pub(super) fn marker(&self, region: &Region) -> String {
        let named = self.keys.iter().enumerate().filter(|(index, _)| region.keys & (1 << index) != 0);
        named.take(MAX_NAMED).map(|(_, key)| format!("[secret:{key}]")).collect()
    }

    /// Where values are, in order: whole, and the beginnings of values where the text was cut or, perhaps, ends because it
    /// was.
    pub(super) fn find(&self, text: &str, whole: Whole) -> Vec<Region> {
        let bytes = text.as_bytes();
        let mut regions = Vec::new();
        // The needles of which at least the first bytes have been seen just now, and how much.
        let mut followed: Vec<usize> = Vec::new();
        let mut matched: Vec<usize> = Vec::new();
        let mut steps = MIN_STEPS + MAX_STEPS_PER_BYTE * bytes.len();
        let mut recent = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if followed.len() > steps {
                let longest = followed.iter().map(|it| matched[*it]).max().unwrap_or(0);
                let keys = followed.iter().fold(0, |keys, it| keys | self.needles[*it].keys);
                add(&mut regions, Region { range: index - longest..bytes.len(), keys });
                return regions;
            }
            steps -= followed.len();
            if !followed.is_empty() && text.is_char_boundary(index) && text[index..].starts_with(CUT) {
                for it in &followed {
                    add(&mut regions, self.needles[*it].region(index, matched[*it]));
                }
            }
            followed.retain(|it| {
                let needle = &self.needles[*it];
                matched[*it] = needle.step(matched[*it], *byte);
                if matched[*it] == needle.text.len() {
                    add(&mut regions, needle.region(index + 1, matched[*it]));
                }
                let goes_on = matched[*it] >= MIN_BYTES;
                if !goes_on {
                    matched[*it] = 0;
                }
                goes_on
            });
            recent = shift(recent, byte);
            let bit = filter_bit(recent);
            if self.filter[bit / 64] & (1 << (bit % 64)) == 0 {
                continue;
            }
            let Some(head) = bytes[..=index].last_chunk() else { continue };
            let first = self.needles.partition_point(|needle| needle.head() < head);
            for (it, needle) in self.needles.iter().enumerate().skip(first) {
                if needle.head() != head {
                    break;
                }
                matched.resize(self.needles.len(), 0);
                if matched[it] > 0 {
                    continue;
                }
                matched[it] = MIN_BYTES;
                followed.push(it);
                if needle.text.len() == MIN_BYTES {
                    add(&mut regions, needle.region(index + 1, MIN_BYTES));
                }
            }
        }
        if whole == Whole::Perhaps {
            for it in &followed {
                add(&mut regions, self.needles[*it].region(bytes.len(), matched[*it]));
            }
        }
        regions
    }
}

impl Needle {
    fn head(&self) -> &[u8; MIN_BYTES] {
        self.text.as_bytes().first_chunk().expect("shorter ones are no needles")
    }

    /// The last `length` bytes before `end`.
    fn region(&self, end: usize, length: usize) -> Region {
        Region { range: end - length..end, keys: self.keys }
    }

    /// How much of it is matched after another byte.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        let text = self.text.as_bytes();
        let fallback = self.fallback.get_or_init(|| fallback(text));
        while matched > 0 && (matched == text.len() || byte != text[matched]) {
            matched = fallback[matched] as usize;
        }
        matched + usize::from(byte == text[matched])
    }
}

fn fallback(text: &[u8]) -> Vec<u32> {
    let mut fallback = vec![0u32; text.len() + 1];
    let mut length = 0;
    for index in 1..text.len() {
        while length > 0 && text[index] != text[length] {
            length = fallback[length] as usize;
        }
        length += usize::from(text[index] == text[length]);
        fallback[index + 1] = u32::try_from(length).expect("a value is short");
    }
    fallback
}

/// Adds a region that ends where the last one does or later.
fn add(regions: &mut Vec<Region>, mut region: Region) {
    while let Some(last) = regions.pop_if(|last| last.range.end >= region.range.start) {
        region.range.start = region.range.start.min(last.range.start);
        region.keys |= last.keys;
    }
    regions.push(region);
}

/// The last bytes, as a number, with one more.
fn shift(recent: u64, byte: &u8) -> u64 {
    (recent << 8 | u64::from(*byte)) & ((1 << (8 * MIN_BYTES)) - 1)
}

fn filter_bit(recent: u64) -> usize {
    // Fibonacci hashing: the upper bits depend on all of them.
    (recent.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - FILTER_BITS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn needles(values: &[(&str, &str)]) -> Needles {
        Needles::new(values.iter().copied())
    }

    fn named(values: &[(String, String)]) -> Needles {
        Needles::new(values.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    fn keyed(value: impl Fn(usize) -> String) -> Vec<(String, String)> {
        (0..MAX_VALUES).map(|number| (format!("key-{number:02}"), value(number))).collect()
    }

    #[test]
    fn one_text_is_one_needle() {
        let found = named(&keyed(|_| "aaaaaa".to_owned()));
        assert_eq!(found.needles.len(), 1);
        let regions = found.find(&"a".repeat(1 << 20), Whole::Yes);
        assert_eq!(regions.len(), 1, "however many matches overlap");
        assert_eq!(regions[0].range, 0..1 << 20);
        let marker = found.marker(&regions[0]);
        assert_eq!(marker, "[secret:key-00][secret:key-01][secret:key-02][secret:key-03]");
    }

    #[test]
    fn touching_values_are_one_region() {
        let found = needles(&[("a", "abcdefgh"), ("b", "12345678"), ("c", "ghx123456")]);
        let ranges = |text| {
            found
                .find(text, Whole::Yes)
                .into_iter()
                .map(|it| (it.range.start, it.range.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(ranges("-abcdefghabcdefgh12345678-"), [(1, 25)]);
        assert_eq!(ranges("abcdefgh 12345678"), [(0, 8), (9, 17)]);
        assert_eq!(ranges("abcdefghx12345678"), [(0, 17)], "what overlaps both joins them");
        assert_eq!(ranges("abcdefgh… abcdefg… abcdef"), [(0, 8), (12, 19)]);
    }

    #[test]
    fn what_follows_one_another_without_end_is_hidden_as_a_whole() {
        // Each begins with the text, and none ever ends.
        let values = keyed(|number| format!("{}\"'\\ä{number}", "a".repeat(100)));
        let found = named(&values);
        assert!(found.needles.len() > 4 * MAX_STEPS_PER_BYTE, "{}", found.needles.len());
        let text = format!("{}{}", "a".repeat(1 << 18), values[7].1);
        let begun = Instant::now();
        let regions = found.find(&text, Whole::Yes);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert_eq!(regions.last().unwrap().range.end, text.len());
    }
}
