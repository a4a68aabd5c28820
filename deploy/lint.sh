#!/usr/bin/env bash
# Checks what is deployed: every overlay as it is applied, and the image's recipe. Needs no cluster and no network.
# A check that is skipped has its reason beside it: checkov.io/skip annotations, an overlay's checkov.yaml.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/py/bin:$PATH"
out=target/deploy
rm -rf "$out"
mkdir -p "$out"

for overlay in deploy/overlays/*/; do
    name=$(basename "$overlay")
    rendered="$out/$name.yaml"
    kubectl kustomize "$overlay" >"$rendered"
    # It knows Kubernetes' own kinds, and warns of others. Of those, services/dev/tests/deploy checks cert-manager's and the
    # Prometheus operator's: there is no offline schema of either here.
    others='api version (cert-manager.io/v1|monitoring.coreos.com/v1) '
    kubernetes-validate --strict --quiet "$rendered" 2>&1 | tee "$out/$name.log" | { grep -vE "$others" || true; }
    if grep "Couldn't find schema" "$out/$name.log" | grep -qvE "$others"; then
        echo "lint-deploy: $overlay has kinds that nothing checks (above)" >&2
        exit 1
    fi
    skips=()
    if [ -e "$overlay/checkov.yaml" ]; then skips=(--config-file "$overlay/checkov.yaml"); fi
    checkov --file "$rendered" --framework kubernetes --skip-download --quiet --compact "${skips[@]}"
done

hadolint deploy/Dockerfile
checkov --file deploy/Dockerfile --framework dockerfile --skip-download --quiet --compact
echo "lint-deploy: ok"
