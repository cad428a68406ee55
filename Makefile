# Each target sets up .venv from the system's python3 first, if that is not done yet.
PYTHON := .venv/bin/python
DEMO := runs/demo
# Small networks gain nothing from a second thread, two processes do. By itself, xdist leaves the files with few tests for
# the end, which here are long ones: one process would wait.
TESTS := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.venv/installed: setup.cfg pyproject.toml
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable '.[test]'
	touch $@

.PHONY: demo browser test test-all readme lint docs benchmark

demo: .venv/installed  ## segment drawn street scenes by built-in weights, then learn to; ends with the path of a page that shows the result
	rm -rf $(DEMO)
	.venv/bin/dlaseg data synthesize $(DEMO)/data --train 200 --val 24 --size 192 256
	.venv/bin/dlaseg infer camvid $(DEMO)/data/leftImg8bit/val $(DEMO)/camvid
	.venv/bin/dlaseg train --config configs/synthetic_dla46_c.yaml --data.root $(DEMO)/data --output $(DEMO)/run
	.venv/bin/dlaseg eval $(DEMO)/run/best.safetensors --dataset cityscapes --root $(DEMO)/data --output $(DEMO)/scores
	.venv/bin/dlaseg infer $(DEMO)/run/best.safetensors $(DEMO)/data/leftImg8bit/val $(DEMO)/segmented
	@echo "Look at $(DEMO)/scores/report.html"

browser:  ## the page is tested in Chromium
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq --no-install-recommends -y chromium; } > /dev/null \
	|| { echo 'The tests of the page need Chromium: sudo apt-get install chromium'; exit 1; }

test: .venv/installed browser  ## the tests, six minutes on two cores, less on those with AVX-512
	$(TESTS)

test-all: .venv/installed browser  ## the longer proofs too
	$(TESTS) -m 'not readme'

readme: .venv/installed  ## the commands and the Python code of README.md and docs/, on small data
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest tests/test_readme.py -m readme

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/installed  ## site/index.html; a warning is an error
	$(PYTHON) -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

benchmark: .venv/installed  ## one training step against the plain way; wants a quiet machine
	$(PYTHON) benchmarks/training_step.py
