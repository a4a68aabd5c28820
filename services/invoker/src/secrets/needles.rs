//! Finds many values in a text in one pass, with memory and time that grow with the text alone.
//!
//! A value is found by its first bytes. From there all values that go on as the text does are followed as one: sorted,
//! they are neighbours. What is found is kept as regions that do not touch one another, however many matches there are.

use std::{collections::BTreeSet, ops::Range};

use secrecy::{ExposeSecret as _, zeroize::Zeroizing};

use super::{cache::Value, forms::forms, read::MAX_VALUES};

/// Shorter values are left alone: they would be found in the middle of words.
pub(super) const MIN_BYTES: usize = 6;
/// Where a text was cut: by `console` (guest/prelude/15-inspect.js), or by the toolbelt.
pub(super) const CUT: &[u8] = "…".as_bytes();
/// What stands for half of a character, when a text was cut inside of one.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();
/// Steps for each byte of a report. A byte takes one for each place before it from which values are still followed. There
/// are many only of values that repeat their beginning, in a text that does, too; when no steps are left, all the rest of
/// the report is taken for values. A report of 1 MiB takes at most 30 ms so.
const MAX_STEPS_PER_BYTE: usize = 8;
/// Steps that the shortest report may take.
const MIN_STEPS: usize = 1 << 15;
/// What it takes to choose those that go on as the text does.
const STEPS_TO_CHOOSE: usize = 8;
/// Keys that a region names, of those whose values are in it: the first by name. A marker is longer than a short value,
/// and many values may be in one place.
const MAX_NAMED: usize = 4;
/// Bits of the filter: a multiple of what all needles set, so that most texts meet none by chance.
const FILTER_BITS: usize = 1 << 16;

/// Whether a text is as its author wrote it. The end of one that may have been cut may be the beginning of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    Perhaps,
}

/// What is left of the work that one report may cost, however many texts it has: others wait for it (`turns.rs`).
#[derive(Debug)]
pub(super) struct Steps(usize);

impl Steps {
    pub(super) fn for_bytes(bytes: usize) -> Self {
        Self(MIN_STEPS + MAX_STEPS_PER_BYTE * bytes)
    }

    /// Whether so many were left. From the first time that they were not, none are.
    fn take(&mut self, steps: usize) -> bool {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// All that is looked for.
pub(super) struct Needles {
    /// By name.
    keys: Vec<String>,
    /// By text, so that those with the same first bytes are neighbours.
    needles: Vec<Needle>,
    /// The first bytes of needles, in order, and where those that have them begin and the next ones do.
    heads: Zeroizing<Vec<u64>>,
    starts: Vec<usize>,
    /// Whether some bytes may be among `heads`, by their hash.
    filter: Vec<u64>,
}

/// A set of keys: a bit for each of [`Needles::keys`].
type Keys = u32;
const _: () = assert!(MAX_VALUES <= Keys::BITS as usize);

/// One text, and the keys of which it is a form of the value.
struct Needle {
    text: Zeroizing<String>,
    keys: Keys,
}

/// Needles of which the first bytes have been seen just now, and no needle as a whole.
struct Followed {
    needles: Range<usize>,
    matched: usize,
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
            let long_enough = forms(value).filter(|text| text.len() >= MIN_BYTES);
            needles.extend(long_enough.map(|text| Needle { text, keys }));
        }
        needles.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        needles.dedup_by(|next, kept| {
            let same = next.text == kept.text;
            kept.keys |= if same { next.keys } else { 0 };
            same
        });
        let mut filter = vec![0; FILTER_BITS / 64];
        // As long as they can become: where a vector has grown, it leaves a copy.
        let mut heads = Zeroizing::new(Vec::with_capacity(needles.len()));
        let mut starts = Vec::new();
        for (index, needle) in needles.iter().enumerate() {
            let head = needle.text.as_bytes()[..MIN_BYTES].iter().fold(0, shift);
            if heads.last() != Some(&head) {
                heads.push(head);
                starts.push(index);
                let bit = filter_bit(head);
                filter[bit / 64] |= 1 << (bit % 64);
            }
        }
        starts.push(needles.len());
        Self { keys, needles, heads, starts, filter }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// Writes the marker that stands for a region.
    pub(super) fn mark(&self, region: &Region, out: &mut String) {
        let named = self.keys.iter().enumerate().filter(|(index, _)| region.keys & (1 << index) != 0);
        for (_, key) in named.take(MAX_NAMED) {
            out.extend(["[secret:", key, "]"]);
        }
        if region.keys == 0 {
            out.push_str("[secret]");
        }
    }

    /// Where values are, in order: whole, and the beginnings of values where the text was cut or, perhaps, ends because it
    /// was. When there are not enough steps, what could not be searched is one of them.
    pub(super) fn find(&self, text: &[u8], whole: Whole, steps: &mut Steps) -> Vec<Region> {
        let mut regions = Vec::new();
        if text.len() >= MIN_BYTES && steps.0 == 0 {
            regions.push(Region { range: 0..text.len(), keys: 0 });
            return regions;
        }
        // By where they begin.
        let mut followed: Vec<Followed> = Vec::new();
        let mut recent = 0;
        for (index, byte) in text.iter().enumerate() {
            if let Some(first) = followed.first() {
                if !steps.take(followed.len()) {
                    add(&mut regions, Region { range: index - first.matched..text.len(), keys: 0 });
                    return regions;
                }
                if is_cut(&text[index..], whole) {
                    self.add_begun(&followed, index, &mut regions, steps);
                }
                followed.retain_mut(|it| self.follow(it, index, *byte, &mut regions, steps));
            }
            recent = shift(recent, byte);
            let bit = filter_bit(recent);
            if self.filter[bit / 64] & (1 << (bit % 64)) == 0 || index + 1 < MIN_BYTES {
                continue;
            }
            if let Ok(head) = self.heads.binary_search(&recent) {
                let needles = self.starts[head]..self.starts[head + 1];
                let mut begun = Followed { needles, matched: MIN_BYTES };
                if self.end_one(&mut begun, index + 1, &mut regions) {
                    followed.push(begun);
                }
            }
        }
        if whole == Whole::Perhaps {
            self.add_begun(&followed, text.len(), &mut regions, steps);
        }
        regions
    }

    /// Compares another byte of the text, and leaves those needles that go on with it. Whether any do.
    fn follow(
        &self,
        followed: &mut Followed,
        index: usize,
        byte: u8,
        regions: &mut Vec<Region>,
        steps: &mut Steps,
    ) -> bool {
        let next = |needle: &Needle| needle.text.as_bytes()[followed.matched];
        let needles = &self.needles[followed.needles.clone()];
        if [needles.first(), needles.last()].into_iter().flatten().any(|needle| next(needle) != byte) {
            // What this takes too much is missing at the next byte.
            steps.take(STEPS_TO_CHOOSE);
            let start = needles.partition_point(|needle| next(needle) < byte);
            let end = needles.partition_point(|needle| next(needle) <= byte);
            if start == end {
                return false;
            }
            followed.needles = followed.needles.start + start..followed.needles.start + end;
        }
        followed.matched += 1;
        self.end_one(followed, index + 1, regions)
    }

    /// Adds the needle that ends here, if one does. Whether any go on.
    fn end_one(&self, followed: &mut Followed, end: usize, regions: &mut Vec<Region>) -> bool {
        // The shortest is the first, and there is only one of each.
        let first = &self.needles[followed.needles.start];
        if first.text.len() == followed.matched {
            add(regions, Region { range: end - followed.matched..end, keys: first.keys });
            followed.needles.start += 1;
        }
        !followed.needles.is_empty()
    }

    /// Adds the beginnings of needles that end at `end`.
    fn add_begun(&self, followed: &[Followed], end: usize, regions: &mut Vec<Region>, steps: &mut Steps) {
        for it in followed {
            steps.take(it.needles.len());
            let keys = self.needles[it.needles.clone()].iter().fold(0, |keys, needle| keys | needle.keys);
            add(regions, Region { range: end - it.matched..end, keys });
        }
    }
}

/// Whether a text was cut before `rest`.
fn is_cut(mut rest: &[u8], whole: Whole) -> bool {
    // Half of a character as it is, or as JSON writes it.
    if let Some(after) = rest.strip_prefix(REPLACEMENT) {
        rest = after;
    } else if let [b'\\', b'u', b'd', _, _, _, after @ ..] = rest {
        rest = after;
    }
    rest.starts_with(CUT) || (rest.is_empty() && whole == Whole::Perhaps)
}

/// Adds a region that ends where the last one does or later.
pub(super) fn add(regions: &mut Vec<Region>, mut region: Region) {
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

    /// Where values are, and how many steps it took to find them.
    fn find(needles: &Needles, text: &str) -> (Vec<Region>, usize) {
        let mut steps = Steps::for_bytes(text.len());
        let all = steps.0;
        let regions = needles.find(text.as_bytes(), Whole::Yes, &mut steps);
        (regions, all - steps.0)
    }

    #[test]
    fn one_text_is_one_needle() {
        let found = named(&keyed(|_| "aaaaaa".to_owned()));
        assert_eq!(found.needles.len(), 1);
        let (regions, steps) = find(&found, &"a".repeat(1 << 20));
        assert_eq!(regions.len(), 1, "however many matches overlap");
        assert_eq!((regions[0].range.clone(), steps), (0..1 << 20, 0));
        let mut marker = String::new();
        found.mark(&regions[0], &mut marker);
        assert_eq!(marker, "[secret:key-00][secret:key-01][secret:key-02][secret:key-03]");
    }

    #[test]
    fn touching_values_are_one_region() {
        let found = needles(&[("a", "abcdefgh"), ("b", "12345678"), ("c", "ghx123456")]);
        let ranges = |text| {
            let (regions, _) = find(&found, text);
            regions.into_iter().map(|it| (it.range.start, it.range.end)).collect::<Vec<_>>()
        };
        assert_eq!(ranges("-abcdefghabcdefgh12345678-"), [(1, 25)]);
        assert_eq!(ranges("abcdefgh 12345678"), [(0, 8), (9, 17)]);
        assert_eq!(ranges("abcdefghx12345678"), [(0, 17)], "what overlaps both joins them");
        assert_eq!(ranges("abcdefgh… abcdefg… abcdef"), [(0, 8), (12, 19)]);
    }

    #[test]
    fn values_that_begin_with_one_another_are_followed_as_one() {
        let values = keyed(|number| format!("{}{number:02}", "https://hooks.example/T0/".repeat(2)));
        let text = format!("{} and {}, ", values[3].1, values[30].1).repeat(100);
        let (regions, steps) = find(&named(&values), &text);
        assert_eq!(regions.len(), 200);
        assert!(steps < 2 * text.len(), "{steps} steps for {} bytes", text.len());
    }

    #[test]
    fn what_follows_one_another_without_end_is_hidden_as_a_whole() {
        // Each begins with the text, and none ever ends.
        let values = keyed(|number| format!("{}\"'\\ä{number}", "a".repeat(100)));
        let found = named(&values);
        let value = &values[7].1;
        let text = format!("{}{value} and this is no value", "a".repeat(1 << 18));
        let mut steps = Steps::for_bytes(text.len());
        let regions = found.find(text.as_bytes(), Whole::Yes, &mut steps);
        let [Region { range, keys: 0 }] = &regions[..] else { panic!("{regions:?}") };
        assert!(range.start < 1 << 18, "{range:?}");
        assert_eq!(range.end, text.len(), "with what follows the value");
        assert_eq!(steps.0, 0, "all are taken");
        // And all else in the report.
        assert_eq!(found.find(b"no value", Whole::Yes, &mut steps), [Region { range: 0..8, keys: 0 }]);
        assert_eq!(found.find(b"short", Whole::Yes, &mut steps), []);

        let text = format!("{}{value} and this is no value", "a".repeat(30));
        let (regions, steps) = find(&found, &text);
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].range, 30..30 + value.len(), "a short one is searched to its end");
        assert!(0 < steps && steps < MIN_STEPS, "{steps}");
    }
}
