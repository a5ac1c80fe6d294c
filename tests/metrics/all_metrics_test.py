"""Every metric against loops on random rows, and on next to nothing."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fmd_jax import metrics
from tests.metrics import bruteforce
from tests.metrics.frames import frame, one

ROW = st.fixed_dictionaries(
  {
    "image_id": st.sampled_from("ijkl"),
    "status": st.sampled_from(["ok"] * 6 + ["unparsed", "unscored"]),
    "question": st.sampled_from(["What is a?", "what is b?", "How many c?", "Is d?"]),
    "valid": st.booleans(),
    "correct": st.booleans(),
    "skills": st.none() | st.lists(st.sampled_from("abcde"), max_size=6),
  }
)


def table(rows):
  df = pd.DataFrame(rows, columns=[*one(), "skills"])
  df = df.astype({"valid": "boolean", "correct": "boolean"})
  df.loc[df["status"] != "ok", ["valid", "correct"]] = pd.NA
  df["skills"] = pd.Series([r["skills"] for r in rows], dtype=object)
  return df


def no_nan(found):
  assert json.loads(json.dumps(found, allow_nan=False)) == found


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=80))
def test_summary_equals_the_loops(rows):
  df = table(rows)
  n = int(metrics.flags(df)["valid"].sum())
  vectors = np.random.default_rng(0).normal(size=(n, 5))
  out = metrics.summarise(df, vectors, common_n=2, resamples=20)
  no_nan(out)
  assert out["qvr"]["value"] == pytest.approx(bruteforce.qvr(rows))
  assert out["fdr"]["value"] == pytest.approx(bruteforce.fdr(rows))
  assert out["failures"]["distinct"] == bruteforce.distinct(rows)
  for rate in ("qvr", "fdr", "unparsed", "unscored"):
    own = out[rate]
    if own["value"] is not None:
      # A rate without an error is a claim.
      assert 0 <= own["low"] < own["high"] <= 1
      if own["value"] in (0, 1):
        assert own["value"] in (own["low"], own["high"])
  known = bruteforce.known(rows)
  if not known:
    assert out["skills"] is None
    return
  skills, per_skill = out["skills"], bruteforce.per_skill(rows)
  assert skills["coverage"] == pytest.approx(bruteforce.coverage(rows))
  assert skills["complexity"]["mean"]["value"] == skills["coverage"]
  assert skills["count"] == sum(n > 20 for _, n in per_skill.values())
  assert skills["combinations"]["count"] == bruteforce.combinations(rows)
  sizes = bruteforce.sizes(rows)
  distribution = skills["complexity"]["distribution"]
  assert [own["skills"] for own in distribution] == list(range(max(sizes) + 1))
  assert [own["count"] for own in distribution] == [
    sizes.get(k, 0) for k in range(max(sizes) + 1)
  ]
  assert sum(own["value"] for own in distribution) == pytest.approx(1)
  four = sum(count for k, count in sizes.items() if k >= 4)
  assert skills["complexity"]["complex"]["count"] == four
  found = metrics.mean_skill_rate(df, more_than=3, resamples=20)
  rates = [f / n for f, n in per_skill.values() if n > 3]
  assert found["skills"] == len(rates)
  assert found["value"] == (pytest.approx(np.mean(rates)) if rates else None)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=60), st.integers(1, 12), st.data())
def test_curve_equals_the_loop(rows, points, data):
  """Of all questions, and of a sample: n is what was asked, not what was judged."""
  n = len(rows) + data.draw(st.integers(0, 30))
  places = data.draw(
    st.lists(st.integers(0, n), unique=True, min_size=len(rows), max_size=len(rows))
  )
  for place in (range(len(rows)), sorted(places)):
    placed = [row | {"place": p} for row, p in zip(rows, place)]
    df = table(rows)
    if place != range(len(rows)):
      df["place"] = place
    got = metrics.cumulative(df, points=points, resamples=20)
    no_nan(got)
    assert got["n"][-1] == max(place) + 1
    assert len(got["n"]) == min(points, max(place) + 1)
    want = bruteforce.curve(placed, got["n"])
    for key, values in zip(("fdr", "fdr_since", "distinct"), zip(*want), strict=True):
      assert got[key] == pytest.approx(list(values)), key
    whole = metrics.rates(df, resamples=20)["fdr"]
    assert (got["fdr"][-1], got["failures"][-1]) == (whole.value, whole.count)


def test_curve_counts_a_repeated_failure_once():
  """Distinct 1, 1, 2; failures 1, 2, 3. Counted by row the policy that repeats itself
  would look like one that goes on finding.
  """
  rows = [one(question=q) for q in ("a", "a", "b")]
  got = metrics.cumulative(pd.DataFrame(rows), points=3, resamples=10)
  assert (got["distinct"], got["failures"]) == ([1, 1, 2], [1, 2, 3])
  assert metrics.cumulative(pd.DataFrame(columns=list(one())))["n"] == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=20))
def test_benjamini_hochberg_equals_the_definition_and_statsmodels(p):
  got = metrics.benjamini_hochberg(np.array(p))
  np.testing.assert_allclose(got, bruteforce.adjusted(p), rtol=1e-12)
  np.testing.assert_allclose(got, multipletests(p, method="fdr_bh")[1], rtol=1e-12)


@pytest.mark.parametrize("disjoint", [False, True])
def test_skills_of_two_methods_equal_the_loop(disjoint):
  """Paired where images are shared: the error of an unpaired test differs."""
  a, b = frame(3, images=30, fdr=0.6), frame(4, images=35, fdr=0.3)
  if disjoint:
    b["image_id"] = "x" + b["image_id"]
  got = metrics.compare_skills(a, b, more_than=20)
  rows = [df.to_dict("records") for df in (a, b)]
  sides = [bruteforce.per_skill(own) for own in rows]
  names = [k for k in sides[0] if min(sides[0][k][1], sides[1][k][1]) > 20]
  assert [own["skill"] for own in got] == sorted(names)
  ps = []
  for own in got:
    (fa, na), (fb, nb) = (side[own["skill"]] for side in sides)
    assert (own["n_a"], own["n_b"]) == (na, nb)
    assert own["difference"] == pytest.approx(fa / na - fb / nb)
    error, images = bruteforce.clustered_error(*rows, own["skill"])
    ps.append(2 * stats.t.sf(abs(own["difference"]) / error, images - 1))
    assert own["p"] == pytest.approx(ps[-1])
    half = stats.t.ppf(0.975, images - 1) * error
    assert own["high"] - own["low"] == pytest.approx(2 * half)
  np.testing.assert_allclose([own["q"] for own in got], bruteforce.adjusted(ps))


def test_pairing_narrows_the_difference():
  """Images that are hard for both: unpaired the interval is wider."""
  generator = np.random.default_rng(0)
  parts = []
  for shift in (0.0, 0.1):
    rows = []
    for i in range(60):
      odds = np.clip((i % 2) * 0.8 + shift, 0, 1)
      rows += [
        one(f"i{i}", correct=bool(generator.random() > odds)) | {"skills": ["s"]}
        for _ in range(8)
      ]
    parts.append(pd.DataFrame(rows))
  a, b = parts
  other = a.assign(image_id="x" + a["image_id"])
  paired, apart = (metrics.compare_skills(x, b)[0] for x in (a, other))
  assert paired["difference"] == apart["difference"]
  assert paired["p"] < 0.5 * apart["p"]
  widths = [
    found["high"] - found["low"]
    for found in (metrics.compare(x, b)["difference"] for x in (a, other))
  ]
  assert widths[0] < 0.5 * widths[1]


def test_overlapping_images_are_paired_too():
  """One image missing on one side must not make the comparison unpaired."""
  a = frame(1, images=30)
  b = a[a["image_id"] != "i0"]
  widths = []
  for other in (b, b.assign(image_id="x" + b["image_id"])):
    found = metrics.compare(a, other, resamples=300)
    assert found["paired"] is (other is b)
    widths.append(found["difference"]["high"] - found["difference"]["low"])
  assert widths[0] < 0.5 * widths[1]


def test_skills_where_nothing_is_known_of_the_error():
  """All wrong, all right, one image: no p, and no NaN among the others' q."""
  rows = [one("i", correct=c) | {"skills": ["one"]} for c in (True, False) * 60]
  for image in range(6):
    rows += [one(f"j{image}") | {"skills": ["never"]} for _ in range(20)]
    rows += [
      one(f"j{image}", correct=k < 3 * image) | {"skills": ["some"]} for k in range(20)
    ]
  a = pd.DataFrame(rows)
  got = {own["skill"]: own for own in metrics.compare_skills(a, a[::-1])}
  no_nan(got)
  assert set(got) == {"one", "never", "some"}
  b = a.assign(correct=[not c for c in a["correct"]])
  got = {own["skill"]: own for own in metrics.compare_skills(a, b)}
  assert got["one"]["p"] is None and got["never"]["p"] is None
  assert got["never"]["difference"] == 1.0
  assert got["some"]["q"] == got["some"]["p"] > 0


NOTHING = {
  "no row": [],
  "no valid question": [one(valid=False), one("j", valid=False)],
  "one question": [one()],
  "all unscored": [one(status="unscored", valid=None, correct=None)] * 3,
  "all unparsed": [one(status="unparsed", valid=None, correct=None)] * 3,
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("skills", [None, [], ["a", "b"]])
def test_degenerate_rows_are_defined_or_none(name, skills):
  df = pd.DataFrame(NOTHING[name], columns=list(one()))
  df["skills"] = pd.Series([skills] * len(df), dtype=object)
  n = int(metrics.flags(df)["valid"].sum())
  out = metrics.summarise(df, np.ones((n, 4)), common_n=n or None)
  no_nan(out)
  valid = n > 0
  assert (out["fdr"]["value"] is None) is not valid
  assert out["ld"]["ld"] is None  # of one question or none
  assert out["sd"]["vendi"] == n
  if valid and skills is not None:
    assert out["skills"]["coverage"] == len(skills)
    assert out["skills"]["complexity"]["mean"]["low"] is None
    assert out["skills"]["mean_rate"]["value"] is None
    assert out["skills"]["table"] == []
  else:
    assert out["skills"] is None
  for other in (df, frame(0).head(40)):
    for rate in ("qvr", "fdr", "unparsed"):
      no_nan(metrics.compare(df, other, rate, resamples=20))
    no_nan(metrics.compare_skills(df, other, more_than=0))


def test_rated_skills_need_more_than_100_questions():
  """101 count, 100 do not: the paper's filter of Table 2."""
  rows = [one(f"i{k % 7}", correct=k % 4 > 0) | {"skills": ["a"]} for k in range(101)]
  rows += [one(f"i{k % 7}") | {"skills": ["b"]} for k in range(100)]
  out = metrics.summarise(pd.DataFrame(rows), resamples=50)["skills"]
  assert [own["skill"] for own in out["table"]] == ["a"]
  assert out["mean_rate"]["value"] == pytest.approx(26 / 101)
  assert out["mean_rate"]["low"] < 26 / 101 < out["mean_rate"]["high"]
  assert out["count"] == 2


def test_diversity_stands_at_the_common_n():
  """More valid questions than asked for: all four numbers are of 30."""
  df = frame(0)
  n = int(metrics.flags(df)["valid"].sum())
  vectors = np.random.default_rng(1).normal(size=(n, 40))
  out = metrics.summarise(df, vectors, common_n=30, resamples=10)
  parts = [out["sd"], out["ld"], out["skills"], out["skills"]["combinations"]]
  assert [part["common_n"] for part in parts] == [30] * 4
  assert out["sd"]["rarefied"] <= 30 < out["sd"]["vendi"] + 30
  assert out["skills"]["rarefied"] == 0 < out["skills"]["count"]
  assert out["skills"]["combinations"]["rarefied"] <= 30
  assert math.isclose(metrics.vendi(vectors, np.arange(9)), metrics.vendi(vectors[:9]))


def assignments(rows):
  names = ["method", "split", "step", "image_id", "response_index", "slot", "question"]
  return pd.DataFrame(rows, columns=[*names, "skill"])


def test_skills_come_from_the_taxonomy():
  """By the row's own key: by question alone, another image's skills would come in."""
  df = pd.DataFrame([one("i"), one("j"), one("i", question="b")]).assign(
    method="grpo", split="train", step=0, response_index=0, slot=[0, 0, 1]
  )
  key = ("grpo", "train", 0)
  given = [
    (*key, "i", 0, 0, "What is it?", "shape"),
    (*key, "i", 0, 0, "What is it?", "colour"),
    (*key, "i", 0, 0, "What is it?", "colour"),
    (*key, "i", 0, 1, "b", None),
    ("sft", "train", 0, "j", 0, 0, "What is it?", "text"),
  ]
  got = metrics.with_skills(df, assignments(given))["skills"].tolist()
  assert got == [["colour", "shape"], None, None]
  nothing = metrics.with_skills(df, assignments([]))["skills"]
  assert nothing.tolist() == [None] * 3
  with pytest.raises(ValueError, match="no column skill"):
    metrics.with_skills(df, assignments(given).drop(columns="skill"))
