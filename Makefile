# `make` lists the targets. Every one works on a fresh clone with Go, git, a C compiler and make; those of the page want npm too.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BINARIES := \
	./services/gateway/cmd/gateway \
	./services/presence/cmd/presence \
	./services/lease/cmd/lease \
	./services/presence/cmd/replay \
	./scripts/cmd/up \
	./scripts/cmd/token \
	./scripts/cmd/rollcall \
	./scripts/cmd/bench

# The modules of go.work, as directories. Expanded in the recipes: only they pay for asking.
MODULES = $$(go list -m -f '{{.Dir}}')
PACKAGES = $$(go list -m -f '{{.Dir}}/...')

GOLANGCI_LINT := .tools/bin/golangci-lint
GOVULNCHECK := .tools/bin/govulncheck

UP_FLAGS ?= --gateways 2
BENCH_FLAGS ?=
REPLAY_FLAGS ?=
TEST_FLAGS ?=
# Per test binary; a hung test then shows every goroutine's stack.
TEST_TIMEOUT ?= 8m
# Per Fuzz function.
FUZZ_TIME ?= 10s
# How long faults go on, under how many agents, over 1 or 3 NATS servers. A seed repeats the faults of a run.
CHAOS_DURATION ?= 30m
CHAOS_AGENTS ?= 500
LOSSES_AGENTS ?= 1000
PAST_EVENTS ?= 2000000
CHAOS_NODES ?= 1
CHAOS_SEED ?=
# A mirror or a copy of the vulnerability database: an https:// or file:// address.
GOVULNDB ?=
# How long the database may take to answer, in seconds.
VULN_WAIT ?= 60
# 1: an unreachable database is a failure too.
VULN_REQUIRED ?=

.PHONY: help build up test e2e attack bench fuzz lint fmt tidy tidy-check vuln standalone ui ui-check ui-test ui-bench check tools clean chaos storm mutants replay hygiene losses past

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/{gateway,presence,lease,replay,up,token,rollcall,bench}
	@mkdir -p bin
	go build -trimpath -o bin/ $(BINARIES)

up: build ## build and start everything on this machine, with demo agents (UP_FLAGS)
	@exec bin/up $(UP_FLAGS)

test: ## all tests of all modules, race detector on (TEST_FLAGS, TEST_TIMEOUT)
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || { echo "make test: the race detector needs a C compiler, and there is no $$cc" >&2; exit 1; }
	@scripts/browser.sh
	CGO_ENABLED=1 go test -race -count=1 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) work

e2e: ## only the black-box tests over the real binaries
	CGO_ENABLED=1 go test -race -count=1 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./services/e2e/...

storm: ## 200 subscribers, 50,000 events, sockets cut and a gateway killed; minutes
	ROLLCALL_STORM=full go test -count=1 -timeout 30m -v -run '^TestStorm$$' $(TEST_FLAGS) ./services/e2e/...

# Without the race detector, which keeps what memory it ever used: this is where memory has to come back.
attack: ## the attack suite in full: 10,000 random frames, 5,000 half-open handshakes (ATTACK_SEED)
	ATTACK=full go test -count=1 -timeout 20m -v -run '^TestAttack' ./services/e2e/...

chaos: ## the fault suite (CHAOS_DURATION, CHAOS_AGENTS, CHAOS_NODES, CHAOS_SEED)
	CHAOS_DURATION=$(CHAOS_DURATION) CHAOS_AGENTS=$(CHAOS_AGENTS) CHAOS_NODES=$(CHAOS_NODES) CHAOS_SEED=$(CHAOS_SEED) \
		go test -count=1 -timeout 0 -run '^TestChaos$$' -v ./services/e2e

hygiene: ## 1,000 agents connect and vanish while presence and gateways are killed; no consumer may be left over
	HYGIENE=full go test -count=1 -timeout 20m -run '^TestConsumersDoNotLeak$$' -v ./services/e2e

losses: ## kill -9 of a gateway, and of presence beside it, with LOSSES_AGENTS agents: how late the last one is offline
	ROLLCALL_E2E_FLEET=$(LOSSES_AGENTS) go test -count=1 -timeout 20m -run '^Test(GatewayKilled|PresenceKilledDuringALoss|LeaderKilled)$$' -v ./services/e2e

past: ## questions about times far back in PAST_EVENTS events of 10,000 agents: how long each takes, and a publish beside one; minutes
	ROLLCALL_PAST_EVENTS=$(PAST_EVENTS) go test -count=1 -timeout 30m -run '^(TestPastOfALargeFleet|TestPublishingBesideThePast)$$' -v ./services/gateway

mutants: ## builds that each break one rule on purpose; the check of the fault suite must find every one
	MUTANTS=all go test -count=1 -run '^TestMutants$$' -v ./services/e2e

bench: build ## the benchmarks (BENCH_FLAGS)
	@exec bin/bench $(BENCH_FLAGS)

replay: build ## PRESENCE made again from EVENTS and compared: after a disaster (REPLAY_FLAGS)
	@exec bin/replay $(REPLAY_FLAGS)

fuzz: ## every Fuzz function for FUZZ_TIME each
	@set -eo pipefail; grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' subjects shared services scripts | sort | \
	while IFS=: read -r file func; do \
		echo "== $${func#func } in $$(dirname "$$file")"; \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZ_TIME) "./$$(dirname "$$file")"; \
	done

lint: ## golangci-lint over all modules
	@scripts/tools.sh golangci-lint
	@$(GOLANGCI_LINT) config verify
	@set -e; packages="$(PACKAGES)"; $(GOLANGCI_LINT) run $$packages

fmt: ## gofumpt and goimports over all modules
	@scripts/tools.sh golangci-lint
	@set -e; dirs="$(MODULES)"; $(GOLANGCI_LINT) fmt $$dirs

tidy: ## go mod tidy in every module
	@set -e; dirs="$(MODULES)"; for dir in $$dirs; do echo "tidy $${dir#$(CURDIR)/}"; (cd "$$dir" && GOWORK=off go mod tidy); done

tidy-check: ## fail if tidy would change a go.mod or go.sum
	@set -e; dirs="$(MODULES)"; for dir in $$dirs; do echo "tidy -diff $${dir#$(CURDIR)/}"; (cd "$$dir" && GOWORK=off go mod tidy -diff); done

# The database is asked first with a scan that needs nothing else, so that `unreachable` is never mistaken for
# `nothing found`, and a finding or a broken build never for `unreachable`. Where vuln.go.dev cannot be reached a copy
# is made from the module proxy. Without a network the scan is skipped and says so, unless GOVULNDB names a database
# or VULN_REQUIRED=1. What is scanned is what go.work's toolchain builds, whichever is installed here.
vuln: ## govulncheck over all modules (GOVULNDB, VULN_REQUIRED)
	@scripts/tools.sh govulncheck
	@set -e; db="$(or $(GOVULNDB),https://vuln.go.dev)"; limit=""; rc=0; \
	if command -v timeout >/dev/null; then limit="timeout $(VULN_WAIT)"; fi; \
	scan() { $$limit $(GOVULNCHECK) -C subjects -db "$$db" -scan module 2>&1; }; \
	said=$$(scan) || rc=$$?; \
	case "$$rc:$$said" in 124:*|*"fetching vulnerabilities"*) \
		if [ -z "$(GOVULNDB)" ] && copy=$$(scripts/vulndb.sh); then db="$$copy" rc=0; said=$$(scan) || rc=$$?; fi ;; \
	esac; \
	case "$$rc:$$said" in \
	0:*|3:*) \
		patched=$$(sed -n 's/^toolchain //p' go.work); here=$$(go env GOVERSION); \
		if GOTOOLCHAIN=$$patched go version >/dev/null 2>&1; then export GOTOOLCHAIN=$$patched; \
		else echo "govulncheck: $$patched cannot be fetched; scanning what $$here builds"; fi; \
		[ "$$here" = "$$(go env GOVERSION)" ] || echo "govulncheck: NB: this machine builds with $$here (GOTOOLCHAIN), which lacks fixes of $$patched"; \
		echo "govulncheck: $$db, $$(go env GOVERSION)"; \
		dirs="$(MODULES)"; for dir in $$dirs; do \
			echo "govulncheck $${dir#$(CURDIR)/}"; \
			$(GOVULNCHECK) -C "$$dir" -db "$$db" -test ./...; \
		done ;; \
	124:*|*"fetching vulnerabilities"*) \
		echo "govulncheck: database unreachable, NOT checked ($$db)"; \
		echo "$$said" | tail -n 1; \
		[ -z "$(GOVULNDB)$(VULN_REQUIRED)" ] ;; \
	*) \
		echo "$$said" >&2; exit "$$rc" ;; \
	esac

standalone: ## build and vet every module by itself, without go.work
	@set -e; dirs="$(MODULES)"; for dir in $$dirs; do echo "standalone $${dir#$(CURDIR)/}"; (cd "$$dir" && GOWORK=off go build ./... && GOWORK=off go vet ./...); done

UI := services/gateway/ui

$(UI)/node_modules/.package-lock.json: $(UI)/package-lock.json
	npm ci --prefix $(UI) --no-audit --no-fund
	@touch $@

ui: $(UI)/node_modules/.package-lock.json ## build the gateway's page from its source (npm)
	node $(UI)/build.mjs $(UI)/dist

# Who has no npm changes nothing of the page; CI has it.
ui-check: ## the page: types, unit tests, and that the built page is that of its source
	@if ! command -v npm >/dev/null; then \
		echo "make ui-check: there is no npm, the page is NOT checked"; [ -z "$${CI:-}" ]; exit; \
	fi; \
	$(MAKE) --no-print-directory $(UI)/node_modules/.package-lock.json; \
	cd $(UI); npm run --silent types; npm run --silent test; node build.mjs .build/dist; \
	diff -r dist .build/dist || { echo "make ui-check: dist is not what src makes of it; run make ui" >&2; exit 1; }

ui-test: ## the tests in a browser in full: 2,000 agents, every page at three sizes (screenshots in bench-out/ui)
	@scripts/browser.sh
	ROLLCALL_UI_FULL=1 go test -count=1 -timeout 15m -v $(TEST_FLAGS) -run 'TestScreens' ./services/e2e

UI_BENCH_TIME ?= 1m

ui-bench: ## the page with 10,000 agents: first paint, frames and memory (UI_BENCH_TIME)
	@scripts/browser.sh
	ROLLCALL_UI_BENCH=$(UI_BENCH_TIME) go test -count=1 -timeout 30m -v -run 'TestScreensBench' ./services/e2e

check: ## everything CI runs, in its order
	+@set -e; for step in ui-check test lint vuln standalone tidy-check; do \
		echo "==> make $$step"; start=$$SECONDS; \
		$(MAKE) --no-print-directory "$$step"; \
		echo "<== make $$step took $$((SECONDS - start)) s"; \
	done

tools: ## install the pinned tools into .tools/bin
	@scripts/tools.sh

clean: ## remove what make built and installed
	rm -rf bin .tools .rollcall bench-out $(UI)/node_modules $(UI)/.build
