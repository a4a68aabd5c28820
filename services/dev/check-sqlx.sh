#!/usr/bin/env bash
# Fails when .sqlx is not what the queries in the code and the migrations make of it.
set -euo pipefail
cd "$(dirname "$0")/../.."

services/dev/refresh-sqlx.sh target/sqlx-now
if ! diff -rq .sqlx target/sqlx-now; then
    echo "lint: .sqlx is out of date: run \`make sqlx\` and commit the result" >&2
    exit 1
fi
