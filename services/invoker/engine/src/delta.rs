//! The difference between the memory of a prepared sandbox and the image that every sandbox starts from.

/// The pages of the kernels that matter here.
pub(crate) const PAGE: usize = 4096;
/// A cache line. The kernel copies memory on write in pages, but pages that were written stay with a slot,
/// so what a run pays for is the bytes that are copied.
const BLOCK: usize = 64;

/// What to copy over the image, and how large memory must be for it.
pub(crate) struct Delta {
    memory_bytes: usize,
    runs: Vec<Run>,
    data: Box<[u8]>,
}

/// Neighbouring blocks that differ.
struct Run {
    offset: usize,
    len: usize,
}

impl Delta {
    /// Compares memory with the image. Beyond the image memory starts out as zeros.
    ///
    /// Stops once more than `most` bytes differ: what it gives then is just larger than that, and of no use.
    pub(crate) fn between(image: &[u8], memory: &[u8], most: usize) -> Self {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let mut runs: Vec<Run> = Vec::new();
        let mut data = Vec::new();
        for (index, block) in memory.chunks(BLOCK).enumerate() {
            let offset = index * BLOCK;
            let before = image.get(offset..offset + block.len()).unwrap_or(&ZEROS[..block.len()]);
            if block == before {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.offset + run.len == offset => run.len += block.len(),
                _ => runs.push(Run { offset, len: block.len() }),
            }
            data.extend_from_slice(block);
            if data.len() > most {
                break;
            }
        }
        Self { memory_bytes: memory.len(), runs, data: data.into_boxed_slice() }
    }

    /// How large memory must be before [`apply`](Self::apply).
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// How many pages [`apply`](Self::apply) writes to.
    pub(crate) fn pages(&self) -> usize {
        let all = self.runs.iter().flat_map(|run| run.offset / PAGE..=(run.offset + run.len - 1) / PAGE);
        let mut pages: Vec<usize> = all.collect();
        pages.dedup();
        pages.len()
    }

    /// Copies the difference into a fresh memory.
    ///
    /// # Panics
    ///
    /// If memory is smaller than [`memory_bytes`](Self::memory_bytes).
    pub(crate) fn apply(&self, memory: &mut [u8]) {
        let mut data = &self.data[..];
        for run in &self.runs {
            let (head, rest) = data.split_at(run.len);
            memory[run.offset..run.offset + run.len].copy_from_slice(head);
            data = rest;
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.data.len() + self.runs.len() * size_of::<Run>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applying_a_difference_restores_the_memory() {
        let image: Vec<u8> = (0..4 * BLOCK).map(|i| (i % 251) as u8).collect();
        let mut memory = image.clone();
        memory[BLOCK + 7] = 1;
        memory[2 * BLOCK] = 2;
        memory.extend_from_slice(&[0; 2 * BLOCK]);
        memory[5 * BLOCK + 1] = 3;

        let delta = Delta::between(&image, &memory, usize::MAX);
        assert_eq!(delta.memory_bytes(), 6 * BLOCK);
        assert_eq!(delta.runs.len(), 2, "neighbouring blocks are one run, zero blocks are none");
        assert_eq!(delta.data.len(), 3 * BLOCK);
        assert_eq!(delta.pages(), 1);

        let mut fresh = image;
        fresh.resize(6 * BLOCK, 0);
        delta.apply(&mut fresh);
        assert!(fresh == memory);
    }

    #[test]
    fn no_more_is_copied_than_what_is_too_much() {
        let delta = Delta::between(&[], &vec![1; 100 * BLOCK], 2 * BLOCK);
        assert_eq!(delta.data.len(), 3 * BLOCK);
    }

    #[test]
    fn equal_memories_have_no_difference() {
        let image = vec![9; 3 * BLOCK];
        assert_eq!(Delta::between(&image, &image, 0).size_bytes(), 0);
    }
}
