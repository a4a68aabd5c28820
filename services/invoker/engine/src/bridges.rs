//! Keeps what a run writes in few pieces.
//!
//! With PAGEMAP_SCAN, Wasmtime restores up to 32 separate stretches of written pages by copying (`MAX_REGIONS` in
//! its `pagemap.rs`); what lies beyond goes back to the kernel, and every page of it costs the next run a fault. A
//! small lambda writes to some forty stretches of the image, most of them a page long: 147 µs a run instead of 43,
//! measured on a virtual machine. So each run also writes to the pages in the smallest gaps between them, which
//! costs no more than copying these. Which pages those are depends on the function: on what its top-level code left.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The pages of the kernels that matter here. With others the bridges are of no use, and do no harm.
pub(crate) const PAGE: usize = 4096;
/// How many stretches are left to a run of no special kind. A lambda may write to a few others besides. Each one less
/// costs several pages to copy: 50 µs a run with 28 stretches, 79 with 16, measured for a trivial lambda.
const STRETCHES: usize = 28;
/// The most pages to write for that, or as many as are written anyway if those are more.
const MAX_PAGES: usize = 128;

/// The pages to write, as offsets into memory.
#[derive(Debug, Default)]
pub(crate) struct Bridges(Box<[usize]>);

impl Bridges {
    /// Between the pages (numbers, ascending) that runs have written.
    pub(crate) fn between(written: &[usize]) -> Self {
        let mut gaps: Vec<(usize, usize)> = written
            .windows(2)
            .map(|pair| (pair[1] - pair[0] - 1, pair[0] + 1))
            .filter(|gap| gap.0 > 0)
            .collect();
        gaps.sort_unstable();
        let excess = (gaps.len() + 1).saturating_sub(STRETCHES);
        let most = written.len().max(MAX_PAGES);
        let mut pages = Vec::new();
        for (len, first) in gaps.into_iter().take(excess) {
            if pages.len() + len > most {
                break;
            }
            pages.extend((first..first + len).map(|page| page * PAGE));
        }
        Self(pages.into())
    }

    /// How many pages.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Writes to each page what it holds.
    pub(crate) fn write(&self, memory: &mut [u8]) {
        for &at in &self.0 {
            if let Some(byte) = memory.get_mut(at) {
                *byte = black_box(*byte);
            }
        }
    }
}

/// The numbers of the pages of `memory` that are this process's own, in contrast to those of the image.
pub(crate) fn written_pages(memory: &[u8]) -> io::Result<Vec<usize>> {
    // See the kernel's admin-guide/mm/pagemap.rst.
    const PRESENT: u64 = 1 << 63;
    const OF_A_FILE: u64 = 1 << 61;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entries = vec![0; memory.len() / PAGE * 8];
    pagemap.read_exact_at(&mut entries, (memory.as_ptr().addr() / PAGE * 8) as u64)?;
    let entries = entries.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().expect("8 bytes")));
    Ok(entries
        .enumerate()
        .filter(|(_, entry)| entry & PRESENT != 0 && entry & OF_A_FILE == 0)
        .map(|(page, _)| page)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_gaps_are_bridged_until_few_stretches_are_left() {
        // Stretches of a page, with gaps of 1, 2, 3, … pages: five more than are left.
        let mut written = vec![0];
        for gap in 1..STRETCHES + 5 {
            written.push(written[written.len() - 1] + gap + 1);
        }
        let bridges = Bridges::between(&written);
        assert_eq!(bridges.0.len(), 1 + 2 + 3 + 4 + 5);
        assert!(bridges.0.iter().all(|at| at % PAGE == 0 && !written.contains(&(at / PAGE))));

        assert!(Bridges::between(&written[..STRETCHES]).0.is_empty());
        assert!(Bridges::between(&[]).0.is_empty());
    }

    #[test]
    fn wide_gaps_are_left() {
        let written: Vec<_> = (0..=STRETCHES).map(|stretch| stretch * 2 * MAX_PAGES).collect();
        assert!(Bridges::between(&written).0.is_empty());
    }

    #[test]
    fn writing_changes_nothing() {
        let mut memory = vec![7; 8 * PAGE];
        Bridges(Box::new([PAGE, 5 * PAGE, 100 * PAGE])).write(&mut memory);
        assert!(memory.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_written_page_is_told_from_one_that_was_not() {
        let mut memory = vec![0_u8; 64 * PAGE];
        let start = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        let memory = &mut memory[start..start + 32 * PAGE];
        memory[9 * PAGE] = 1;
        assert!(written_pages(memory).unwrap().contains(&9));
    }
}
