#!/usr/bin/env bash
# Finds the failures of a tiny VLM, with nothing but this machine:
#   bash launch/quickstart.sh [--workdir DIR] [--config.seed=N] [--config.key=value]
set -euo pipefail
here="$PWD"
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

workdir=""
flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    --workdir=*) workdir="${1#*=}"; shift ;;
    --workdir)
      [ $# -gt 1 ] || { echo "--workdir needs a folder" >&2; exit 2; }
      workdir="$2"; shift 2 ;;
    -h | --help) sed -n '2,3s/^# //p' launch/quickstart.sh; exit 0 ;;
    *) flags+=("$1"); shift ;;
  esac
done
if [ -z "$workdir" ]; then
  workdir="$PWD/runs/quickstart-$(date +%Y%m%d-%H%M%S)"
elif [ "${workdir#/}" = "$workdir" ] && [ "${workdir#*://}" = "$workdir" ]; then
  workdir="$here/$workdir"  # relative to where the user stands
fi

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
"$PYTHON" -m launch.discover --config configs/quickstart.py --workdir "$workdir" \
  ${flags[@]+"${flags[@]}"}
