//! What an engine is told at start-up.

use std::path::PathBuf;

/// Settings of an [`Engine`](crate::Engine).
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How many lambdas may run at once. Further calls wait for a slot until their own deadline. Each takes two slots,
    /// one for small functions and one for large ones, which reserve about 8 GiB of address space together. Only touched
    /// pages take memory: idle ones keep up to 1 MiB and 4 MiB of what was run there.
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
