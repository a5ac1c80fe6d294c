"""Agreement statistics against other people's implementations, on random labels."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from fmd_jax import trust

VOTE = st.sampled_from([0.0, 1.0])
PAIRS = st.lists(st.tuples(VOTE, VOTE), min_size=2, max_size=40)
GAPS = st.lists(
  st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=4, max_size=4),
  min_size=1,
  max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_two_raters_equal_scikit_learn_and_statsmodels(pairs):
  a, b = np.array(pairs).T
  assert trust.percent_agreement(a, b) == np.mean(a == b)
  got = trust.cohen_kappa(a, b)
  if got is None:  # both gave one label throughout: 0 / 0
    assert len(set(a) | set(b)) == 1
    return
  assert got == pytest.approx(cohen_kappa_score(a, b))
  table = [[np.sum((a == x) & (b == y)) for y in (0, 1)] for x in (0, 1)]
  assert got == pytest.approx(cohens_kappa(np.array(table), return_results=False))


@settings(max_examples=60, deadline=None)
@given(GAPS)
def test_alpha_equals_krippendorff_s_package(labels):
  labels = np.array(labels)
  got = trust.krippendorff_alpha(labels)
  rated = labels[(~np.isnan(labels)).sum(1) > 1]
  if len(set(rated[~np.isnan(rated)])) < 2:
    assert got is None
    return
  want = krippendorff.alpha(reliability_data=labels.T, level_of_measurement="nominal")
  assert got == pytest.approx(want)


def gwet_by_pairs(labels):
  """AC1 by its definition, pair of raters by pair."""
  agreed, shares = [], []
  for item in labels:
    own = [x for x in item if x == x]
    if own:
      shares.append(sum(own) / len(own))
    pairs = [(x, y) for i, x in enumerate(own) for j, y in enumerate(own) if i != j]
    if pairs:
      agreed.append(sum(x == y for x, y in pairs) / len(pairs))
  if not agreed:
    return None
  share = sum(shares) / len(shares)
  chance = 2 * share * (1 - share)
  return (sum(agreed) / len(agreed) - chance) / (1 - chance)


@settings(max_examples=60, deadline=None)
@given(GAPS)
def test_ac1_equals_its_definition(labels):
  assert trust.gwet_ac1(np.array(labels)) == pytest.approx(gwet_by_pairs(labels))


def test_ac1_and_kappa_where_one_label_is_rare():
  """The kappa paradox: 95 of 100 alike, kappa near 0, AC1 near .95 (Gwet 2008).

  Observed agreement is that of Fleiss' kappa of statsmodels, chance is not.
  """
  a = np.array([1.0] * 95 + [1, 1, 1, 0, 0])
  b = np.array([1.0] * 95 + [0, 0, 0, 1, 1])
  labels = np.stack([a, b], 1)
  assert trust.cohen_kappa(a, b) == pytest.approx(-0.0246, abs=1e-3)
  assert trust.gwet_ac1(labels) == pytest.approx((0.95 - 0.04875) / (1 - 0.04875))
  counts = np.stack([(labels == x).sum(1) for x in (0, 1)], 1)
  assert fleiss_kappa(counts) < 0 < trust.gwet_ac1(labels)


@settings(max_examples=60, deadline=None)
@given(GAPS, st.data())
def test_a_weight_is_as_many_items_of_the_kind(labels, data):
  """Without weights, items that a study draws more often count too much."""
  n = len(labels)
  times = data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
  once, weight = np.array(labels), np.array(times, float)
  often = np.repeat(once, times, 0)
  a, b = once[:, 0], once[:, 1]
  for measure in (trust.percent_agreement, trust.cohen_kappa):
    got, want = measure(a, b, weight), measure(often[:, 0], often[:, 1])
    assert got == (want if want is None else pytest.approx(want))
  got, want = trust.gwet_ac1(once, weight), trust.gwet_ac1(often)
  assert got == (want if want is None else pytest.approx(want))


def test_majority_and_ties():
  """A tie has no majority: read as 0 it would be "invalid" by default."""
  nan = np.nan
  labels = [[1, 1, 0], [0, 0, 1], [1, 0, nan], [nan, nan, nan], [nan, 1, nan]]
  np.testing.assert_array_equal(trust.majority(np.array(labels)), [1, 0, nan, nan, 1])


def test_accuracy_by_margin():
  """5-0: 2 of 2, 4-1: 1 of 2, 3-2: 0 of 1; the tie, the unjudged and the unrated are
  left out.
  """
  labels = np.array(
    [
      [1, 1, 1, 1, 1],
      [0, 0, 0, 0, 0],
      [1, 1, 1, 1, 0],
      [1, 0, 0, 0, 0],
      [1, 1, 1, 0, 0],
      [1, 1, 0, 0, np.nan],
      [1, 1, 1, 1, 1],
      [np.nan] * 5,
    ]
  )
  judge = np.array([1, 0, 1, 1, 0, 1, np.nan, 1])
  found = trust.accuracy_by_margin(judge, labels, list("abcdefgh"))
  assert list(found) == ["5-0", "4-1", "3-2"]
  assert [(e.count, e.n) for e in found.values()] == [(2, 2), (1, 2), (0, 1)]
  assert all(e.low < e.high for e in found.values())


def test_nothing_to_agree_on():
  nothing = np.full((3, 2), np.nan)
  assert trust.percent_agreement(nothing[:, 0], nothing[:, 1]) is None
  assert trust.cohen_kappa(nothing[:, 0], nothing[:, 1]) is None
  assert trust.gwet_ac1(nothing) is None
  assert trust.krippendorff_alpha(nothing) is None
  assert trust.accuracy_by_margin(nothing[:, 0], nothing, list("abc")) == {}
  # Everybody always says yes: chance says so too, but for AC1.
  ones = np.ones((3, 2))
  assert trust.cohen_kappa(ones[:, 0], ones[:, 1]) is None
  assert trust.krippendorff_alpha(ones) is None
  assert trust.gwet_ac1(ones) == 1.0


def test_dawid_skene_outvotes_the_careless():
  """Two good raters against three who toss coins: the majority is right in about .75
  of the items, this in more than .9.
  """
  pytest.importorskip("crowdkit")
  generator = np.random.default_rng(0)
  truth = generator.integers(0, 2, 300)
  labels = np.full((301, 5), np.nan)
  for rater, right in enumerate((0.97, 0.95, 0.5, 0.5, 0.5)):
    labels[:300, rater] = np.where(generator.random(300) < right, truth, 1 - truth)
  labels[generator.random((301, 5)) < 0.1] = np.nan
  found = trust.dawid_skene(labels)
  rated = ~np.isnan(labels[:300]).all(1)
  assert np.isnan(found[300]) and not np.isnan(found[:300][rated]).any()
  weighed = np.mean((found[:300] > 0.5) == truth)
  assert weighed > 0.92 > 0.85 > np.mean(trust.majority(labels[:300]) == truth)
  assert np.isnan(trust.dawid_skene(np.full((2, 3), np.nan))).all()
  assert (trust.dawid_skene(np.ones((4, 3))) == 1).all()


def test_dawid_skene_tells_what_to_install(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "crowdkit.aggregation", None)
  with pytest.raises(RuntimeError, match="pip install crowd-kit"):
    trust.dawid_skene(np.ones((2, 2)))
