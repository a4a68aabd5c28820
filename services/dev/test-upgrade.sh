#!/usr/bin/env bash
# Runs the services of an earlier release on the schema of now: that is what a rolling upgrade does to them.
set -euo pipefail
cd "$(dirname "$0")/../.."
revision=${1:?say which release: make test-upgrade REV=<tag or commit>}

commit=$(git rev-parse --verify --quiet "$revision^{commit}") || {
    echo "test-upgrade: $revision is no commit of this repository" >&2
    exit 1
}
old=$PWD/target/upgrade/$commit
if [ ! -d "$old/tree" ]; then
    git worktree prune
    git worktree add --quiet --detach "$old/tree" "$commit"
fi
trap 'git worktree remove --force "$old/tree"' EXIT
echo "test-upgrade: building $revision (minutes from cold)"
(cd "$old/tree" && services/dev/setup.sh build &&
    cargo build --locked --workspace --bins --target-dir "$old/target")
cargo build --locked --workspace --bins
cargo run --quiet --locked -p chatfn-pg --bin chatfn-db -- private -- \
    env CHATFN_TEST_BINARIES="$old/target/debug" \
    cargo nextest run --locked --workspace -E 'package(chatfn-tests) and test(upgrade)'
