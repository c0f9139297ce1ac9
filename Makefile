# `make` alone lists the commands.
.DEFAULT_GOAL := help
.PHONY: help setup repro show chat judge verify preflight repair docs test lint lock clean

venv := $(or $(TUNING_VENV),$(CURDIR)/.venv)
in_venv := PATH="$(venv)/bin:$$PATH" DVC_NO_ANALYTICS=1
# One more than cores, four at most: tests wait for processes that they start.
WORKERS := $(shell expr $$(nproc 2>/dev/null || echo 2) + 1)

# Values reach the recipes by the environment, as they were typed: neither make nor a shell reads them.
override ID := $(value ID)
override S := $(value S)
override A := $(value A)
override B := $(value B)
override NAME := $(value NAME)
export ID S A B NAME

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.* ## /\1\t/p' Makefile | expand -t 10

setup: ## create or repair .venv from requirements.lock (repro and test do it themselves)
	@./setup.sh

repro: setup ## fetch, prep, encode, train, score, eval, release: run what is out of date, then show what was gained
	@test -e data/scores/base.json || $(in_venv) dvc pull --quiet --remote shipped score@base || true
	@$(in_venv) python -m tools.upcoming metrics/timing.json
	@$(in_venv) dvc repro
	@$(in_venv) python -m tools.summary metrics/eval.json

show: setup ## one dialogue as the tokens that the model sees: make show ID=...
	@$(in_venv) python -m tools.show --prepared data/prepared \
		--tokenizer data/encoded/tokenizer -- "$$ID"

chat: setup ## a page to talk with base and fine-tuned model (needs gradio: pip install gradio==6.31.0)
	@$(in_venv) python -m tools.chat --base models/base --model models/finetuned

judge: setup ## a page to judge two sides' responses blind: make judge A=main B=workspace NAME=ann (needs gradio, too)
	@$(in_venv) python -m tools.judge $${NAME:+"--name=$$NAME"} -- "$${A:-base}" "$${B:-workspace}"

verify: setup ## take the fine-tuned model's receipt again, hashes and prompts as served; say what differs
	@$(in_venv) python -m tools.verify models/finetuned

preflight: setup ## would this run do what is meant? make preflight S='train.learning_rate=1e-4,3e-4'
	@set -f; $(in_venv) python -m tools.preflight --base models/base $${S:+-S $$S}

repair: setup ## mend what an interrupted dvc left behind
	@$(in_venv) python -m tools.repair

docs: setup ## make docs/parameters.md anew from params.yaml, its reader and dvc.yaml
	@$(in_venv) python -m tools.parameters --write docs/parameters.md

test: lint ## style, types, tests; with THOROUGH=1 the slowest ones, too
	@$(in_venv) pytest -m "$(if $(value THOROUGH),,not thorough)" -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--durations 20

lint: setup ## style and types
	@$(in_venv) ruff format --check
	@$(in_venv) ruff check
	@$(in_venv) mypy --num-workers auto stages tools tuning tests $(wildcard benchmarks)

lock: ## resolve the pins of pyproject.toml anew into requirements.lock
	@./setup.sh lock

clean: ## remove .venv and caches, never data, models or results
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find stages tools tuning tests $(wildcard benchmarks) -name __pycache__ -exec rm -rf {} +
