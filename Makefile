# Each target starts from nothing: it needs make, and Python 3.11 as python3.11, python3, python or PYTHON=...
# Where packages come from is pip's own matter (PIP_INDEX_URL, pip.conf).
STUDY ?= digits
PYTHON ?= python3.11 python3 python
BIN := .venv/bin
READY := .venv/.ready

READ := .venv-read
READERS ?= python3.13 python3.12 python3.11 python3.14 python3 python

.PHONY: study read test test-faults audit lab clean

study: $(READY)
	$(BIN)/python -m yolop run $(STUDY)

# The notebooks over committed records, without PyTorch: any Python from 3.11 to 3.14, a minute, some 350 MB.
read: $(READ)/.ready
	$(READ)/bin/python -m yolop verify $(STUDY)
	@echo "Read and rerun them: $(READ)/bin/jupyter lab, or $(READ)/bin/papermill, or $(READ)/bin/pytest --nbval-lax notebooks"

test: $(READY)
	$(call timed,lint,$(BIN)/ruff check .)
	$(call timed,tests,$(BIN)/python -m pytest)
	$(call timed,notebooks,$(BIN)/python -m pytest --nbval-lax --nbval-current-env notebooks)

test-faults: $(READY)
	$(call timed,faults,$(BIN)/python -m pytest -m faults tests/faults $(if $(TABLE),--faults-table $(TABLE)))

# Are holes known in the pinned versions? pip-audit asks PyPI, so this needs the network, and the answer changes from day to
# day: no part of `make test`. It lies in a folder of its own. Strict: a package that could not be looked up is a failure.
audit: $(BIN)/pip
	@test -x .venv/audit/bin/pip-audit || { $(BIN)/python -m venv .venv/audit && \
	    .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements.lock || { \
	    echo "Not passed: known holes are listed above. If there is an error instead, nothing was audited: it needs https://pypi.org" >&2; \
	    exit 1; }

lab: $(READY)
	$(BIN)/python -m jupyterlab

clean:
	rm -rf .venv $(READ) yolop.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Installed again only when the lock or the package's own description changed.
$(READY): requirements.lock pyproject.toml | $(BIN)/pip
	@echo "Installing requirements.lock into .venv: some minutes, once"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/pip:
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	        exec "$$python" -m venv --clear .venv; \
	    fi; \
	done; \
	echo "No Python 3.11 among: $(PYTHON). Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1

$(READ)/.ready: requirements-read.lock
	@for python in $(READERS); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	        "$$python" -m venv --clear $(READ) && break; \
	    fi; \
	done; \
	test -x $(READ)/bin/python || { echo "No Python 3.11 to 3.14 among: $(READERS). Install one, e.g. with uv \
(uv python install 3.13), conda (conda create -n yolop python=3.13) or pyenv (pyenv install 3.13), or say where it is: \
make read READERS=/path/to/python" >&2; exit 1; }
	@$(READ)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-read.lock
	@echo "$(CURDIR)" > "$$($(READ)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/yolop.pth"
	@touch $@

# $(call timed,name,command): the command, then how long it took; stops make where the command fails.
define timed
@echo "== $(1)"; start=$$(date +%s); $(2) || exit 1; echo "== $(1): $$(($$(date +%s) - start)) s"
endef
