# `make` lists the targets.
KEELSON ?= keelson
# The server's plugin folder, and flags for keelson plugins swap and dev.
PLUGINS ?= /var/lib/keelson/plugins.d
FLAGS   ?=
export CGO_ENABLED = 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build NAME
	go build -o NAME .

.PHONY: test
test: ## Pass the tests, the contract's among them
	go test ./...

.PHONY: verify
verify: build ## Hold the program to the contract as the kernel does
	$(KEELSON) plugins verify ./NAME VERIFY

.PHONY: swap
swap: build ## Swap it in (root, on the server)
	$(KEELSON) plugins swap NAME --path ./NAME --accept --plugin-dir $(PLUGINS) $(FLAGS)

.PHONY: dev
dev: ## Swap it in on each change of the source, until Ctrl-C (root, on the server)
	$(KEELSON) plugins dev . --name NAME --plugin-dir $(PLUGINS) $(FLAGS)

.PHONY: apply
apply: build ## The same as swap, by a manifest: for who keeps manifests in Git (root, on the server)
	install -D NAME $(PLUGINS)/NAME
	sed "s|PATH|$(PLUGINS)/NAME|; s|CHECKSUM|$$(sha256sum NAME | cut -d' ' -f1)|" plugin.yaml | $(KEELSON) apply -f -
