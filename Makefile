# Each target starts from nothing: it needs make, and Python 3.11 to 3.14 (python3.13, python3 ... or PYTHON=/path/to/python).
# Where packages come from is pip's own matter (PIP_INDEX_URL, pip.conf).
STUDY ?= digits
# What is computed is promised bit by bit for 3.11, which the records name; reading takes what is there.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3 python
VENV ?= .venv
BIN := $(VENV)/bin
READ := .venv-read
PIP := -m pip install --quiet --disable-pip-version-check
# TORCH=cpu takes PyTorch's own builds for Linux without 3 GB of CUDA libraries. Not the default: only the lock's are tried by our tests.
TORCH ?= cuda
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: study read site test test-faults audit lab lock clean

study: $(BIN)/.ready
	$(BIN)/python -m yolop run $(STUDY)

# The notebooks over committed records, without PyTorch: a minute, some 350 MB.
read: $(READ)/.ready
	$(READ)/bin/python -m yolop verify $(STUDY)
	@echo "Read and rerun them: $(READ)/bin/jupyter lab, or $(READ)/bin/papermill, or $(READ)/bin/pytest --nbval-lax notebooks"

# Reports and executed notebooks of all published studies as static pages, without PyTorch.
site: $(READ)/.ready
	$(READ)/bin/python -m yolop site

# Two processes of one thread each, a test file at a time; `pytest` alone runs one after another.
test: $(BIN)/.ready
	$(call timed,lint,$(BIN)/ruff check .)
	$(call timed,tests,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder)
	$(call timed,notebooks,$(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env notebooks)

test-faults: $(BIN)/.ready
	$(call timed,faults,$(BIN)/python -m pytest -m faults tests/faults $(if $(TABLE),--faults-table $(TABLE)))

# Are holes known in the pinned versions? pip-audit asks PyPI, so this needs the network, and the answer changes from day to
# day: no part of `make test`. It lies in a folder of its own. Strict: a package that could not be looked up is a failure.
audit: $(BIN)/python
	@test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && \
	    $(VENV)/audit/bin/python $(PIP) pip-audit==2.10.1; }
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements.lock || { \
	    echo "Not passed: known holes are listed above. If there is an error instead, nothing was audited: it needs https://pypi.org" >&2; \
	    exit 1; }

# As root, in a container: make lab LAB="--allow-root --ip=0.0.0.0"
lab: $(BIN)/.ready
	$(BIN)/python -m jupyterlab $(LAB)

# For maintainers, with uv: every package of pyproject.toml for every system and Python, with the hashes of all of its files.
LOCK := uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header --no-emit-index-url
lock:
	echo setuptools | $(LOCK) pyproject.toml - --all-extras -o requirements.lock
	printf 'nbval\npytest-timeout\n' | $(LOCK) pyproject.toml - --extra lab -c requirements.lock -o requirements-read.lock

clean:
	rm -rf $(VENV) $(READ) yolop.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The lock names every package, so pip looks up no dependencies: it would miss the hash of cuda-toolkit, which PyTorch asks for with
# extras. Installed again only when the lock or the package's own description changed.
$(BIN)/.ready: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing requirements.lock into $(VENV), PyTorch for $(TORCH): some minutes, once"
	@cp requirements.lock $(VENV)/requirements.lock
	@if [ $(TORCH) = cpu ]; then \
	    if $(BIN)/python $(PIP) --no-deps --retries 1 --timeout 15 --index-url $(TORCH_INDEX) $(call pinned,torch)+cpu $(call pinned,torchvision)+cpu; then \
	        awk '/^[a-z]/ { drop = /^(nvidia-[^m]|cuda-|triton)/ } !drop' requirements.lock > $(VENV)/requirements.lock; \
	    else echo "$(TORCH_INDEX) has no PyTorch for us (see above): taking the one of the lock, with CUDA, 4 GB more"; fi; fi
	@$(BIN)/python $(PIP) --no-deps --require-hashes -r $(VENV)/requirements.lock
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(READ)/.ready: requirements-read.lock | $(READ)/bin/python
	@$(READ)/bin/python $(PIP) --no-compile --no-deps --require-hashes -r requirements-read.lock
	@echo "$(CURDIR)" > "$$($(READ)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/yolop.pth"
	@touch $@

%/bin/python:
	@for python in $(PYTHON); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11, 5) <= sys.version_info[:3] < (3, 15))' 2>/dev/null; then \
	        exec "$$python" -m venv --clear $*; \
	    fi; \
	done; \
	echo "No Python 3.11.5 to 3.14 among: $(PYTHON). Get one by one of these lines, then make again:" >&2; \
	echo '  uv:     uv python install 3.11 && make $(MAKECMDGOALS) PYTHON="$$(uv python find 3.11)"' >&2; \
	echo '  conda:  conda create -n python3.11 python=3.11 && make $(MAKECMDGOALS) PYTHON="$$(conda run -n python3.11 which python)"' >&2; \
	echo '  pyenv:  pyenv install 3.11 && make $(MAKECMDGOALS) PYTHON="$$(pyenv prefix 3.11)/bin/python"' >&2; \
	echo 'or, without make: the three lines at the top of environment.yml' >&2; \
	exit 1

# $(call pinned,name): name==version, as the lock has it.
pinned = $(1)==$$(sed -n 's/^$(1)==\([0-9.]*\).*/\1/p' requirements.lock)

# $(call timed,name,command): the command, then how long it took; stops make where the command fails.
define timed
@echo "== $(1)"; start=$$(date +%s); $(2) || exit 1; echo "== $(1): $$(($$(date +%s) - start)) s"
endef
