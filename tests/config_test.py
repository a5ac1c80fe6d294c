"""configs/: every key is read by somebody, and a mistyped one is refused."""

import ast
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import ml_collections
import pytest

from configs import ablations
from configs.paper import table1
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


def commands_of(text):
  """The indented commands of a docstring, each as one list of words."""
  text = re.sub(r"\\\n\s*", "", text)
  return [
    shlex.split(line)
    for line in text.splitlines()
    if re.match(r"\s+(python -m|bash) ", line)
  ]


def documented():
  """(config file, command) of every command in a config's docstring."""
  paths = sorted((ROOT / "configs").rglob("*.py"))
  return [
    (str(path.relative_to(ROOT)), command)
    for path in paths
    for command in commands_of(ast.get_docstring(ast.parse(path.read_text())) or "")
  ]


def test_a_command_over_two_lines_is_one():
  text = """Question: which?

    python -m launch.discover --config a.py \\
      --workdir DIR
    bash launch/quickstart.sh

  python -c pass is not indented enough? It is: two spaces and more are a command.
  """
  assert commands_of(text)[:2] == [
    ["python", "-m", "launch.discover", "--config", "a.py", "--workdir", "DIR"],
    ["bash", "launch/quickstart.sh"],
  ]


def test_every_documented_command_passes_its_dry_run(tmp_path):
  found = documented()
  assert {"configs/quickstart.py", "configs/paper/table7.py"} <= {p for p, _ in found}
  todo = []
  for path, command in found:
    if command[0] == "bash":
      assert (ROOT / command[1]).is_file(), path
      continue
    words = [str(tmp_path / "run") if word == "DIR" else word for word in command[2:]]
    todo.append([path, [*words, "--dry_run"]])
  # Planted: a command that can't pass shows that the others do.
  bad = ["launch.discover", "--config", "configs/paper/table1.py:method=grop"]
  todo.append(["planted", [*bad, "--workdir", str(tmp_path / "run"), "--dry_run"]])
  done = subprocess.run(
    [sys.executable, "-m", "tests.commands"],
    input=json.dumps([words for _, words in todo]),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  results = json.loads(done.stdout)
  code, said = results.pop()
  assert code != 0 and "no row 'method=grop'" in said
  for (path, words), (code, said) in zip(todo, results, strict=False):
    assert code == 0, (path, words, said)
    assert "Traceback" not in said
    # A dry run that says nothing of what it would do is none.
    assert "questions" in said, (path, words, said)
  assert not (tmp_path / "run").exists()


def every_row():
  """(module, row) of every row of every config with rows."""
  out = []
  for path in config_files():
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    rows = [""]
    if hasattr(module, "get_grid"):
      grids = [module.get_grid(world) for world in ("coco", "testbed")]
      paths = [path for grid in grids for path in grid["configs"].values()]
      rows = [path.partition(":")[2] for path in paths]
    elif hasattr(module, "ROWS"):
      rows = list(module.ROWS)
    out += [(module, row) for row in rows]
  return out


def test_every_row_of_every_config_builds_and_can_be_run():
  seen = set()
  for module, row in every_row():
    config = module.get_config(row) if row else module.get_config()
    discover.check(config.lock())
    seen.add((module.__name__.rpartition(".")[2], *config.methods))
  assert {("table1", method) for method in table1.METHODS} <= seen
  assert set(discover.METHODS) == set(table1.METHODS)


def test_rows_of_a_table_are_the_papers():
  for number in (1, 2, 4, 5, 6, 7):
    module = importlib.import_module(f"configs.paper.table{number}")
    for world in ("coco", "testbed"):
      grid = module.get_grid(world)
      # A number of the paper beside no row of ours would be lost silently.
      assert set(grid["paper"]) <= set(grid["configs"]), number
      assert len(set(grid["configs"].values())) == len(grid["configs"])


def test_rows_of_a_table_ask_as_much():
  for number in (1, 4, 5, 6, 7):
    module = importlib.import_module(f"configs.paper.table{number}")
    budgets = set()
    for path in module.get_grid("testbed")["configs"].values():
      c = module.get_config(path.partition(":")[2])
      per_step = c.images_per_step * c.group_size * c.questions_per_image
      budgets.add(c.steps * per_step)
    # Twice the questions find more, whoever asks them.
    assert len(budgets) == 1, number
