"""The identity of a run: `manifest.json` and `config.json`."""

import datetime
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from fmd_jax.records.files import write_atomic
from fmd_jax.records.schema import SCHEMA_VERSION

PACKAGES = (
  "fmd_jax",
  "jax",
  "jaxlib",
  "libtpu",
  "flax",
  "optax",
  "orbax-checkpoint",
  "numpy",
  "pandas",
  "pyarrow",
  "tokenizers",
  "transformers",
  "torch",
  "vllm",
  "sentence-transformers",
  "grpcio",
)
_MISSING = object()


class WorkdirError(ValueError):
  """The workdir holds something else than what is to be written there."""


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config as JSON gives it back: tuples are lists."""
  return json.loads(json.dumps(config))


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  if isinstance(tree, dict) and tree:
    for key in sorted(tree):
      yield from _leaves(tree[key], f"{path}.{key}" if path else key)
  else:
    yield path, tree


def check_config(
  workdir: epath.PathLike, config: Mapping[str, Any], may_differ: Sequence[str] = ()
) -> bool:
  """Whether the workdir already holds a run of this config.

  Args:
    workdir: of the run.
    config: the resolved config as nested dicts.
    may_differ: dotted keys that a resumed run may change.

  Returns:
    True to resume, False for a workdir without a run.

  Raises:
    WorkdirError: it holds a run of another config; one line with the first keys
      that differ and the cure.
  """
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    return False
  other = differences(json.loads(path.read_text()), config, may_differ)
  if other:
    raise WorkdirError(
      f"{workdir} holds a run of another config: {other}. "
      "Choose another --workdir, or delete this one to start again."
    )
  return True


def differences(
  there: Mapping[str, Any], here: Mapping[str, Any], may_differ: Sequence[str] = ()
) -> str:
  """Which keys of two nested dicts differ, the first three with their values.

  Args:
    there: as JSON gave it back.
    here: may hold tuples.
    may_differ: dotted keys that are not compared.

  Returns:
    "key is 1 there and 2 here; …"; "" when none does.
  """
  there, here = dict(_leaves(there)), dict(_leaves(_plain(here)))
  differing = []
  for key in sorted(there.keys() | here.keys()):
    pair = [side.get(key, _MISSING) for side in (there, here)]
    # Compared as JSON: in Python 1 == True.
    if key not in may_differ and _show(pair[0]) != _show(pair[1]):
      differing.append(key)
  shown = "; ".join(
    f"{key} is {_show(there.get(key, _MISSING))} there and "
    f"{_show(here.get(key, _MISSING))} here"
    for key in differing[:3]
  )
  more = f" (and {len(differing) - 3} more keys)" if len(differing) > 3 else ""
  return shown + more


def _show(value: Any) -> str:
  return "absent" if value is _MISSING else json.dumps(value)


def _git() -> dict[str, Any]:
  """Commit and dirty flag of the checkout this package is in; None outside one."""
  package = pathlib.Path(__file__).resolve().parents[1]

  def git(*arguments: str) -> str | None:
    command = ["git", "-C", str(package), *arguments]
    try:
      done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
      return None
    return done.stdout.strip() if done.returncode == 0 else None

  root = git("rev-parse", "--show-toplevel")
  # A package installed in an environment inside some other project's checkout.
  if root is None or pathlib.Path(root).resolve() != package.parent:
    return {"git_commit": None, "git_dirty": None}
  status = git("status", "--porcelain")
  dirty = None if status is None else bool(status)
  return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": dirty}


def _packages() -> dict[str, str]:
  versions = {"python": sys.version.split()[0]}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def write_manifest(
  workdir: epath.PathLike,
  *,
  config: Mapping[str, Any],
  seeds: Mapping[str, int],
  models: Mapping[str, Any],
  prompts: Mapping[str, str],
  data: Mapping[str, Any] | None = None,
  argv: Sequence[str] | None = None,
  may_differ: Sequence[str] = (),
) -> dict[str, Any]:
  """Writes `manifest.json` and `config.json`, or adds a resume to the former.

  Args:
    workdir: of the run.
    config: the resolved config as nested dicts.
    seeds: every seed the run draws from, by name.
    models: role -> identity (name, revision), never an address.
    prompts: role -> version of its prompt.
    data: what the images are, and which were left out, by what they are for.
    argv: the command line; None takes this process's.
    may_differ: as in `check_config`.

  Returns:
    The manifest; its "run_id" stays the same over resumes.

  Raises:
    WorkdirError: as in `check_config`.
  """
  folder = epath.Path(workdir)
  resumed = check_config(folder, config, may_differ)
  start = {
    "started": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    "argv": list(sys.argv if argv is None else argv),
    **_git(),
    "packages": _packages(),
    "models": dict(models),
    "prompts": dict(prompts),
    "data": dict(data or {}),
  }
  path = folder / "manifest.json"
  if resumed and path.exists():
    manifest = json.loads(path.read_text())
    manifest["resumes"].append(start)
  else:
    manifest = {
      "run_id": uuid.uuid4().hex[:12],
      "schema_version": SCHEMA_VERSION,
      "seeds": dict(seeds),
      **start,
      "resumes": [],
    }
  manifest["config"] = _plain(config)
  # The manifest first: config.json is what marks a workdir as taken.
  write_atomic(path, _dump(manifest))
  write_atomic(folder / "config.json", _dump(manifest["config"]))
  return manifest


def _dump(tree: Any) -> bytes:
  return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()
