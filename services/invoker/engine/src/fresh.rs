//! Sees to it that a sandbox begins with the bytes of the image, and nothing of whoever had its slot before.
//!
//! Wasmtime resets the memory of a slot, and with PAGEMAP_SCAN only those pages that the kernel names. It asks for pages
//! that are present, and so overlooks those that are moved at that moment: to swap space, or to another place in memory
//! (<https://github.com/bytecodealliance/wasmtime/pull/14357>). They would come back with what an earlier run wrote. So
//! whatever a slot has kept is compared with the image before it is used again.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MmapAdvise, madvise};
use wasmtime::PoolingAllocationConfig;

use crate::delta::PAGE;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// How the memory of a finished sandbox is brought back to its first state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetPath {
    /// The kernel names the pages that were written (Linux 6.7 or later), and only these are restored.
    PagemapScan,
    /// All kept pages are restored. Slower for small lambdas.
    CopyKept,
}

impl ResetPath {
    /// The fastest one that this machine offers.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let fast = PoolingAllocationConfig::is_pagemap_scan_available();
        if fast { Self::PagemapScan } else { Self::CopyKept }
    }

    /// A name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PagemapScan => "pagemap_scan",
            Self::CopyKept => "copy_kept",
        }
    }
}

/// Compares what slots have kept with the image.
pub(crate) struct Freshness {
    pagemap: File,
    image: Arc<[u8]>,
}

impl Freshness {
    pub(crate) fn new(image: Arc<[u8]>) -> io::Result<Self> {
        Ok(Self { pagemap: File::open("/proc/self/pagemap")?, image })
    }

    /// Makes the memory of a sandbox that has not run yet what it has to be, as far as it is not.
    pub(crate) fn ensure(&self, memory: &mut [u8]) -> io::Result<()> {
        let stale = self.own_pages(memory).map(|regions| {
            regions.into_iter().map(|(start, end)| self.restore(memory, start, end)).sum::<usize>()
        });
        match stale {
            Ok(0) => Ok(()),
            Ok(pages) => {
                tracing::warn!(
                    pages,
                    "restored pages of an earlier run that were overlooked when its sandbox was reset"
                );
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "cannot name the pages that a slot has kept, so it keeps none");
                give_back(memory)
            }
        }
    }

    /// Restores the stale pages between two offsets; how many there were.
    fn restore(&self, memory: &mut [u8], start: usize, end: usize) -> usize {
        let mut stale = 0;
        for at in (start..end).step_by(PAGE) {
            let page = &mut memory[at..at + PAGE];
            // Beyond the image memory starts out as zeros.
            let first = self.image.get(at..at + PAGE).unwrap_or(&ZEROS);
            if page != first {
                page.copy_from_slice(first);
                stale += 1;
            }
        }
        stale
    }

    /// Where pages begin and end that are this process's own, in contrast to those of the image and of zeros, wherever
    /// they are at the moment.
    fn own_pages(&self, memory: &[u8]) -> io::Result<Vec<(usize, usize)>> {
        let base = memory.as_ptr().addr();
        let end = base + memory.len();
        let mut found = Vec::new();
        let mut from = base;
        while from < end {
            let mut regions = [Region::default(); 64];
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: from as u64,
                end: end as u64,
                vec: regions.as_mut_ptr().expose_provenance() as u64,
                vec_len: regions.len() as u64,
                category_inverted: IS_FILE | IS_ZERO,
                category_mask: IS_FILE | IS_ZERO,
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
                ..Scan::default()
            };
            // SAFETY: the structure is the kernel's, and it names room for as many regions as it says. Nothing is
            // changed but these two.
            #[expect(unsafe_code, reason = "no crate has this call")]
            let count = unsafe { pagemap_scan(self.pagemap.as_raw_fd(), &raw mut scan) }?;
            let count = usize::try_from(count).unwrap_or(0).min(regions.len());
            found
                .extend(regions[..count].iter().map(|it| (it.start as usize - base, it.end as usize - base)));
            let walked = scan.walk_end as usize;
            if walked <= from {
                return Err(io::Error::other("the kernel does not get on"));
            }
            from = walked;
        }
        Ok(found)
    }
}

/// Gives pages back to the kernel, which restores what was mapped there: for the memory of a sandbox, its image.
pub(crate) fn give_back(memory: &mut [u8]) -> io::Result<()> {
    let start = NonNull::from(&mut *memory).cast();
    // SAFETY: the memory begins and ends with a page and belongs to a sandbox that does not run. It holds bytes of which
    // all values are valid, nobody else looks at them, and Wasmtime does the same with it between two sandboxes.
    #[expect(unsafe_code, reason = "what the kernel may drop is for the caller to know")]
    let given = unsafe { madvise(start, memory.len(), MmapAdvise::MADV_DONTNEED) };
    Ok(given?)
}

/// What an earlier run may have kept in a slot behind the memory that is there now. It cannot be compared while the memory
/// is so small, so it is given back before the memory grows over it.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    memory: usize,
    kept: usize,
}

impl Behind {
    /// Of a memory in a slot that has kept up to so many bytes.
    pub(crate) fn new(memory: &mut [u8], kept: usize) -> Self {
        Self { memory: memory.as_mut_ptr().expose_provenance(), kept }
    }

    /// To be called before the memory grows, as long as it exists.
    pub(crate) fn give_back(&self, from: usize, to: usize) -> io::Result<()> {
        let to = to.min(self.kept);
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(self.memory + from));
        let Some(start) = start.filter(|_| from < to) else { return Ok(()) };
        // SAFETY: a memory of so many bytes was in a slot of the same size, and nobody has yet what is behind this one.
        #[expect(unsafe_code, reason = "what is behind a memory is for the caller to know")]
        let given = unsafe { madvise(start, to - from, MmapAdvise::MADV_DONTNEED) };
        Ok(given?)
    }
}

// Of the kernel's include/uapi/linux/fs.h; see its admin-guide/mm/pagemap.rst.

nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
/// In swap space, or on its way to another place.
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;

#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[cfg(test)]
mod tests {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    /// Fresh memory of the kernel's, as a sandbox has beyond its image.
    struct Mapped(NonNull<std::ffi::c_void>, usize);

    impl Mapped {
        fn new(pages: usize) -> Self {
            let len = (pages * PAGE).try_into().unwrap();
            let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
            // SAFETY: a new mapping, wherever the kernel likes.
            #[expect(unsafe_code, reason = "memory whose pages nobody has touched")]
            let start = unsafe { mmap_anonymous(None, len, protection, flags) }.unwrap();
            Self(start, pages * PAGE)
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: it was mapped with this length, and is borrowed as long as the slice.
            #[expect(unsafe_code, reason = "the mapping as bytes")]
            unsafe {
                std::slice::from_raw_parts_mut(self.0.as_ptr().cast(), self.1)
            }
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // SAFETY: nobody borrows it any more.
            #[expect(unsafe_code, reason = "the end of the mapping")]
            let _ = unsafe { munmap(self.0, self.1) };
        }
    }

    fn freshness(image: Vec<u8>) -> Option<Freshness> {
        let fast = ResetPath::of_this_machine() == ResetPath::PagemapScan;
        fast.then(|| Freshness::new(image.into()).unwrap())
    }

    #[test]
    fn only_pages_of_ones_own_are_found_and_all_of_them() {
        let Some(freshness) = freshness(Vec::new()) else { return };
        let mut memory = Mapped::new(400);
        let bytes = memory.bytes();
        assert_eq!(bytes[7 * PAGE], 0, "reading makes no page");
        assert!(freshness.own_pages(bytes).unwrap().is_empty());
        // More stretches than fit into one answer.
        for page in (0..400).step_by(2) {
            bytes[page * PAGE] = 1;
        }
        let found = freshness.own_pages(bytes).unwrap();
        assert!(found.iter().copied().eq((0..400).step_by(2).map(|page| (page * PAGE, (page + 1) * PAGE))));
    }

    #[test]
    fn what_differs_is_restored_within_the_image_and_beyond() {
        let image: Vec<u8> = (0..3 * PAGE).map(|at| (at / PAGE + 1) as u8).collect();
        let Some(freshness) = freshness(image.clone()) else { return };
        let mut memory = Mapped::new(6);
        let bytes = memory.bytes();
        bytes[..3 * PAGE].copy_from_slice(&image);
        bytes[PAGE + 9] = 77;
        bytes[4 * PAGE + 9] = 77;
        freshness.ensure(bytes).unwrap();
        assert!(bytes[..3 * PAGE] == image && bytes[3 * PAGE..].iter().all(|byte| *byte == 0));
        assert_eq!(freshness.restore(bytes, 0, 6 * PAGE), 0, "nothing is left to do");
    }

    #[test]
    fn what_a_memory_grows_over_is_given_back_as_far_as_it_was_kept() {
        let mut slot = Mapped::new(6);
        let bytes = slot.bytes();
        bytes.fill(77);
        let behind = Behind::new(&mut bytes[..PAGE], 4 * PAGE);
        behind.give_back(2 * PAGE, 3 * PAGE).unwrap();
        behind.give_back(3 * PAGE, 6 * PAGE).unwrap();
        behind.give_back(5 * PAGE, 6 * PAGE).unwrap();
        let stale: Vec<_> = bytes.chunks(PAGE).map(|page| page.iter().any(|byte| *byte != 0)).collect();
        assert_eq!(stale, [true, true, false, false, true, true]);
    }

    #[test]
    fn without_names_of_pages_none_is_kept() {
        let freshness = Freshness { pagemap: File::open("/dev/null").unwrap(), image: Arc::new([]) };
        let mut memory = Mapped::new(2);
        memory.bytes()[PAGE] = 77;
        freshness.ensure(memory.bytes()).unwrap();
        assert!(memory.bytes().iter().all(|byte| *byte == 0));
    }
}
