"""A judge's measured errors: counts, weights, and rates freed of them."""

import json

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from fmd_jax import metrics, trust
from tests.trust import studies


def item(valid, correct, true_valid, true_correct, image, **more):
  return {
    "judge": "j", "image_id": image, "valid": valid, "correct": correct,
    "true_valid": true_valid, "true_correct": true_correct, **more,
  }  # fmt: skip


def confusion(counts):
  """Rows of (valid, correct, true_valid, true_correct) -> count, each its own image."""
  rows = [verdict for verdict, n in counts.items() for _ in range(n)]
  return pd.DataFrame([item(*row, f"i{k}") for k, row in enumerate(rows)])


COUNTS = {
  (True, True, True, True): 40,
  (True, False, True, True): 10,  # a right answer called wrong
  (True, False, True, False): 24,
  (True, True, True, False): 6,
  (False, False, True, True): 20,  # called invalid: its "wrong" is no verdict
  (False, None, False, None): 27,
  (True, False, False, None): 2,
  (True, True, False, None): 1,
  (None, None, True, True): 5,  # the judge failed: no error, no verdict
}


def test_the_counts_are_those_of_the_definition():
  """valid: 27 of 30 and 80 of 100; correct: 24 of 30 and 40 of 50. An answer to a
  question that the judge calls invalid is none of its errors on answers.
  """
  found = trust.calibrate(confusion(COUNTS))
  json.dumps(found, allow_nan=False)
  own = found["judges"]["j"]
  counts = {
    (part, name): (own[part][name]["hits"], own[part][name]["n"])
    for part in ("valid", "correct")
    for name in own[part]
  }
  assert counts == {
    ("valid", "sensitivity"): (27, 30),
    ("valid", "specificity"): (80, 100),
    ("correct", "sensitivity"): (24, 30),
    ("correct", "specificity"): (40, 50),
    ("correct", "wrong_when_invalid"): (2, 3),
  }
  share = own["valid"]["specificity"]
  assert share["value"] == 0.8 and share["n_eff"] == pytest.approx(99)
  want = proportion_confint(0.8 * 99, 99, method="wilson")
  np.testing.assert_allclose([share["low"], share["high"]], want)


def test_items_of_one_image_count_for_less():
  """20 images with 5 alike each: worth about 20 labels, not 100."""
  rows = [
    item(k % 4 > 0, True, True, True, f"i{k}") for k in range(20) for _ in range(5)
  ]
  share = trust.calibrate(pd.DataFrame(rows))["judges"]["j"]["valid"]["specificity"]
  assert share["n"] == 100 and 15 < share["n_eff"] < 25
  whole = [item(True, True, True, True, f"i{k}") for k in range(20) for _ in range(5)]
  share = trust.calibrate(pd.DataFrame(whole))["judges"]["j"]["valid"]["specificity"]
  assert (share["value"], share["n_eff"]) == (1.0, 20.0)
  assert share["low"] < 0.9


def test_a_sample_by_verdict_needs_its_weights():
  """1 in 10 of "valid" and all "invalid" labelled: specificity .9; unweighted .47."""
  rows = [item(True, True, True, True, f"a{k}", weight=10.0) for k in range(90)]
  rows += [item(False, None, True, True, f"b{k}", weight=1.0) for k in range(100)]
  items = pd.DataFrame(rows)
  share = trust.calibrate(items)["judges"]["j"]["valid"]["specificity"]
  assert share["value"] == 0.9 and share["n"] == 190
  assert share["n_eff"] == 190  # never more than there are labels
  plain = trust.calibrate(items.drop(columns="weight"))
  assert plain["judges"]["j"]["valid"]["specificity"]["value"] < 0.5
  with pytest.raises(ValueError, match="weight"):
    trust.calibrate(items.assign(weight=0.0))
  with pytest.raises(ValueError, match="true_valid"):
    trust.calibrate(items.drop(columns="true_valid"))


def test_by_method_and_band():
  items = confusion(COUNTS)
  items["method"] = np.where(np.arange(len(items)) % 2, "grpo", "zero_shot")
  items["band"] = "easy"
  own = trust.calibrate(items)["judges"]["j"]
  assert own["bands"]["easy"]["valid"] == own["valid"]
  parts = [own["methods"][m]["valid"]["specificity"]["n"] for m in own["methods"]]
  assert sum(parts) == 100 and set(own["methods"]) == {"grpo", "zero_shot"}


def judged(se, sp, k=0.5, n=20_000, qvr=0.8, fdr=0.3):
  """Rows with exactly the shares that such a judge gives in expectation."""
  truth = {
    "wrong": n * qvr * fdr,
    "right": n * qvr * (1 - fdr),
    "invalid": n * (1 - qvr),
  }
  wrong = truth["wrong"] * sp * se + truth["right"] * sp * (1 - sp)
  right = truth["wrong"] * sp * (1 - se) + truth["right"] * sp * sp
  wrong += truth["invalid"] * (1 - se) * k
  right += truth["invalid"] * (1 - se) * (1 - k)
  wrong, right = round(wrong), round(right)
  rows = [(True, False)] * wrong + [(True, True)] * right
  rows += [(False, None)] * (n - wrong - right)
  df = pd.DataFrame(rows, columns=["valid", "correct"]).sample(frac=1, random_state=0)
  df["image_id"] = [f"i{i % 500}" for i in range(n)]
  return df.assign(status="ok").astype({"valid": "boolean", "correct": "boolean"})


def known(se, sp, k=0.5, n=1000):
  def share(value):
    return {"value": value, "n": n, "n_eff": float(n)}

  return {
    "valid": {"sensitivity": share(se), "specificity": share(sp)},
    "correct": {
      "sensitivity": share(se),
      "specificity": share(sp),
      "wrong_when_invalid": share(k),
    },
  }


@pytest.mark.parametrize(("se", "sp"), [(0.8, 0.8), (0.6, 0.95), (0.95, 0.7), (1, 1)])
def test_the_truth_comes_back(se, sp):
  """QVR .8 and FDR .3, whatever the judge said (raw FDR at .8/.8: .40)."""
  df = judged(se, sp)
  out = metrics.corrected(df, known(se, sp), resamples=200)
  assert out["qvr"]["value"] == pytest.approx(0.8, abs=2e-3)
  assert out["fdr"]["value"] == pytest.approx(0.3, abs=2e-3)
  assert out["by"] == "all" and out["reason"] is None
  raw = metrics.rates(df, resamples=200)["fdr"]
  if (se, sp) == (1, 1):
    assert raw.value == pytest.approx(0.3, abs=1e-3)
  elif se == sp:
    assert raw.value > 0.38
  assert out["fdr"]["low"] < 0.3 < out["fdr"]["high"]
  # Few labels are part of the error; raw intervals don't know of them.
  few = metrics.corrected(df, known(se, sp, n=40), resamples=200)["fdr"]
  if se < 1:
    assert few["high"] - few["low"] > 2 * (out["fdr"]["high"] - out["fdr"]["low"])
    assert out["fdr"]["high"] - out["fdr"]["low"] > raw.high - raw.low


def test_unparsed_slots_are_no_error_of_the_judge():
  """A quarter more slots: QVR .64 = .8 / 1.25; corrected as if judged it is less."""
  df = judged(0.8, 0.8)
  slots = pd.DataFrame({"image_id": [f"i{i % 500}" for i in range(5000)]})
  slots = slots.assign(status="unparsed", valid=pd.NA, correct=pd.NA)
  out = metrics.corrected(pd.concat([df, slots]), known(0.8, 0.8), resamples=100)
  assert out["qvr"]["value"] == pytest.approx(0.64, abs=2e-3)
  assert out["fdr"]["value"] == pytest.approx(0.3, abs=2e-3)


def test_skills_are_corrected_too():
  """Skill "a" on every question: its rate is the FDR; "b", on few, is left out."""
  df = judged(0.8, 0.8, n=4000)
  skills = [["a"] if i else ["a", "b"] for i in range(len(df))]
  df["skills"] = pd.Series(skills, index=df.index, dtype=object)
  out = metrics.corrected(df, known(0.8, 0.8), resamples=200)
  assert set(out["skills"]) == {"a"}
  assert out["skills"]["a"]["value"] == pytest.approx(out["fdr"]["value"], abs=1e-9)
  assert out["skills"]["a"]["low"] < 0.3 < out["skills"]["a"]["high"]


def test_what_cannot_be_said_says_why():
  df = judged(0.8, 0.8, n=2000)
  nothing = {"value": None, "low": None, "high": None}
  unlabelled = known(0.8, 0.8)
  unlabelled["correct"]["sensitivity"] = {"value": None, "n": 0, "n_eff": 0.0}
  for rows, errors, reason in (
    (df, unlabelled, "sensitivity of 'correct'"),
    (df, known(0.5, 0.5), "chance"),
    (df.iloc[:0], known(0.8, 0.8), "asked"),
    (df.assign(valid=False), known(0.8, 0.8), "valid"),
  ):
    out = metrics.corrected(rows, errors, resamples=50)
    json.dumps(out, allow_nan=False)
    assert out["fdr"] == nothing and reason in out["reason"], out
  ratio = metrics.corrected_ratio(df, df.assign(valid=False), known(0.8, 0.8))
  assert ratio == nothing
  assert metrics.corrected_ratio(df, df, unlabelled) == nothing


def test_a_ratio_shares_the_judge_s_errors():
  """A method with itself: exactly 1; errors drawn apart would give it a width."""
  df = judged(0.8, 0.8, n=2000)
  ratio = metrics.corrected_ratio(df, df, known(0.8, 0.8, n=100), resamples=100)
  assert ratio == {"value": 1.0, "low": 1.0, "high": 1.0}
  other = judged(0.8, 0.8, n=2000, fdr=0.6).assign(image_id="x")
  other["image_id"] = [f"x{i % 200}" for i in range(2000)]
  ratio = metrics.corrected_ratio(other, df, known(0.8, 0.8), resamples=200)
  assert ratio["value"] == pytest.approx(2.0, abs=0.02)
  assert ratio["low"] < 2 < ratio["high"]


def test_bands():
  """By skills in the testbed, by length elsewhere, and nothing asked is none."""
  df = pd.DataFrame(
    {
      "skills": [["color"], ["ocr"], ["color", "ocr"], [], None],
      "truth": ["red", None, "x", None, None],
      "question": ["w " * 3, "w " * 8, "w " * 13, "w " * 7, ""],
    }
  )
  assert metrics.difficulty(df).tolist() == ["easy", "one", "several", "none", "none"]
  plain = df.drop(columns=["skills", "truth"])
  want = ["short", "medium", "long", "short", "none"]
  assert metrics.difficulty(plain).tolist() == want
  assert metrics.difficulty(df.assign(skills=None)).tolist() == want


def test_labels_ride_along_with_the_rows_that_they_are_of():
  """All of a study's rows are labelled: the truth is known but for the images drawn,
  whatever the judge is. Errors drawn apart would make the interval twice as wide.
  """
  generator = np.random.default_rng(0)
  n = studies.IMAGES * studies.EACH
  (study,) = studies.draw_study(generator, ("even",), 0.7, 0.7, n)
  own = studies.labels_of([study])
  exact = study.judged.assign(valid=lambda df: df["true_valid"])
  exact["correct"] = exact["true_correct"].fillna(True).astype(bool)
  exact = metrics.rates(exact, resamples=400)["fdr"]
  together, apart, elsewhere = (
    metrics.corrected(study.judged, known, resamples=400)["fdr"]
    for known in (
      own,
      {name: own[name] for name in ("valid", "correct", "bands")},
      own
      | {
        "labels": {
          **own["labels"],
          "image_id": [f"x{i}" for i in range(len(own["labels"]["band"]))],
        }
      },
    )
  )
  width, *others = (e["high"] - e["low"] for e in (together, apart, elsewhere))
  assert together["value"] == pytest.approx(exact.value, abs=0.01)
  assert width < 1.3 * (exact.high - exact.low)
  assert min(others) > 1.6 * width


def coverage(n, seed, mixes=("even",), by_difficulty=False, low=0.6, least=200):
  """Of n studies: how often each interval holds the truth, and how wide it is."""
  generator = np.random.default_rng(seed)
  truth = studies.population(mixes[-1]).fdr
  held = {name: [] for name in ("raw", "all", "band")}
  width, delta = [], []
  for study in range(n):
    se, sp = generator.uniform(low, 0.95, 2)
    labels = int(np.exp(generator.uniform(np.log(least), np.log(2000))))
    made = studies.draw_study(generator, mixes, se, sp, labels, by_difficulty)
    judged, errors = made[-1].judged, studies.labels_of(made)
    pooled = {name: errors[name] for name in ("valid", "correct", "labels")}
    raw = metrics.rates(judged, resamples=200, seed=study)["fdr"]
    held["raw"].append(raw.low <= truth <= raw.high)
    for name, own in (("all", pooled), ("band", errors)):
      if name == "all" or by_difficulty:
        found = metrics.corrected(judged, own, resamples=500, seed=study)["fdr"]
        held[name].append(found["low"] <= truth <= found["high"])
        if name == "all" and not by_difficulty:
          width.append(found["high"] - found["low"])
          delta.append(np.subtract(*studies.delta_interval(judged, pooled)[::-1]))
  shares = {name: float(np.mean(own)) for name, own in held.items() if own}
  return shares, float(np.sum(width) / np.sum(delta)) if width else None


def test_corrected_intervals_hold_the_truth():
  """60 studies; `slow` has 2000. Raw ones hold it in less than a third."""
  shares, width = coverage(60, seed=1)
  assert shares["all"] >= 0.88 and shares["raw"] < 0.4
  assert width < 1.25


@pytest.mark.slow
def test_2000_studies():
  """Labels drawn apart from the rows that they are of: .978 of the intervals hold."""
  shares, width = coverage(2000, seed=2)
  print(shares, width)
  assert 0.94 <= shares["all"] <= 0.97
  assert shares["raw"] < 0.3
  assert width <= 1.25


@pytest.mark.slow
def test_errors_that_grow_with_difficulty():
  """Labels of easy and hard questions pooled, applied to the hard ones: the judge looks
  better than it is on these. By band it does not.
  """
  shares, _ = coverage(
    600, 3, mixes=("easy", "hard"), by_difficulty=True, low=0.8, least=1000
  )
  print(shares)
  assert shares["band"] >= 0.935
  assert shares["all"] < 0.85 and shares["raw"] < 0.5
