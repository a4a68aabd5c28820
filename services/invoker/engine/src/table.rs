//! Sees to it that no sandbox begins with the function table of whoever had its slot before.
//!
//! Wasmtime resets a table as it does memory, page by page, and overlooks the same pages (see `fresh`). What would stay
//! there are pointers into an instance that is gone, and nobody outside of Wasmtime knows where to compare them. So a run
//! takes an entry out of each page at its end, and none begins while one is missing.

use wasmtime::{AsContextMut, Ref, Table};

use crate::delta::PAGE;

/// As many entries has a page: Wasmtime writes each as a pointer.
const ENTRIES: u64 = (PAGE / size_of::<usize>()) as u64;

/// Whether a sandbox has the table that it has to begin with.
pub(crate) fn is_fresh(mut store: impl AsContextMut, table: Table) -> bool {
    // The guest names a function for each, and a table without that entry makes it again from the guest.
    marks(table.size(&store)).all(|at| matches!(table.get(&mut store, at), Some(Ref::Func(Some(_)))))
}

/// Marks the table of a sandbox that has run, for the next one to see whether it was reset.
pub(crate) fn mark(mut store: impl AsContextMut, table: Table) -> wasmtime::Result<()> {
    marks(table.size(&store)).try_for_each(|at| table.set(&mut store, at, Ref::Func(None)))
}

/// The last entry of each page. The first one of all is never a function.
fn marks(size: u64) -> impl Iterator<Item = u64> {
    (0..size.div_ceil(ENTRIES)).map(move |page| size.min((page + 1) * ENTRIES) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_mark() {
        assert_eq!(marks(532).collect::<Vec<_>>(), [511, 531]);
        assert_eq!(marks(512).collect::<Vec<_>>(), [511]);
        assert_eq!(marks(0).count(), 0);
    }
}
