# Keelson's own targets. `make help` lists them; scripts/ holds what they call.

BIN      := bin/keelson
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The Kubernetes release whose modules are in use, as kubectl's own build stamps it.
KUBE     := $(shell awk '$$1 == "k8s.io/api" {sub(/^v0/, "v1", $$2); print $$2}' go.mod)
KUBEVER  := k8s.io/component-base/version
LDFLAGS  := -s -w -X keelson.dev/keelson/core/version.build=$(VERSION) -X $(KUBEVER).gitVersion=$(KUBE)+keelson \
            -X $(KUBEVER).gitMajor=1 -X $(KUBEVER).gitMinor=$(word 2,$(subst ., ,$(KUBE))) -X $(KUBEVER).gitCommit=$(VERSION)
BUF      := go run github.com/bufbuild/buf/cmd/buf@v1.70.0
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s
export CGO_ENABLED = 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: setup build ## Set up this machine, start a cluster and the example application (root)
	scripts/up

.PHONY: setup
setup: ## Install what Keelson needs, with apt-get (root)
	scripts/setup

.PHONY: test-setup
test-setup: ## The same, and what the tests need besides: Node.js, npm and the modules of an example (root)
	scripts/setup test

.PHONY: build
build: ## Build bin/keelson
	go build -ldflags '$(LDFLAGS)' -o $(BIN) ./cli

.PHONY: test
test: test-setup build ## Set up this machine and pass all tests, end-to-end included (root)
	scripts/test all

.PHONY: unit
unit: ## Tests that need no root, with the race detector
	scripts/test unit

.PHONY: root-test
root-test: ## Tests of single parts on the real kernel (root)
	scripts/test root

.PHONY: e2e
e2e: build ## End-to-end tests with a cluster of their own (root)
	scripts/test e2e

.PHONY: images
images: ## Make the example's images in .cache/images
	test/example/images

.PHONY: soak
soak: ## The store's tests at length: hours of kills, damage, power cuts and churn (root; KEELSON_ROUNDS=N is shorter)
	scripts/test soak

.PHONY: bench
bench: ## Benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./core/... ./plugins/...

.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## go vet, golangci-lint, buf lint
	go vet ./...
	$(GOLANGCI) run ./...
	$(BUF) lint

.PHONY: generate
generate: ## Write the generated code anew
	scripts/generate

.PHONY: verify
verify: lint ## Lint, and fail where generated code or go.mod is out of date, or a contract broke
	scripts/verify

.PHONY: cover
cover: ## Statement coverage of the unit tests
	go test -vet=off -coverprofile=coverage.out ./... && go tool cover -func=coverage.out | tail -n 1

.PHONY: scale
scale: build ## Measure a cluster of 1,000 simulated nodes and 30,000 pods (root; some 10 minutes)
	BIN=$(CURDIR)/$(BIN) scripts/scale

.PHONY: clean
clean: ## Remove what builds made
	rm -rf bin .cache coverage.out
