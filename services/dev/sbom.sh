#!/usr/bin/env bash
# Bills of materials of what is shipped, as CycloneDX JSON in target/sbom/: of each service's program, and of the npm packages that
# are in the sandbox of the invoker's. Fails unless they list what the lock files have.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/target/sbom
tools=$PWD/.tools
target=$(rustc -vV | sed -n 's/^host: //p')

rm -rf "$out"
mkdir -p "$out/copy"
# cargo-cyclonedx writes beside each manifest, so it gets a copy. No node_modules: nothing is built.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$out/copy" 2>/dev/null
bills() {
    (cd "$out/copy" && "$tools/cargo/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 "$@")
}
# QuickJS-NG is C in a package that is for no platform of ours (services/invoker/engine/Cargo.toml).
bills --target wasm32-wasip1
mv "$out/copy/services/invoker/engine/chatfn-engine.cdx.json" "$out/copy/engine.json"
bills --target "$target" --describe binaries
for service in registry event-ingest; do
    mv "$out/copy/services/$service/chatfn-${service}_bin.cdx.json" "$out/chatfn-$service.cdx.json"
done
jq --slurpfile engine "$out/copy/engine.json" \
    '.components += [$engine[0].components[] | select(.name == "rquickjs-sys")]' \
    "$out/copy/services/invoker/chatfn-invoker_bin.cdx.json" >"$out/chatfn-invoker.cdx.json"

# npm lists nothing of a package without a version.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
cd "$out/copy/services/invoker/guest"
for file in package.json package-lock.json; do
    jq --arg version "$version" '.version = $version | if .packages then .packages[""].version = $version else . end' \
        "$file" >versioned
    mv versioned "$file"
done
"$tools/npm/node_modules/.bin/npm" sbom --package-lock-only --sbom-format cyclonedx --sbom-type application \
    >"$out/guest.cdx.json"
cd - >/dev/null
rm -r "$out/copy"

python3 services/dev/check_sbom.py "$out" "$target"
