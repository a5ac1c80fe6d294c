"""The notebooks: clean in git, and run from top to bottom in a shortened form."""

import ast
import json
import os
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


def code_cells(path):
  cells = json.loads(path.read_text())["cells"]
  return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell):
  return "".join(cell["source"])


def test_they_are_all_here():
  names = ["explore_failures", "quickstart", "your_model"]
  assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
  for cell in code_cells(path):
    # Pictures of a run that nobody can check, and megabytes of them.
    assert cell["outputs"] == [] and cell["execution_count"] is None
    assert cell["metadata"] == {}


def test_the_first_cell_installs_and_is_the_same_everywhere():
  first = {source(code_cells(path)[0]) for path in NOTEBOOKS}
  assert len(first) == 1
  assert "requirements.lock" in first.pop()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_call_what_the_launchers_call(path):
  text = "\n".join(source(cell) for cell in code_cells(path))
  tree = ast.parse(text)  # plain Python: no magics, so that any editor can check it
  modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
  assert not {m for m in modules if m.startswith(("launch", "tests"))}
  if path.stem != "explore_failures":
    assert "discover(config, WORKDIR)" in text


def execute(name, monkeypatch, **environment):
  """The notebook after its run; a cell that fails raises."""
  import nbclient
  import nbformat

  for key, value in environment.items():
    monkeypatch.setenv(key, str(value))
  monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
  notebook = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=800, resources={"metadata": {"path": ROOT}}
  )
  client.execute()
  return notebook


def pictures(notebook):
  """How many outputs show one."""
  outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
  data = [o.get("data", {}) for o in outputs]
  html = [d.get("text/html", "") for d in data]
  return sum("image/png" in d for d in data) + sum("data:image" in h for h in html)


def text(notebook):
  outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
  return "".join(o.get("text", "") for o in outputs)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a machine that others use
def test_quickstart_and_explore(tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  done = execute("quickstart", monkeypatch, FMD_JAX_SHORT=1, FMD_JAX_WORKDIR=workdir)
  assert pictures(done) >= 4  # three of the world, the curves, the failures
  assert "zero_shot" in text(done) and "grpo" in text(done)
  assert (workdir / "report" / "index.html").is_file()
  done = execute("explore_failures", monkeypatch, FMD_JAX_WORKDIR=workdir)
  assert pictures(done) >= 1 and "finished" in text(done)
  assert (workdir / "failures.csv").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_your_model(tmp_path, monkeypatch):
  import skimage

  from tests import photographs_test

  folder = tmp_path / "photographs"
  folder.mkdir()
  for path in sorted((pathlib.Path(skimage.__file__).parent / "data").glob("*.png"))[
    :4
  ]:
    shutil.copy(path, folder)
  script = tmp_path / "models.py"
  script.write_text(photographs_test.SCRIPT)
  done = execute(
    "your_model",
    monkeypatch,
    FMD_JAX_SHORT=1,
    FMD_JAX_WORKDIR=tmp_path / "run",
    FMD_JAX_TRAIN=f"folder://{folder}",
    FMD_JAX_HELDOUT=f"folder://{folder}?limit=2",
    FMD_JAX_ANSWERER=f"scripted://{script}:answer",
    FMD_JAX_JUDGE=f"scripted://{script}:verdict",
  )
  assert "What is in the picture? It says: a cat" in text(done)
  assert pictures(done) >= 1
  assert os.listdir(tmp_path / "run" / "evaluations")
