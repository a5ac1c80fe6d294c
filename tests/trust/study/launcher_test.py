"""The commands, as a researcher types them."""

import csv
import subprocess
import sys

import pandas as pd

from tests.runs import ROOT
from tests.trust.study import made


def study_command(*arguments):
  command = [sys.executable, "-m", "launch.human_study", *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  return done.returncode, done.stdout, done.stderr


def test_export_and_import_say_what_is_next(tmp_path):
  workdir = f"--workdir={tmp_path}"
  made.make_run(tmp_path, images=2)
  code, out, _ = study_command("export", workdir, "--items=12", "--methods=grpo")
  assert code == 0 and "12 questions drawn, 12 different" in out
  assert "launch.human_study serve --workdir" in out
  with (tmp_path / "study/share/items.csv").open(encoding="utf-8-sig") as file:
    rows = list(csv.DictReader(file))
  for row in rows:
    row |= {"rater": "ann@example.org", "valid": "1", "correct": "0"}
  pd.DataFrame(rows).to_csv(tmp_path / "filled.csv", index=False)
  code, out, err = study_command("import", workdir, f"--from={tmp_path}/filled.csv")
  assert code == 0, err
  assert "12 annotations of 12 of 12 items" in out and "ann@" not in out
  labels = pd.read_csv(tmp_path / "study" / "labels.csv")
  assert (labels["valid"] == 1).all() and (labels["correct"] == 0).all()
  assert set(labels["method"]) == {"grpo"}
  # A second export would put other items under the annotators' work.
  code, _, err = study_command("export", workdir, "--items=12")
  assert code == 1 and err.strip().splitlines()[-1].startswith("error: ")
  assert "is there already" in err and "--study" in err
