import json
import re

import pytest

from fmd_jax import report
from tests.report import fake

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  fake.make_workdir(folder, steps=5)
  return folder


def read(page):
  with open(page, encoding="utf-8") as file:
    return file.read()


def test_tables_and_figures_are_shown_as_text_and_pictures(workdir):
  # Wrong: an SVG pasted into the page, where its script runs; a file from elsewhere.
  folder = workdir / "analysis"
  folder.mkdir()
  (folder / "a.svg").write_text(SVG)
  rows = [f"<b>skill</b>,{i / 3},7" for i in range(45)]
  (folder / "a.csv").write_text("\n".join(["name,rate,n", *rows]))
  entries = [
    {"name": "a", "title": "Rates <i>", "what": "table 2", "csv": "a.csv"}
    | {"figures": {"during": "a.svg", "stolen": "../manifest.json"}},
    {"name": "b", "title": "Other", "what": "", "csv": None, "figures": {}}
    | {"note": "these runs do not allow it"},
  ]
  (folder / "index.json").write_text(json.dumps(entries))
  source = read(report.build(workdir))
  part = source[source.index('id="analyses"') : source.index('id="about"')]
  assert "<script" not in part and "<b>" not in part and "<i>" not in part
  assert "&lt;b&gt;skill" in part and "Rates &lt;i&gt;" in part
  assert len(re.findall('src="data:image/svg', part)) == 1 and "stolen" not in part
  assert part.count("<tr>") == 1 + 40 and "5 more rows are in" in part
  assert '<td class="said">0.3333</td>' in part and ">7</td>" in part
  assert "these runs do not allow it" in part


def test_rates_without_the_judges_errors_stand_beside(workdir):
  # Wrong: a column of dashes where nobody measured the judge.
  path = workdir / "metrics.json"
  title, other = (f"{x}, the judge&#39;s errors taken out" for x in ("FDR", "QVR"))
  assert title not in read(report.build(workdir))
  content = json.loads(path.read_text())
  fdr = {"value": 0.123, "low": 0.1, "high": 0.15}
  content["methods"]["grpo"]["after"]["corrected"] = {"fdr": fdr, "qvr": fdr}
  content["methods"]["zero_shot"]["after"]["corrected"] = None
  nothing = {"value": None, "low": None, "high": None}
  lost = {
    "fdr": nothing,
    "qvr": nothing,
    "reason": "the judge can't be told from chance",
  }
  content["methods"]["zero_shot"]["during"]["corrected"] = lost
  ratio = {"value": 2.5, "low": 2.1, "high": 3.25}
  content["comparison"]["grpo"]["after"]["corrected_fdr_ratio"] = ratio
  path.write_text(json.dumps(content))
  source = read(report.build(workdir))
  assert source.count(f'data-label="{title}"') == 4 and "10.0–15.0" in source
  assert source.count(f'data-label="{other}"') == 4
  # Beside the raw number wherever a reader meets it first: in a sentence and on a tile.
  said = "; 12.3%, 10.0–15.0, without the judge&#39;s errors"
  assert len(re.findall(rf'class="headline">RL[^<]*%{re.escape(said)}', source)) == 1
  assert (
    len(re.findall(rf'class="small">of the valid[^<]*{re.escape(said)}', source)) == 1
  )
  assert "; 2.50, 2.10 to 3.25, without" in source
  # And where nothing can be said, why.
  assert "told from chance" in source and ">uncalibrated</span>" in source
