# Sourced by quickstart.sh, test.sh and .ci/run: makes the shared .venv, once.
#
# Leaves the shell in the root of the repository, with $PYTHON the interpreter of
# .venv. Installs only when requirements.lock or setup.py have changed since the
# last time, so that a second call costs nothing. pip is used as the machine
# configures it.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
PYTHON="$PWD/.venv/bin/python"

# Nothing in this repository needs a model hub; say HF_HUB_OFFLINE=0 to use one.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"
export PYTHONUNBUFFERED=1

_find_python() {
  local name
  for name in python3 python3.11 python3.12 python3.13; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "fmd_jax needs Python 3.11 or newer as python3; found:" \
    "$(python3 --version 2>&1 || true)" >&2
  return 1
}

_stamp() {  # the place counts too: an editable install names its folder
  { echo "$PWD"; cat requirements.lock setup.py; } | cksum
}

_make_venv() {
  local python
  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    python="$(_find_python)" || return 1
    echo "Making .venv (once, a few minutes) ..." >&2
    "$python" -m venv --clear .venv || return 1
  fi
  rm -f .venv/fmd_jax.stamp
  echo "Installing requirements.lock into .venv ..." >&2
  # Compiling every module takes as long as the rest; Python compiles those in use.
  "$PYTHON" -m pip install -qq --disable-pip-version-check --no-compile \
    -r requirements.lock || return 1
  # Everything is pinned and present by now, so nothing is left to resolve or build.
  "$PYTHON" -m pip install -qq --disable-pip-version-check \
    --no-deps --no-build-isolation -e . || return 1
  _stamp > .venv/fmd_jax.stamp
}

_ready() { [ -x "$PYTHON" ] && [ "$(cat .venv/fmd_jax.stamp 2>/dev/null)" = "$(_stamp)" ]; }

if ! _ready; then
  # Two commands started together: the second waits, then finds it done.
  exec 9<launch/_env.sh
  if command -v flock >/dev/null; then flock 9; fi
  if ! _ready; then
    _make_venv || { echo "The environment could not be made; see above." >&2; exit 1; }
  fi
  exec 9<&-
fi
