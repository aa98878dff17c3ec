# SPDX-License-Identifier: Apache-2.0
# Thin front end: the build is CMake's (CMakePresets.json), the work is in tools/. `make` lists the commands.
BUILD   ?= build
JOBS    ?= $(shell nproc)
KERNEL  ?= linux-image-cloud-amd64
MEMORY  ?= 512M
N       ?= 20
SECONDS_PER_FUZZER ?= 30
CONFIGURE = cmake --preset release -B $(BUILD) >/dev/null

.PHONY: help build run test test-long bench fuzz fuzz-targets coverage lint format deps soak-boot clean

help:  ## list these commands
	@echo "Rhea, a hypervisor for Linux. Commands (each installs the Debian packages it misses):"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

build:  ## release build; the program is then build/rhea
	@tools/deps.sh build
	@$(CONFIGURE)
	@cmake --build $(BUILD) -j $(JOBS) --target rhea

run: build  ## boot Debian's kernel to a shell in this terminal (KERNEL=, MEMORY=, ARGS=)
	@tools/deps.sh guest
	@kernel=$$(tools/guest/fetch_kernel.sh $(KERNEL)) && initrd=$$(tools/guest/make_initramfs.sh) && \
	  echo "$(BUILD)/rhea run --kernel $$kernel --initrd $$initrd --append console=ttyS0 --memory $(MEMORY) $(ARGS)" && \
	  exec $(BUILD)/rhea run --kernel "$$kernel" --initrd "$$initrd" --append "console=ttyS0" --memory $(MEMORY) $(ARGS)

test:  ## every test; the last line is "N passed, N failed, N skipped"
	@tools/deps.sh build test
	@tools/run_tests.py --build-dir $(BUILD)

test-long:  ## the tests at full depth (hours), then the boot soak
	@tools/deps.sh build test
	@tools/run_tests.py --build-dir $(BUILD) --long

bench: build  ## Rhea beside QEMU TCG and native, interleaved (ARGS=--help for its options)
	@tools/deps.sh bench
	@bench/run --rhea $(BUILD)/rhea $(ARGS); status=$$?; bench/network --rhea $(BUILD)/rhea || status=1; exit $$status

fuzz:  ## instructions against the host's processor with new seeds, until a difference (ARGS=--help)
	@tools/deps.sh build test
	@$(CONFIGURE)
	@cmake --build $(BUILD) -j $(JOBS) --target isa_conformance
	@tools/fuzz_instructions.py --program $(BUILD)/tests/isa/isa_conformance --jobs $(JOBS) $(ARGS)

fuzz-targets:  ## run every libFuzzer target, hostile guests among them, for SECONDS_PER_FUZZER seconds
	@tools/deps.sh build fuzz
	@tools/run_fuzzers.sh $(SECONDS_PER_FUZZER)

coverage:  ## lines of translator and instruction table that the tests run through
	@tools/deps.sh build test
	@tools/coverage.py $(ARGS)

lint:  ## formatting, clang-tidy, layers, sizes, documents
	@tools/deps.sh build test lint
	@tools/lint.sh

format:  ## format every source file in place
	@tools/deps.sh lint
	@git ls-files '*.h' '*.cpp' | xargs -r clang-format-19 -i

deps:  ## install all Debian packages that any command needs
	@tools/deps.sh all

soak-boot: build  ## boot N times (N=20) each of four Debian kernels on 1, 2 and 4 vCPUs, and N pairs of VMs of 2 at once
	@tools/deps.sh guest test
	@tools/soak_boot.py --boots $(N) --cpus 1,2,4 --pairs $(N) --pair-cpus 2 --rhea $(BUILD)/rhea $(ARGS)

clean:  ## remove the build directories (fetched kernels stay in .cache)
	rm -rf build build-debug build-asan build-tsan build-fuzz build-coverage
