# The two commands: `make serve` and `make test`. Both install what is missing and are idempotent.
BUILD := build/release
DEMO := models/demo
PORT ?= 8000
# Without the tests: a machine that only builds and serves has no GoogleTest. run_tests.sh turns them on.
CMAKE_FLAGS := -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=OFF
# CUDA=1 adds the CUDA backend, in a build folder of its own; the compiler comes from PyPI where none is here.
ifeq ($(CUDA),1)
BUILD := build/cuda
CMAKE_FLAGS += -DMOESAIC_CUDA=ON
endif

.PHONY: help setup build serve test test-sanitize test-threads fuzz lint layers docs format clean

help:
	@echo "make serve          install what is missing, build, serve the demo model on port $(PORT)"
	@echo "make test           build and run every test"
	@echo "make build          build/release/moesaic only"
	@echo "make test-sanitize  the tests under AddressSanitizer and UBSan"
	@echo "make test-threads   the tests with threads, built with clang, under ThreadSanitizer"
	@echo "make fuzz           every fuzzer for FUZZ_SECONDS (60), built with clang"
	@echo "make lint           clang-format, clang-tidy, clippy, ruff, the layers"
	@echo "make docs           rewrite docs/flags.md and docs/metrics.md from their tables"

setup:
	@scripts/setup.sh build

$(BUILD)/build.ninja:
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS)

build: setup $(BUILD)/build.ninja
	@ninja -C $(BUILD) moesaic
	@ln -sf src/cli/moesaic $(BUILD)/moesaic

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
