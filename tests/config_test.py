"""configs/: every key is read by somebody, and a mistyped one is refused."""

import ast
import importlib
import pathlib
import subprocess
import sys

import ml_collections
import pytest

from configs import ablations
from fmd_jax import discover, inference

ROOT = pathlib.Path(__file__).parents[1]
# There `config` is a model's own, not the run's.
NOT_SEARCHED = ("models", "questioner")
DICT_METHODS = (
  "items",
  "keys",
  "values",
  "to_dict",
  "get",
  "copy_and_resolve_references",
)


def leaves(config, prefix=()):
  """The dotted keys of a ConfigDict that hold values."""
  for key, value in config.items(preserve_field_references=True):
    if isinstance(value, ml_collections.ConfigDict) and len(value):
      yield from leaves(value, (*prefix, key))
    else:
      yield (*prefix, key)


def chain_of(node, aliases):
  """`config.optim.lr`, `config.optim["lr"]` -> ("optim", "lr"), () for `config`.

  None for an expression that starts elsewhere; `aliases` maps local names, as made
  by `optim = config.optim`, to chains.
  """
  if isinstance(node, ast.Name):
    return () if node.id == "config" else aliases.get(node.id)
  if isinstance(node, ast.Attribute) and node.attr == "config":
    return ()  # self.config, run.config
  if isinstance(node, ast.Attribute):
    base, step = chain_of(node.value, aliases), node.attr
  elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
    base, step = chain_of(node.value, aliases), node.slice.value
  else:
    return None
  return None if base is None else (*base, step)


def chains_read(text):
  """The chains a module reads: whole ones, so `config.a.b` does not read `config.a`."""
  tree = ast.parse(text)
  aliases, not_reads = {}, set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      chain = chain_of(node.value, aliases)
      if chain:
        aliases[node.targets[0].id] = chain
        not_reads.add(node.value)
  for node in ast.walk(tree):
    if isinstance(node, (ast.Attribute, ast.Subscript)):
      if chain_of(node, aliases) is not None:
        not_reads.add(node.value)  # the inner part of a longer chain
      if not isinstance(node.ctx, ast.Load):
        not_reads.add(node)
    elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
      not_reads.add(node)
  found = set()
  for node in ast.walk(tree):
    chain = chain_of(node, aliases)
    if chain and node not in not_reads:
      found.add(chain[:-1] if chain[-1] in DICT_METHODS else chain)
  return found


def unread(keys, chains):
  """Keys for which there is no chain that is the key, a parent taken whole, or more."""

  def reads(chain, key):
    shorter = min(len(chain), len(key))
    return bool(chain) and chain[:shorter] == key[:shorter]

  return [".".join(k) for k in keys if not any(reads(c, k) for c in chains)]


def all_chains():
  paths = [
    path
    for folder in ("fmd_jax", "launch")
    for path in (ROOT / folder).rglob("*.py")
    if not set(path.relative_to(ROOT).parts) & set(NOT_SEARCHED)
  ]
  return set().union(*(chains_read(path.read_text()) for path in paths))


def config_files():
  paths = (ROOT / "configs").rglob("*.py")
  return sorted(p.relative_to(ROOT) for p in paths if "def get_config" in p.read_text())


def test_every_key_of_base_is_read():
  base = importlib.import_module("configs.base").get_config()
  assert unread(leaves(base), all_chains()) == []


PLANTED = """
def f(config, other):
  optim = config.optim
  print(self.config.steps, optim.lr, config.reward["terms"], other.unread)
  for role in config.roles.keys():
    g(**config.sampler)
  config.written = 3
"""


def test_check_sees_a_key_that_nobody_reads():
  # A text search for the last name would take `other.unread` for a read, an alias
  # or `config.reward["terms"]` for one of all its neighbours, and a write for one.
  config = ml_collections.ConfigDict(
    {
      "steps": 1,
      "unread": 1,
      "written": 1,
      "optim": {"lr": 1.0, "warmup": 1},
      "reward": {"terms": ("a",), "lambda_scale": 1.0},
      "roles": {"answerer": "a"},
      "sampler": {"top_k": 1},
    }
  )
  found = unread(leaves(config), chains_read(PLANTED))
  assert sorted(found) == ["optim.warmup", "reward.lambda_scale", "unread", "written"]


@pytest.mark.parametrize("path", config_files(), ids=str)
def test_config_has_no_key_that_base_lacks(path):
  # A key added by one config file is a key that base.py does not explain.
  module = importlib.import_module(".".join(path.with_suffix("").parts))
  base = importlib.import_module("configs.base").get_config()
  assert set(leaves(module.get_config())) <= set(leaves(base))


def flat(name, *row):
  config = importlib.import_module(f"configs.{name}").get_config(*row)
  return {".".join(key): config[".".join(key)] for key in leaves(config)}


@pytest.mark.parametrize("row", ablations.ROWS)
def test_an_ablation_changes_one_thing(row):
  # Two changes at once, and nobody knows which one made the difference; none, and the
  # row is the default under another name.
  default, arm = flat("quickstart"), flat("ablations", row)
  assert default.keys() == arm.keys()
  changed = {key: arm[key] for key in default if arm[key] != default[key]}
  if row == "default":
    assert not changed and "zero_shot" in default["methods"]
    return
  assert changed.pop("methods") == ("grpo",)
  assert changed.items() <= ablations.ROWS[row].items()
  assert len(changed) == 1 or row == "paper"
  config = ablations.get_config(row)
  discover.check(config)
  inference.resolve(config.roles.verifier)


def test_the_paper_is_as_printed():
  # Whatever the quickstart's own settings become.
  printed = {
    "reward.terms": ("semantic", "lexical", "penalty"),
    "reward.lexical": "paper",
    "advantage.std_floor": 0.0,
    "advantage.credit": "response",
  }
  assert flat("ablations", "paper").items() >= printed.items()


def test_an_unknown_row_is_refused():
  with pytest.raises(ValueError, match="no row 'none'; there are: default, no_pen"):
    ablations.get_config("none")


def test_unknown_key_is_refused_in_one_line(tmp_path):
  # Wrong: the run starts and ignores the key, or the answer is a traceback.
  workdir = tmp_path / "run"
  command = [sys.executable, "-m", "launch.discover", f"--workdir={workdir}"]
  flags = ["--config=configs/quickstart.py", "--config.group_sise=3"]
  run = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
  assert run.returncode != 0
  assert "group_sise" in run.stderr.strip().splitlines()[-1]
  assert "Traceback" not in run.stderr
  assert not workdir.exists()
