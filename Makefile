# The commands a newcomer needs: hello, test, bench, lint, install. `make help` lists them.

SHELL := /bin/bash
CARGO ?= cargo
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
PREFIX ?= /usr/local
DESTDIR ?=

# The shim and the runtime are static and not relocated: one process per container, so every private page counts.
STATIC := LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=$(shell dirname "$$(gcc -print-file-name=libseccomp.a 2>/dev/null)") \
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static"

# Debian packages. Building needs gcc and libseccomp; the images that tests and `make hello` make need busybox-static.
PACKAGES_BUILD := gcc libc6-dev libseccomp-dev pkg-config
PACKAGES_HELLO := busybox-static
PACKAGES_TEST := busybox-static e2fsprogs containerd runc crun podman docker-registry apache2-utils openssl skopeo umoci docker.io docker-compose debootstrap tmux iproute2 nftables containernetworking-plugins procps postgresql-client redis-tools curl
PACKAGES_VM := busybox-static e2fsprogs qemu-system-x86
PACKAGES_BENCH := busybox-static containerd runc crun docker.io podman

.PHONY: help hello test clients bench lint install install-files uninstall deb deb-files build release shim-release packages-build packages-hello packages-test packages-bench packages-vm nextest test-vm

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# $(call packages,LIST): installs what is missing of a list of Debian packages.
define packages
	@missing=; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	  || { echo "could not install$$missing: install them by hand" >&2; exit 1; }; fi
endef

packages-build:
	$(call packages,$(PACKAGES_BUILD))
packages-hello: packages-build
	$(call packages,$(PACKAGES_HELLO))
packages-test: packages-build
	$(call packages,$(PACKAGES_TEST))
packages-vm: packages-build
	$(call packages,$(PACKAGES_VM))
packages-bench: packages-build
	$(call packages,$(PACKAGES_BENCH))

nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install cargo-nextest --locked

build: packages-build ## Build everything for development
	$(CARGO) build --workspace --bins

# The shim and the runtime are linked statically in a folder of their own and put beside the daemon.
shim-release: packages-build
	$(STATIC) $(CARGO) build --profile shim --target $(TRIPLE) -p containerd-shim-longshore-v1 -p longshore-runtime --bins
	@mkdir -p $(TARGET)/release
	install -m 0755 $(TARGET)/$(TRIPLE)/shim/containerd-shim-longshore-v1 $(TARGET)/$(TRIPLE)/shim/longshore-runtime $(TARGET)/release/

release: packages-build shim-release ## Build the release binaries into target/release
	$(CARGO) build --release -p longshored -p longshore -p longshore-snapshotter-plugin

hello: packages-hello shim-release ## Build, start a daemon of its own, and run a container from an image pulled from a registry
	$(CARGO) build --release -p longshored -p longshore -p longshore-tests
	@mkdir -p $(TARGET)/hello
	rustc --edition 2024 -O -C strip=symbols -C target-feature=+crt-static -o $(TARGET)/hello/hello tests/src/bin/longshore-hello.rs
	TARGET=$(TARGET) tests/hello.sh

# Libraries for the examples of docs/clients.md; without Python or Node their tests are skipped, and counted so.
clients: ## Fetch what the examples in Python and Node need
	@mkdir -p $(TARGET)/clients
	@[ -e $(TARGET)/clients/python/ready ] || ! command -v python3 >/dev/null || { echo "fetching Python's grpcio"; \
	  python3 -m venv $(TARGET)/clients/python && $(TARGET)/clients/python/bin/pip install -q -r docs/examples/python/requirements.txt && \
	  touch $(TARGET)/clients/python/ready; } || echo "Python's grpcio is not there: its example is not tested" >&2
	@[ -d $(TARGET)/clients/node_modules/@grpc/grpc-js ] || ! command -v npm >/dev/null || { echo "fetching Node's @grpc/grpc-js"; \
	  cp docs/examples/node/package.json $(TARGET)/clients/ && npm install --silent --no-audit --no-fund --prefix $(TARGET)/clients >/dev/null; } || \
	  echo "Node's @grpc/grpc-js is not there: its example is not tested" >&2

test: packages-test nextest clients ## Build and run every test, then check that nothing of ours is left on the host
	$(CARGO) build --workspace --bins
	@mkdir -p $(TARGET)/test
	$(TARGET)/debug/leakcheck before $(TARGET)/test/host-before
	$(CARGO) nextest run --workspace --no-fail-fast
	$(TARGET)/debug/leakcheck after $(TARGET)/test/host-before

# Their kernel and everything else in them are Debian packages, fetched into target/vm. FLAVOUR=v2, systemd, legacy, hybrid or power: one alone.
test-vm: packages-vm nextest ## Test what needs a pure cgroup v2 host, a booted systemd (on v1, v2 and hybrid) or a power cut, in small virtual machines
	$(CARGO) build --workspace --bins
	@mkdir -p $(TARGET)/vm
	$(CARGO) nextest list --workspace --list-type binaries-only --message-format json > $(TARGET)/vm/binaries.json
	$(CARGO) metadata --format-version 1 > $(TARGET)/vm/cargo.json
	$(TARGET)/debug/longshore-vm $(TARGET)/vm $(TARGET)/vm/binaries.json $(TARGET)/vm/cargo.json $(FLAVOUR)

bench: packages-bench shim-release ## Measure ourselves and every installed peer in one interleaved run
	$(CARGO) build --release -p longshored -p longshore -p longshore-tests
	$(TARGET)/release/longshore-bench

lint: packages-build ## Check format, clippy with warnings denied, and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check bans licenses sources

PROGRAMS := longshore longshored longshore-snapshotter containerd-shim-longshore-v1 longshore-runtime
BINDIR := $(PREFIX)/bin
SYSCONFDIR ?= /etc
PACKAGING := supervisor/packaging
# Where built programs are taken from; PAGES is where manual pages and completions are made.
BINARIES ?= $(TARGET)/release
PAGES := $(TARGET)/pages

install: release ## Install programs, systemd unit, manual pages and completions below PREFIX (/usr/local); DESTDIR is honoured
	$(CARGO) build --release -p longshore --bins
	@$(MAKE) --no-print-directory install-files

# What is built already.
install-files:
	rm -rf $(PAGES)
	$(BINARIES)/longshore-pages $(PAGES) $(BINARIES)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/tmpfiles.d $(DESTDIR)$(PREFIX)/lib/sysusers.d \
	  $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	  $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(SYSCONFDIR)/longshore
	install -m 0755 $(addprefix $(BINARIES)/,$(PROGRAMS)) $(DESTDIR)$(BINDIR)/
	sed 's|@BINDIR@|$(BINDIR)|' $(PACKAGING)/longshored.service.in > $(DESTDIR)$(PREFIX)/lib/systemd/system/longshored.service
	chmod 0644 $(DESTDIR)$(PREFIX)/lib/systemd/system/longshored.service
	install -m 0644 $(PACKAGING)/longshore.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/longshore.conf
	install -m 0644 $(PACKAGING)/longshore.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/longshore.conf
	install -m 0644 $(PAGES)/man1/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 0644 $(PAGES)/man8/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 0644 $(PAGES)/completions/longshore.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/longshore
	install -m 0644 $(PAGES)/completions/longshore.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_longshore
	install -m 0644 $(PAGES)/completions/longshore.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/longshore.fish
	@[ -e $(DESTDIR)$(SYSCONFDIR)/longshore/config.toml ] || install -m 0644 $(PACKAGING)/config.toml $(DESTDIR)$(SYSCONFDIR)/longshore/config.toml

uninstall: ## Remove what install installed; configuration, images and containers stay
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/lib/systemd/system/longshored.service \
	  $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/longshore.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/longshore.conf \
	  $(DESTDIR)$(PREFIX)/share/man/man1/longshore.1 $(DESTDIR)$(PREFIX)/share/man/man1/longshore-*.1 \
	  $(patsubst %,$(DESTDIR)$(PREFIX)/share/man/man8/%.8,$(filter-out longshore,$(PROGRAMS))) \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions/longshore $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_longshore \
	  $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/longshore.fish

deb: release ## Build a Debian package into target/deb
	$(CARGO) build --release -p longshore --bins
	@$(MAKE) --no-print-directory deb-files

# Of what is built already.
deb-files:
	rm -rf $(TARGET)/deb/stage
	@$(MAKE) --no-print-directory install-files DESTDIR=$(TARGET)/deb/stage PREFIX=/usr
	$(PACKAGING)/deb.sh $(TARGET)/deb/stage $(TARGET)/deb
	@rm -rf $(TARGET)/deb/stage
