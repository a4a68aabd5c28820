#!/bin/sh
# As RUSTC_WORKSPACE_WRAPPER: compiles our own crates with the coverage that libFuzzer looks at. What they depend on
# is compiled as ever, and shared with other builds.
case " $* " in
    *" build_script_"* | *"proc-macro"*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
