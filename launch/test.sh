#!/usr/bin/env bash
# The tests: `bash launch/test.sh [pytest arguments]`.
#
# Without arguments the default set; `-m "slow or not slow"` runs everything. Two
# workers, each file on one of them; `-n 0` runs in this process (for --pdb).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

export JAX_PLATFORMS=cpu
# Two workers with a thread pool each per library would fight for the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -n "${FMD_TEST_WORKERS:-2}" --dist loadfile "$@"
