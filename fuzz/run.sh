#!/usr/bin/env bash
# Fuzzes each target for a bounded time: fuzz/run.sh SECONDS [TARGET…]. Fails on a finding and says where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
if [ $# -gt 0 ]; then targets=("$@"); else targets=(boundary lambda corruption); fi

RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/instrument.sh" cargo build --locked -p chatfn-fuzz --features run

findings=target/fuzz/findings
mkdir -p "$findings"
started=$(mktemp)
trap 'rm -f "$started"' EXIT
failed=()
for target in "${targets[@]}"; do
    echo "fuzz: $target for $seconds s"
    # What is found goes to the first folder; the second, in the repository, is only read.
    mkdir -p "target/fuzz/$target"
    log=target/fuzz/$target.log
    options=(-max_total_time="$seconds" -max_len=4096 -timeout=120 -rss_limit_mb=4096 -print_final_stats=1
        -artifact_prefix="$findings/$target-")
    if [ -f "fuzz/$target.dict" ]; then options+=(-dict="fuzz/$target.dict"); fi
    if "target/debug/fuzz-$target" "${options[@]}" "target/fuzz/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
        grep -E '^(stat::number_of_executed_units|stat::peak_rss_mb)|cov: .*DONE|DONE .*cov:' "$log" || true
    else
        failed+=("$target")
        grep -vE '^#[0-9]+' "$log" | tail -n 40
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: found something in ${failed[*]}; the inputs:"
    find "$findings" -type f -newer "$started"
    echo "fuzz: run one again with target/debug/fuzz-TARGET FILE"
    exit 1
fi
echo "fuzz: nothing found"
