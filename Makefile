# govmm: every target is a thin call of Go tools; `make help` lists them.
export CGO_ENABLED = 0
GO       ?= go
PREFIX   ?= /usr/local
FUZZTIME ?= 30s
VERSION  := $(shell git describe --tags --always --abbrev=10 --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X github.com/govmm/govmm/runtime/version.Version=$(VERSION)
# CMD reaches the test host as it was typed: neither make nor a shell expands it on the way.
unexport CMD
export TESTHOST_CMD = $(value CMD)

.DEFAULT_GOAL := help
.PHONY: build run test engines soak conformance lint fuzz bench guestkernel install deb clean help testhost man

build: ## build bin/govmm-run and bin/govmm: static, with guest kernel and PID 1 inside
	@GO=$(GO) LDFLAGS='$(LDFLAGS)' scripts/build

run: build ## run a busybox container in a micro-VM and show where the time went
	@scripts/demo

test: build ## run every test; whole-VM tests run in the test host where this machine's KVM cannot run a guest kernel
	@GO=$(GO) scripts/test

lint: ## gofmt, go vet, staticcheck and the project's own rules
	@GO=$(GO) scripts/lint

engines: build ## drive podman, containerd and docker with runc and with govmm-run, and compare
	@GO=$(GO) scripts/engines

soak: build ## kill 300 containers and 30 of podman's in all states, and look for what is left
	@GO=$(GO) scripts/soak

conformance: build ## run SUITE (runtime-tools, runc-bats, check-config, podman-system) under runc and govmm-run, write docs/conformance.md
	@$(GO) run ./conformance -suite '$(SUITE)'

fuzz: ## run every fuzz target for FUZZTIME (default 30s) each
	@GO=$(GO) scripts/fuzz $(FUZZTIME)

bench: build ## count instructions and time from start to HELLO, or NET=1 what packets cost, beside QEMU, crun and runc
	@$(GO) run ./bench $(if $(NET),-net)

guestkernel: ## build the guest kernel from Debian's sources (cached by the hash of its inputs)
	@$(GO) run ./guestkernel/build

testhost: ## run CMD='...' (or a shell) in the test host: a Debian machine with real KVM under emulation
	@$(GO) run ./testhost $${TESTHOST_CMD:+-- "$$TESTHOST_CMD"}

man: ## write the man pages of both programs to build/man
	@GO=$(GO) VERSION='$(VERSION)' scripts/man

install: build man ## install programs, man pages, completions and engines' snippets below PREFIX (default /usr/local)
	@scripts/install '$(PREFIX)' '$(DESTDIR)'

deb: build man ## make a Debian package in build/
	@GO=$(GO) scripts/deb

clean: ## remove what was built in this tree (caches outside it stay)
	rm -rf bin build

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
