# Thin: every target is a few calls of scripts. `make demo` needs nothing but a Debian 12 with Rust, and root.

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
ASSETS := $(abspath $(or $(VIRTFT_ASSETS),target/assets))

.PHONY: demo demo-ft shell test lint bench soak assets debian

# Three hosts, each with a virtftd: a VM that keeps its TCP connection while its hosts are killed, all through virsh.
demo: assets
	tests/lib/install-deps ft driver
	cargo build --locked --release --package virtft-emulator --package virtftd
	VIRTFT_EMULATOR=$(TARGET)/release/virtft-emulator tests/demo/virsh

# A shell in a guest, without root.
shell: assets
	cargo build --locked --release --package virtft-emulator
	$(TARGET)/release/virtft-emulator run --kernel $(ASSETS)/vmlinuz --initrd $(ASSETS)/busybox.cpio \
	    --append 'console=ttyS0' --memory 512M --serial stdio

# The same without libvirt: emulators alone.
demo-ft: assets
	tests/lib/install-deps ft
	cargo build --locked --release --package virtft-emulator
	VIRTFT_EMULATOR=$(TARGET)/release/virtft-emulator tests/demo/failover

test:
	tests/lib/install-deps build assets debian network replay ft driver
	tests/run

lint:
	tests/run --only format,lint

bench: assets
	tests/lib/install-deps bench debian network replay ft
	cargo build --locked --release --package virtft-emulator
	tests/bench/run
	tests/bench/recording
	tests/bench/pair
	tests/assets/build-debian
	VIRTFT_EMULATOR=$(TARGET)/release/virtft-emulator tests/bench/protection

# Tests drawn at random for MINUTES minutes.
MINUTES ?= 60
soak: assets
	tests/lib/install-deps debian network replay
	tests/assets/build-debian
	cargo build --locked --profile checked --workspace
	VIRTFT_EMULATOR=$(TARGET)/checked/virtft-emulator tests/soak/run --minutes $(MINUTES)

# Debian's kernel and the busybox root; with the Debian disk image too.
assets:
	tests/lib/install-deps build assets
	tests/assets/build-initrds

debian: assets
	tests/assets/build-debian
