# Everything sets itself up: on Debian or Raspberry Pi OS with python3 (>= 3.11, with venv), git and make.
# PYTHON=python3.12 picks another interpreter; PYTEST_ARGS="-k mqtt" narrows the tests.
SHELL := /bin/bash
PYTEST_ARGS ?=
TORTURE_ARGS ?=
DEV := .venv/dev/bin

.DEFAULT_GOAL := help
.PHONY: help demo test torture check bench bench-peers peers format lock clean venv-device venv-dev mosquitto

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: venv-device mosquitto ## prompts over MQTT and a button press become pictures in demo/
	@.venv/device/bin/python tools/demo.py

test: venv-dev venv-device mosquitto .venv/broker/.stamp ## all tests, with a real broker and real ONNX Runtime sessions
	@$(DEV)/python -m pytest -n 2 $(PYTEST_ARGS)

torture: venv-dev mosquitto ## kills, cut links, full disks, jumping clocks, floods, junk; TORTURE_ARGS="--seed 7 kills"
	@$(DEV)/python -m tests.torture $(TORTURE_ARGS)
	@TORTURE_EXAMPLES=2000 TORTURE_ROUNDS=100 $(DEV)/python -m pytest -q --timeout=1800 \
		tests/torture/test_fuzz.py tests/torture/test_startup.py

check: venv-dev ## style, types and import directions
	@$(DEV)/ruff check .
	@$(DEV)/ruff format --check .
	@$(DEV)/mypy
	@$(DEV)/lint-imports

peers: ## environments of what benchmarks compare with (OpenVINO, NNCF, stable-diffusion.cpp, ComfyUI)
	@tools/peers.sh

bench-peers: venv-dev ## Stable Diffusion 1.5, random weights: ours and what others run, in one run (an hour, 25 GB)
	@$(DEV)/python -m bench.peers

bench: venv-device mosquitto ## what a picture and the idle front cost here
	@.venv/device/bin/python bench/pictures.py
	@.venv/device/bin/python bench/idle_front.py
	@.venv/device/bin/python bench/latency.py
	@.venv/device/bin/python bench/writes.py

format: venv-dev ## let ruff put the style right
	@$(DEV)/ruff check --fix .
	@$(DEV)/ruff format .

lock: .venv/lock/.stamp ## pin the newest allowed dependencies in requirements/*.lock
	@.venv/lock/bin/python tools/lock.py

clean: ## remove virtual environments, caches and demo/
	rm -rf .venv demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv-device venv-dev: venv-%:
	@PYTHON=$(PYTHON) tools/venv.sh $*

mosquitto:
	@tools/need_mosquitto.sh

.venv/broker/.stamp: requirements/broker.lock
	@rm -rf .venv/broker
	@$(or $(PYTHON),python3) -m venv .venv/broker
	@.venv/broker/bin/python -m pip --disable-pip-version-check --quiet install -r requirements/broker.lock
	@touch $@

.venv/lock/.stamp: Makefile
	@rm -rf .venv/lock
	@$(or $(PYTHON),python3) -m venv .venv/lock
	@.venv/lock/bin/python -m pip --disable-pip-version-check --quiet install pip-tools==7.6.2
	@touch $@
