"""Every command of the README, run or dry-run: what is printed there must be true."""

import importlib.util
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.report import fake

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Reads the flags as the program would, and does not start it.
FLAGS_ONLY = """
import importlib, sys
from absl import app
app.run = lambda main, flags_parser=app.parse_flags_with_usage: flags_parser(sys.argv)
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""
DRY = ("launch.sweep", "launch.tpu_pod", "launch.gke", "launch.slurm")


def commands(text):
  """The shell commands of a Markdown text, as words; [optional] parts are left in."""
  blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
  blocks = [b for b in blocks if not b.split()[0].endswith("/")]  # the tree of folders
  lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
  prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
  starts = r"(?:python|\.venv/bin/python|bash|tensorboard) [^`]+"
  lines += [" ".join(c.split()) for c in re.findall(rf"`({starts})`", prose)]
  found = []
  for line in lines:
    words = shlex.split(line.replace("[", " ").replace("]", " "), comments=True)
    if words and words not in found:
      found.append(words)
  return found


COMMANDS = commands(README)


def filled_in(words, tmp_path):
  """What the reader has to choose, chosen; variables of the environment are dropped."""
  while "=" in words[0]:
    words = words[1:]
  chosen = {
    "…": ["--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"],
    "N": ["2"],
    "I": ["1"],
  }
  words = [own for word in words for own in chosen.get(word, [word])]
  return [re.sub(r"\bDIR\b", str(tmp_path / "run"), word) for word in words]


def run(words, **options):
  options = {"cwd": ROOT, "capture_output": True, "text": True} | options
  return subprocess.run(words, timeout=200, **options)


def test_the_commands_are_found():
  text = "```\na b \\\n  --c=1 [--d]  # why\n```\nand `python -m x\ny` and `python_x`."
  assert commands(text) == [["a", "b", "--c=1", "--d"], ["python", "-m", "x", "y"]]
  assert len(COMMANDS) > 8
  assert ["bash", "launch/quickstart.sh"] in COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_readme(words, tmp_path):
  words = filled_in(words, tmp_path)
  program, *arguments = words
  if program == "source":
    assert arguments == [".venv/bin/activate"]  # launch/_env.sh makes it
  elif program == "bash":
    assert (ROOT / arguments[0]).is_file()
    assert run(["bash", "-n", arguments[0]]).returncode == 0
  elif program == "tensorboard":
    assert arguments[0] == "--logdir" and arguments[1].endswith("/tensorboard")
  elif program.rpartition("/")[2] == "python" and arguments[0] == "-m":
    check_module(arguments[1], arguments[2:], tmp_path)
  elif program.rpartition("/")[2] == "python":
    compile((ROOT / arguments[0]).read_text(), arguments[0], "exec")
  else:
    pytest.fail(f"say in this test how to try {words}")


def check_module(module, arguments, tmp_path):
  if not module.startswith("launch."):
    assert importlib.util.find_spec(module)
    assert all((ROOT / a).is_file() for a in arguments if a.endswith(".py"))
    return
  if "--help" in arguments:
    shown = run([sys.executable, "-m", module, *arguments])
    assert "flags:" in shown.stdout
    return
  if module == "launch.status":
    fake.make_workdir(tmp_path / "run", steps=4)
    done = run([sys.executable, "-m", module, *arguments])
  elif module in DRY:
    done = run([sys.executable, "-m", module, *arguments, "--dry_run"])
  else:
    code = ["-c", FLAGS_ONLY.replace("sys.argv[0]", repr(module))]
    done = run([sys.executable, *code, *arguments])
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
  "line", ["python -m launch.discover --config=a.py --workdir=b --steps=3"]
)
def test_a_wrong_flag_is_seen(line, tmp_path):
  with pytest.raises(AssertionError):
    check_module(line.split()[2], line.split()[3:], tmp_path)


@pytest.mark.slow
def test_the_first_command_of_the_readme(tmp_path):
  """As it stands, but for the size of the run."""
  if not (ROOT / ".venv").is_dir():
    pytest.skip("it would make .venv first")
  options = ("--config.steps=2", "--config.images_per_step=3", "--config.group_size=2")
  data = ("--config.data.train=testbed://?split=train&size=6",)
  data += ("--config.data.heldout=testbed://?split=heldout&size=3",)
  words = ["bash", "launch/quickstart.sh", "--workdir", str(tmp_path / "run")]
  done = run([*words, *options, *data])
  assert done.returncode == 0, done.stderr
  assert f"Report: {tmp_path / 'run' / 'report' / 'index.html'}" in done.stdout
