"""The rules of the house, enforced. A failure here is a design question, not lint.

Each rule is a function from source text to a list of complaints, applied to the
repository and, in the same file, to planted violations: a rule that cannot fail
is no rule.
"""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GENERATED = ("_pb2.py", "_pb2_grpc.py")


def sources(*folders):
  """The hand-written modules of the folders, as paths relative to ROOT."""
  return sorted(
    path.relative_to(ROOT)
    for folder in folders
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.endswith(GENERATED)
  )


# A module may import its own unit and units on a LOWER floor, nothing else:
# two units on one floor do not know of each other.
FLOORS = {
  unit: floor
  for floor, units in enumerate(
    (
      # The model says where its activations lie, so sharding is below it; it names no
      # parameter and imports nobody.
      "types prompts world sharding pixels hosts progress",
      "data models checkpoint optim inference rewards rl records stopping",
      "questioner answerer verifier evaluator metrics sidecar",
      "rollout update taxonomy monitor",
      "methods evaluate analysis",
      "testbed trust confirm replay report discover fit plan",
    )
  )
  for unit in units.split()
}
FLOORS["types"] = -1  # the nouns: floor 0 may use them too
JAX = ("jax", "jaxlib", "flax", "optax", "orbax", "chex")
HEAVY = (
  "torch",
  "transformers",
  "sentence_transformers",
  "vllm",
  "tensorflow",
  "tensorflow_datasets",
  "datasets",
  "google.genai",
  "openai",
  "bertopic",
  "umap",
  "hdbscan",
)
TRAINER = {
  *("models", "sharding", "checkpoint", "optim", "rl", "questioner", "rollout"),
  *("update", "methods", "evaluate", "testbed", "discover", "fit", "hosts", "stopping"),
}
JAX_FREE = set(FLOORS) - TRAINER
CONFIGS_MAY_IMPORT = ("ml_collections", "configs")
MAX_LINES = 400


def unit_of(path):
  """fmd_jax/rl/losses.py -> "rl"; "" outside fmd_jax and for its __init__."""
  parts = pathlib.Path(path).parts
  name = parts[1].removesuffix(".py") if parts[0] == "fmd_jax" else ""
  return "" if name == "__init__" else name


def dotted(path):
  return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def outside_functions(node):
  """Walks what runs at import: also `if`, `try`, `with` and class bodies."""
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
      yield child
      yield from outside_functions(child)


def type_checking_only(tree):
  """The nodes under `if TYPE_CHECKING:`, which never run."""
  for node in ast.walk(tree):
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
      for statement in node.body:
        yield from ast.walk(statement)


def imports(nodes):
  """Yields dotted names; `from fmd_jax import x` also yields `fmd_jax.x`."""
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield ("." * node.level) + (node.module or "")
      if not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name, packages):
  return any(name == p or name.startswith(p + ".") for p in packages)


# The rules: (path, text) -> complaints.


def breaks_floors(path, text):
  me, bad = unit_of(path), []
  for name in imports(ast.walk(ast.parse(text))):
    parts = name.split(".")
    if name.startswith("."):
      bad.append(f"relative import {name}")
    elif parts[0] == "launch" and path.parts[0] != "launch":
      bad.append("nobody imports launch")
    elif parts[0] in ("tests", "colab"):
      bad.append(f"nobody imports {parts[0]}")
    elif parts[0] == "configs" and path.parts[0] == "fmd_jax":
      bad.append("fmd_jax gets its config as an argument")
    elif parts[0] == "fmd_jax" and len(parts) > 1 and path.parts[0] == "fmd_jax":
      other = parts[1]
      if not me:
        bad.append(f"fmd_jax/__init__.py imports {name}")
      elif other != me and other not in FLOORS:
        bad.append(f"{name} is on no floor")
      elif other != me and FLOORS[other] >= FLOORS[me]:
        bad.append(f"{me} (floor {FLOORS[me]}) imports {name} ({FLOORS[other]})")
  if me and me not in FLOORS:
    bad.append(f"unit {me} is on no floor")
  return bad


def imports_heavy_at_import(path, text):
  tree = ast.parse(text)
  never_run = set(type_checking_only(tree))
  nodes = [n for n in outside_functions(tree) if n not in never_run]
  return [name for name in imports(nodes) if is_in(name, HEAVY)]


def breaks_dependency_sets(path, text):
  """Also inside functions: jax in a jax-free unit, torch & co. in a trainer unit."""
  me = unit_of(path)
  forbidden = JAX if me in JAX_FREE else HEAVY
  names = imports(ast.walk(ast.parse(text)))
  return [name for name in names if me and is_in(name, forbidden)]


def imports_in_config(path, text):
  names = imports(ast.walk(ast.parse(text)))
  bad = [n for n in names if not is_in(n, CONFIGS_MAY_IMPORT)]
  return bad if path.parts[0] == "configs" else []


def too_long(path, text):
  lines = text.count("\n")
  return [f"{lines} lines: split by noun"] if lines > MAX_LINES else []


def is_utils(path, text):
  names = {"utils", "util", "helpers", "common", "misc"}
  return [f"what is in {path.name}?"] if names & set(dotted(path).split(".")) else []


def reads_config_with_default(path, text):
  """`config.get(key, default)`: the default would live in two places."""
  bad = []
  for node in ast.walk(ast.parse(text)):
    if (
      isinstance(node, ast.Call)
      and isinstance(node.func, ast.Attribute)
      and node.func.attr == "get"
      and len(node.args) > 1
      and re.search(r"\b(config|cfg)\b", ast.unparse(node.func.value))
    ):
      bad.append(ast.unparse(node))
  return bad


def defines_flags(path, text):
  names = imports(ast.walk(ast.parse(text)))
  bad = [n for n in names if is_in(n, ("absl.flags", "argparse", "absl.app"))]
  return [] if path.parts[0] == "launch" else bad


RULES = (
  breaks_floors,
  imports_heavy_at_import,
  breaks_dependency_sets,
  imports_in_config,
  too_long,
  is_utils,
  reads_config_with_default,
  defines_flags,
)


@pytest.mark.parametrize("path", sources("fmd_jax", "configs", "launch"), ids=str)
def test_module_keeps_the_rules(path):
  text = (ROOT / path).read_text()
  complaints = {rule.__name__: rule(path, text) for rule in RULES}
  assert not {k: v for k, v in complaints.items() if v}


def test_no_test_module_is_too_long():
  found = {p: too_long(p, (ROOT / p).read_text()) for p in sources("tests")}
  assert not {str(k): v for k, v in found.items() if v}


PLANTED = {
  breaks_floors: [
    ("fmd_jax/rl/losses.py", "from fmd_jax.models import scoring"),
    ("fmd_jax/rl/losses.py", "from fmd_jax import rollout"),
    ("fmd_jax/rl/losses.py", "def f():\n  import fmd_jax.update"),
    ("fmd_jax/rl/losses.py", "from . import advantages"),
    ("fmd_jax/types.py", "from launch import discover"),
    ("fmd_jax/report/page.py", "from configs import base"),
    ("fmd_jax/report/page.py", "from tests import world"),
    ("fmd_jax/novelty.py", "import numpy"),
    ("fmd_jax/__init__.py", "from fmd_jax import models"),
    ("configs/base.py", "from launch import discover"),
  ],
  imports_heavy_at_import: [
    ("fmd_jax/inference/engines/hf.py", "import torch"),
    ("fmd_jax/sidecar/server.py", "try:\n  from google import genai\nexcept: pass"),
    ("launch/sidecar.py", "class A:\n  import transformers.models"),
  ],
  breaks_dependency_sets: [
    ("fmd_jax/methods/grpo.py", "def f():\n  import torch.nn"),
    ("fmd_jax/models/loading.py", "def f():\n  from transformers import AutoModel"),
    ("fmd_jax/metrics/rates.py", "def f():\n  import jax.numpy as jnp"),
    ("fmd_jax/sidecar/server.py", "from flax import nnx"),
  ],
  imports_in_config: [
    ("configs/paper/table1.py", "from fmd_jax import types"),
    ("configs/base.py", "import numpy as np"),
  ],
  too_long: [("fmd_jax/update.py", "x = 1\n" * (MAX_LINES + 1))],
  is_utils: [("fmd_jax/models/utils.py", ""), ("launch/helpers/a.py", "")],
  reads_config_with_default: [
    ("fmd_jax/discover.py", "def f(config):\n  return config.get('steps', 3)"),
    ("fmd_jax/discover.py", "def f(config):\n  return config.reward.get('x', 3)"),
  ],
  defines_flags: [("fmd_jax/discover.py", "from absl import flags")],
}


@pytest.mark.parametrize(
  ("rule", "path", "text"),
  [(rule, *case) for rule, cases in PLANTED.items() for case in cases],
  ids=lambda value: getattr(value, "__name__", None),
)
def test_rule_sees_the_planted_violation(rule, path, text):
  assert rule(pathlib.Path(path), text)


ALLOWED = [
  (breaks_floors, "fmd_jax/update.py", "from fmd_jax import rl\nimport fmd_jax.types"),
  (breaks_floors, "fmd_jax/rl/losses.py", "from fmd_jax.rl import advantages"),
  (breaks_floors, "launch/discover.py", "from fmd_jax import discover, report"),
  (imports_heavy_at_import, "fmd_jax/a.py", "def f():\n  import torch"),
  (imports_heavy_at_import, "fmd_jax/a.py", "if TYPE_CHECKING:\n  import torch"),
  (breaks_dependency_sets, "fmd_jax/sidecar/a.py", "def f():\n  import torch"),
  (breaks_dependency_sets, "fmd_jax/rl/losses.py", "import jax"),
  (reads_config_with_default, "fmd_jax/a.py", "replies.get('steps', 3)"),
  (too_long, "fmd_jax/update.py", "x = 1\n" * MAX_LINES),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_rule_lets_the_rest_pass(rule, path, text):
  # A rule that complains about everything would pass the planted cases too.
  assert not rule(pathlib.Path(path), text)


def test_every_rule_is_planted():
  assert set(PLANTED) == set(RULES)


# What static reading cannot see: what an import really loads, or does.


PROBE = """
import importlib, sys, threading
done = []
def watch(event, args):
  if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
    done.append(f"wrote {args[0]}")
  if event in ("subprocess.Popen", "socket.connect", "socket.bind", "os.mkdir"):
    done.append(f"{event} {args[0]}")
for early in %(early)r:  # third parties may do as they like
  importlib.import_module(early)
sys.addaudithook(watch)
threads = threading.active_count()
for module in %(modules)r:
  importlib.import_module(module)
done += sorted(set(%(forbidden)r) & set(sys.modules))
if threading.active_count() > threads:
  done.append("started a thread")
if "jax" in sys.modules:
  from jax._src import xla_bridge
  if xla_bridge._backends:
    done.append("started a jax backend")
sys.exit("; ".join(done) or None)
"""


def complaint_of_import(modules, forbidden, path=ROOT, early=()):
  # After the import rather than by blocking it: a blocked import would be
  # swallowed by `except ImportError`, and probes by find_spec are harmless.
  code = PROBE % {"modules": modules, "forbidden": list(forbidden), "early": early}
  run = subprocess.run(
    [sys.executable, "-B", "-c", code], cwd=path, capture_output=True, text=True
  )
  return run.stderr.strip() if run.returncode else ""


def test_trainer_loads_no_heavy_package_and_creates_nothing():
  modules = [dotted(p) for p in sources("fmd_jax")]
  early = ["jax", "flax.nnx", "optax", "orbax.checkpoint", "pyarrow", "grpc"]
  assert complaint_of_import(modules, HEAVY, early=early) == ""


def test_all_but_the_trainer_loads_no_jax():
  modules = [dotted(p) for p in sources("fmd_jax") if unit_of(p) in JAX_FREE]
  assert complaint_of_import(modules, [*JAX, *HEAVY]) == ""


@pytest.mark.parametrize(
  ("text", "complaint"),
  [
    ("import json", "json"),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=[9], "
     "daemon=True).start()", "started a thread"),
    ("open('x.txt', 'w')", "wrote x.txt"),
    ("import jax.numpy as jnp\nX = jnp.zeros(3)", "started a jax backend"),
  ],
)  # fmt: skip
def test_probe_sees_the_planted_violation(tmp_path, text, complaint):
  (tmp_path / "planted.py").write_text(text)
  found = complaint_of_import(["planted"], ["json"], path=tmp_path)
  assert complaint in found


def undeclared(text, declared, distributions):
  """Third-party packages that a module imports and setup.py does not name."""
  tops = {n.split(".")[0] for n in imports(ast.walk(ast.parse(text)))}
  return sorted(
    top
    for top in tops - set(sys.stdlib_module_names)
    if top in distributions
    and not {re.sub(r"[-_.]+", "-", d).lower() for d in distributions[top]} & declared
  )


def declared_packages():
  text = re.sub(r"#.*", "", (ROOT / "setup.py").read_text())
  names = re.findall(r'"([A-Za-z0-9_.-]+)(?:\[\w+\])?(?:[<>=;, ][^"]*)?"', text)
  return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_every_imported_package_is_declared():
  # An undeclared one works here by luck: some other package brings it in.
  distributions = importlib.metadata.packages_distributions()
  own = {"fmd_jax", "configs", "launch", "tests", "colab"}
  distributions = {k: v for k, v in distributions.items() if k not in own}
  found = {}
  for path in sources("fmd_jax", "configs", "launch", "tests"):
    text = (ROOT / path).read_text()
    found[str(path)] = undeclared(text, declared_packages(), distributions)
  assert not {k: v for k, v in found.items() if v}
  assert undeclared("import rich", declared_packages(), {"rich": ["rich"]})


def test_every_declared_package_is_pinned():
  lock = (ROOT / "requirements.lock").read_text()
  pinned = {
    re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
    for line in lock.splitlines()
    if "==" in line and not line.startswith("#")
  }
  tree = ast.parse((ROOT / "setup.py").read_text())
  lists = [n.value for n in tree.body if isinstance(n, ast.Assign)]
  named = {
    re.sub(r"[-_.]+", "-", re.split(r"[\[<>=; ]", item.value)[0]).lower()
    for value in lists
    if isinstance(value, ast.List)
    for item in value.elts
  }
  assert named and not named - pinned
