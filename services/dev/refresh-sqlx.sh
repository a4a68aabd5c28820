#!/usr/bin/env bash
# Writes the data by which sqlx checks queries without a database, from a private, freshly migrated
# Postgres, into the given folder. The folder is replaced only when every query checks.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$1

fresh=$PWD/target/sqlx
rm -rf "$fresh"
mkdir -p "$fresh"
# sqlx writes a query's data when its macro expands: an up-to-date crate would be skipped.
grep -rlE 'sqlx::query(_as|_scalar)?!|query(_as|_scalar)?!\(' --include='*.rs' services tests \
    | sed -E 's|/(src\|tests)/.*|/|' | sort -u | while read -r crate; do
    find "$crate/src" "$crate/tests" -maxdepth 1 -name '*.rs' -exec touch {} + 2>/dev/null || true
done
cargo run --quiet --locked -p chatfn-pg --bin chatfn-db -- private -- \
    env SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh" cargo check --quiet --locked --workspace --all-targets
rm -rf "$target"
mv "$fresh" "$target"
echo "sqlx: $(find "$target" -name '*.json' | wc -l) queries"
