# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := .tools/py/bin
CARGO := cargo
# The same for all targets: what one has built, the others need not.
BUILD := $(CARGO) build --locked --workspace --bins
FUZZ_SECONDS ?= 60
# A binary of its own, with failpoints, built of the same parts as all others.
BUILD_FAULTY := $(CARGO) build --locked --workspace --features chatfn-event-ingest/failpoints --bin chatfn-event-ingest-faulty
PROPTEST_CASES ?= 100000
CHATFN_DB := $(CARGO) run --quiet --locked -p chatfn-pg --bin chatfn-db --

ROLES ?= admin,developer,invocation
ACCOUNT ?= acme

.PHONY: help setup demo run dev-certs test test-upgrade rolling-restart dashboard-pictures faults lint lint-deploy fmt sqlx docs metrics-doc digests sbom cut-release fuzz bench-invoke bench-ingest bench-overload bench-registry tools

help: ## This list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | column -t -s "$$(printf '\t')"

setup: ## Installs, by package name, what the build needs and this machine lacks.
	@services/dev/setup.sh build

tools: setup ## Installs the tools of `make lint` and grpcurl into .tools/.
	@services/dev/setup.sh tools

demo: setup ## Shows the main job on a private Postgres, start to end.
	@echo "demo: building (minutes from cold, seconds later)"
	$(BUILD)
	target/debug/chatfn-dev demo

run: setup ## The whole cluster in the foreground, until Ctrl-C.
	$(BUILD)
	exec target/debug/chatfn-dev run

dev-certs: setup ## Certificates for `make run` with TLS, and a token for ACCOUNT (acme) with ROLES (all), in .data/certs.
	$(BUILD)
	@target/debug/chatfn-dev dev-certs --dir .data/certs --account $(ACCOUNT) --roles $(ROLES)

test: setup ## Every test, on a throw-away Postgres.
	@services/dev/setup.sh test
	$(BUILD)
	$(BUILD_FAULTY)
	PATH="$(PWD)/$(TOOLS):$$PATH" $(CHATFN_DB) private -- $(CARGO) nextest run --locked --workspace

test-upgrade: setup ## Runs the release REV (a tag or commit) on the schema of now.
	@services/dev/setup.sh test
	@services/dev/test-upgrade.sh $(REV)

rolling-restart: setup ## Replaces every process of a cluster under load, one after the other. The last line is JSON.
	$(BUILD)
	@$(CHATFN_DB) private -- $(CARGO) test --quiet --locked -p chatfn-tests --test it -- --nocapture rolling:: 2>&1 \
		| tee target/rolling-restart.log
	@grep '^{"acknowledged"' target/rolling-restart.log

dashboard-pictures: setup ## Draws what the dashboard shows of a cluster under load for a minute into docs/pictures.
	@services/dev/setup.sh pictures
	$(BUILD)
	PATH="$(PWD)/$(TOOLS):$$PATH" $(CHATFN_DB) private -- $(CARGO) test --quiet --locked -p chatfn-tests --test it -- \
		--ignored --exact monitoring::pictures::dashboard_pictures

faults: setup ## Kills, halts and cuts off real processes under load; FAULTS_SECONDS=7200 goes on for so long. The last line is JSON.
	@services/dev/setup.sh faults
	CHATFN_PROPTEST_CASES=$(PROPTEST_CASES) $(CARGO) test --quiet --locked -p chatfn-event-ingest --lib -- \
		dispatch::decide dispatch::queue dispatch::budget lanes::
	$(BUILD)
	$(BUILD_FAULTY)
	target/debug/chatfn-faults

lint: tools lint-deploy ## Format, clippy, contract, dependencies, manifests.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --workspace --all-targets --features chatfn-event-ingest/failpoints -- -D warnings
	mkdir -p target/contract
	$(CARGO) run --quiet --locked -p chatfn-proto --example descriptors > target/contract/contract.binpb
	$(TOOLS)/buf lint target/contract/contract.binpb --config proto/buf.yaml
	$(TOOLS)/cargo-deny --locked check bans licenses sources
	@$(TOOLS)/cargo-deny --locked check advisories 2>target/advisories.log \
		|| { grep -q 'failed to fetch advisory database' target/advisories.log \
			&& echo 'lint: advisories skipped: their database cannot be fetched from this network'; } \
		|| { cat target/advisories.log; exit 1; }
	$(TOOLS)/cargo-shear
	@services/dev/check-sqlx.sh

lint-deploy: tools ## The manifests of deploy/ as they are applied, and the image's recipe.
	@deploy/lint.sh

fmt: ## Formats the code.
	$(CARGO) fmt --all

sqlx: setup ## Refreshes .sqlx, the data by which queries are checked without a database.
	@services/dev/refresh-sqlx.sh .sqlx

docs: setup ## Writes the pages of docs/ that are made of the code: settings, errors, benchmarks, metrics.
	CHATFN_REFRESH_DOCS=1 CHATFN_WRITE_METRICS=1 $(CARGO) test --quiet --locked -p chatfn-dev --test docs --test metrics

digests: setup ## Records what the build makes of the sandbox's sources, after they have changed on purpose.
	CHATFN_REFRESH_DIGESTS=1 $(CARGO) test --quiet --locked -p chatfn-engine --lib made_of::
	@git diff --stat -- services/invoker/engine/engine.digests

metrics-doc: setup ## Writes docs/METRICS.md, from what the crates declare.
	CHATFN_WRITE_METRICS=1 $(CARGO) test --quiet --locked -p chatfn-dev --test metrics the_page_is_what_is_declared

cut-release: setup ## Keeps what the release RELEASE asks of the database, for the tests of later ones.
	CHATFN_CUT_RELEASE=$(RELEASE) $(CHATFN_DB) private -- \
		$(CARGO) test --quiet --locked -p chatfn-pg --test compat earlier_releases_work_on_the_schema_of_now

sbom: setup ## Bills of materials of the three programs and of the sandbox's npm packages, checked, in target/sbom.
	@services/dev/setup.sh sbom
	@services/dev/sbom.sh

fuzz: setup ## Fuzzes the sandbox's host, sources and memory for FUZZ_SECONDS (60) each; fails on a finding.
	@fuzz/run.sh $(FUZZ_SECONDS)

bench-invoke: setup ## Measures a run, in process and through gRPC. The last line is JSON.
	$(CARGO) bench --locked -p chatfn-invoker --bench invoke

bench-ingest: setup ## Measures the way of an event beside its limits, on a Postgres of its own. The last line is JSON.
	@services/dev/setup.sh bench
	$(CARGO) bench --locked -p chatfn-dev --bench ingest

bench-overload: setup ## Measures ten times too many calls, and cancelled ones, at an invoker. The last line is JSON.
	$(CARGO) bench --locked -p chatfn-invoker --bench overload

bench-registry: setup ## Measures look-ups, deploys until they are live, and watches. The last line is JSON.
	$(CHATFN_DB) private -- $(CARGO) bench --locked -p chatfn-dev --bench registry
