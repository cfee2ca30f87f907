# The two commands: `make serve` and `make test`. Both install what is missing and are idempotent.
BUILD := build/release
DEMO := models/demo
PORT ?= 8000
# CUDA=1 builds the CUDA backend in, CUDA=0 leaves it out; else it is in where the compiler of CUDA 13 is here,
# and a folder that has it keeps it. CUDA=1 installs the compiler from PyPI where there is none.
CUDA ?=
WITH_CUDA = $(if $(CUDA),$(CUDA),$(shell scripts/cuda_toolchain.sh --here >/dev/null 2>&1 && echo 1))
# A new folder is without the tests: a machine that only builds and serves has no GoogleTest. run_tests.sh
# turns them on.
CMAKE_FLAGS = -G Ninja -DCMAKE_BUILD_TYPE=Release \
  $(if $(wildcard $(BUILD)/build.ninja),,-DMOESAIC_TESTS=OFF) $(if $(WITH_CUDA),-DMOESAIC_CUDA=$(WITH_CUDA))

.PHONY: help setup build serve test test-sanitize test-threads test-cuda fuzz lint layers docs format clean

help:
	@echo "make serve          install what is missing, build, serve the demo model on port $(PORT)"
	@echo "make test           build and run every test"
	@echo "make build          build/release/moesaic only; with CUDA where its compiler is here, or with CUDA=1"
	@echo "make test-sanitize  the tests under AddressSanitizer and UBSan"
	@echo "make test-threads   the tests with threads, built with clang, under ThreadSanitizer"
	@echo "make test-cuda      compile the CUDA backend and run its tests, which need a card"
	@echo "make fuzz           every fuzzer for FUZZ_SECONDS (60), built with clang"
	@echo "make lint           clang-format, clang-tidy, clippy, ruff, the layers"
	@echo "make docs           rewrite docs/flags.md and docs/metrics.md from their tables"

setup:
	@scripts/setup.sh $(if $(filter 1,$(CUDA)),cuda,build)

build: setup
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) >/dev/null
	@ninja -C $(BUILD) moesaic
	@ln -sf src/cli/moesaic $(BUILD)/moesaic
	@echo "$(BUILD)/moesaic is $$($(BUILD)/moesaic --version)"
	@$(BUILD)/moesaic --version | grep -q CUDA || echo "'make build CUDA=1' builds CUDA in"

serve: build
	@$(BUILD)/moesaic serve $(DEMO) --host 127.0.0.1 --port $(PORT) --served-model-name demo

test:
	@scripts/setup.sh test
	@scripts/run_tests.sh $(BUILD) Release

test-sanitize:
	@scripts/setup.sh test
	@scripts/run_tests.sh build/sanitize Debug -DMOESAIC_SANITIZE=address,undefined

test-threads:
	@scripts/setup.sh lint
	@scripts/run_thread_tests.sh

test-cuda:
	@scripts/setup.sh test
	@scripts/run_cuda_tests.sh

fuzz:
	@scripts/setup.sh lint
	@scripts/run_fuzzers.sh

lint:
	@scripts/setup.sh lint
	@scripts/lint.sh

layers:
	@python3 scripts/check_layers.py

docs: build
	@$(BUILD)/moesaic docs flags > docs/flags.md
	@$(BUILD)/moesaic docs metrics > docs/metrics.md

format:
	@git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format-16 -i

clean:
	@rm -rf build .venv
