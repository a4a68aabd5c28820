//! Rebuilds this crate, and so everything that checks queries against the schema, when a migration is
//! added or edited: `sqlx::migrate!` itself only notices edits of files that it has already seen.

fn main() {
    println!("cargo:rerun-if-changed=../../../migrations");
}
