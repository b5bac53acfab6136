# `make` lists the targets.
KEELSON ?= keelson
# The server's plugin folder, and flags for keelson plugins swap.
PLUGINS ?= /var/lib/keelson/plugins.d
FLAGS   ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

node_modules: package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	touch node_modules

.PHONY: build
build: node_modules ## Get the modules

.PHONY: test
test: build ## Pass the tests
	node --test

.PHONY: verify
verify: build ## Hold the program to the contract as the kernel does
	$(KEELSON) plugins verify ./index.js

.PHONY: install
install: build ## Copy it into the server's plugin folder (root, on the server)
	mkdir -p $(PLUGINS)/NAME
	cp -r index.js keelson.js package.json proto node_modules $(PLUGINS)/NAME/

.PHONY: swap
swap: install ## Swap it in (root, on the server)
	$(KEELSON) plugins swap NAME --path $(PLUGINS)/NAME/index.js --accept --plugin-dir $(PLUGINS) $(FLAGS)
