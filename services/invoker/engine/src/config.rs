//! What an engine is told at start-up.

use std::path::PathBuf;

/// Settings of an [`Engine`](crate::Engine).
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How many lambdas may run at once. Further calls wait for a slot until their own deadline. Each slot
    /// reserves about 4 GiB of address space, of which only touched pages take memory.
    pub max_sandboxes: u32,
    /// How many sources may be prepared at once, in slots of their own. Further ones wait likewise.
    pub max_prepares: u32,
    /// The most memory in bytes that any call may ask for.
    pub max_memory_bytes: usize,
    /// Where the compiled engine is kept between starts; `None` compiles at each start (some seconds). The
    /// folder is made with mode 0700; one that others may write to is refused, since what it holds is run.
    pub cache_dir: Option<PathBuf>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_sandboxes: 1000, max_prepares: 8, max_memory_bytes: 256 << 20, cache_dir: None }
    }
}

/// How the memory of a finished sandbox is brought back to its first state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetPath {
    /// The kernel names the pages that were written (Linux 6.7 or later), and only these are restored.
    PagemapScan,
    /// All kept pages are restored. Slower for small lambdas.
    CopyKept,
}

impl ResetPath {
    /// A name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PagemapScan => "pagemap_scan",
            Self::CopyKept => "copy_kept",
        }
    }
}
