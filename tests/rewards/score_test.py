"""The reward of eq. 5: numbers by hand, edge cases, and the brute force."""

import json

import numpy as np
import pandas as pd
import pytest

from fmd_jax import rewards
from fmd_jax.rewards import Row
from tests.rewards.bruteforce import recompute_rewards

PAPER = {
  "terms": ("semantic", "lexical", "penalty"),
  "lambda_scale": 0.5,
  "lambda_penalty": 1.0,
  "prefix_length": 2,
  "lexical": "paper",
  "aggregate": "mean",
}
EAST, NORTH, DIAGONAL = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]
QUESTIONS = {"What is a?": EAST, "What is b?": NORTH, "How many c?": DIAGONAL}
QUESTIONS["bad"] = [-1.0, -1.0]
VECTORS = {text: np.array(v, np.float32) for text, v in QUESTIONS.items()}


def row(
  question, valid=True, correct=False, slot=0, response=0, image="i", status="ok"
):
  if status != "ok":
    valid = correct = None
  return Row(image, response, slot, status, question, valid, correct)


def score(rows, banks=None, vectors=VECTORS, **changes):
  banks = rewards.Banks(2) if banks is None else banks
  return rewards.score_step(rows, vectors, banks, **(PAPER | changes))


def filled(*rows):
  banks = rewards.Banks(2)
  banks.append(rows, VECTORS)
  return banks


def test_empty_banks_give_the_full_reward():
  """Nothing to compare with: .5 (1 + 1) = 1. A max over nothing as 0: also 1; as
  -1 without the clip: 1.5; d_emb of an empty bank as 0: .5.
  """
  got = score([row("What is a?")])
  np.testing.assert_allclose(got.reward, [1.0])


def test_golden():
  """Bank: a on the image, prefix "what is" once. c: cos .6 -> .5 (.4 + 1) = .7.

  b: orthogonal, prefix seen once -> .5 (1 + .5) = .75; 1/count would give 1, a
  count over this image only the same here, so c's image differs below. Mean
  instead of max cosine is told apart by the second half.
  """
  banks = filled(row("What is a?"))
  got = score([row("How many c?"), row("What is b?", response=1)], banks)
  np.testing.assert_allclose(got.reward, [0.7, 0.75], rtol=1e-6)
  np.testing.assert_allclose(got.delta_emb, [0.4, 1.0], rtol=1e-6)
  np.testing.assert_allclose(got.delta_ifreq, [1.0, 0.5])
  banks = filled(row("What is a?"), row("What is b?"))
  got = score([row("How many c?")], banks)
  np.testing.assert_allclose(got.delta_emb, [0.2], rtol=1e-5)  # mean cosine: .3


def test_banks_are_by_image_and_by_data_set():
  """Another image: embeddings do not count (d_emb 1), prefixes do (1/2).

  Both banks global: d_emb 0, reward .25. Both per image: reward 1.
  """
  got = score([row("What is a?", image="j")], filled(row("What is a?")))
  np.testing.assert_allclose(got.reward, [0.75])


def test_banks_hold_only_failures():
  """Invalid, correctly answered, unparsed and unscored questions leave no trace."""
  banks = filled(
    row("What is a?", valid=False),
    row("What is a?", correct=True),
    row("", status="unparsed"),
    row("What is a?", status="unscored"),
  )
  assert not banks.counts
  assert banks.embeddings("i").shape[0] == 0


def test_a_step_does_not_see_itself():
  """Two responses, one question: both earn 1. Appending while scoring: 1 and .25."""
  banks = rewards.Banks(2)
  rows = [row("What is a?"), row("What is a?", response=1)]
  np.testing.assert_allclose(score(rows, banks).reward, [1.0, 1.0])
  banks.append(rows, VECTORS)
  assert banks.counts == {"what is": 2}
  np.testing.assert_allclose(score(rows, banks).reward, [0.5 / 3] * 2, atol=1e-7)


@pytest.mark.parametrize(
  "earlier", [{}, {"valid": False}, {"correct": True}, {"status": "unscored"}]
)
def test_a_repeat_inside_one_response_earns_nothing_new(earlier):
  """Whatever its verdict, an earlier parsed slot counts: d_emb 0, reward .5 (0 + 1).

  Siblings ignored, or only failures among them counted, give 1.
  """
  got = score([row("What is a?", **earlier), row("What is a?", slot=1)])
  np.testing.assert_allclose(got.reward[1], 0.5)


def test_later_slots_and_other_responses_are_no_siblings():
  """The first of two equal slots, and a response beside it, still earn 1."""
  rows = [row("What is a?"), row("What is a?", slot=1), row("What is a?", response=1)]
  np.testing.assert_allclose(score(rows).reward, [1.0, 0.5, 1.0])


def test_one_image_twice_in_a_step():
  """Two groups of the same image: the slot starts again, so a new response.

  Grouping by (image, response index) alone would make the second a repeat.
  """
  got = score([row("What is a?"), row("What is a?")])
  np.testing.assert_allclose(got.reward, [1.0, 1.0])
  assert got.response_reward.shape == (2,)


def test_cosines_are_clipped():
  """cos = -1 gives 1, not 2; a rounded cos above 1 gives 0, not -1e-7."""
  assert rewards.semantic(np.array([1.0, 0.0]), np.array([[-1.0, 0.0]])) == 1.0
  vectors = np.random.default_rng(0).normal(size=(200, 384)).astype(np.float32)
  assert all(0.0 <= rewards.semantic(v, v[None]) < 1e-6 for v in vectors)


def test_penalty_and_masks():
  """Invalid and unparsed -1, correct 0, unscored masked and never in the mean.

  Response means: (-1 + 1)/2 = 0; an unscored slot as 0: -> 0 as well, so the second
  response holds 1 and unscored: 1, not .5. The third has nothing.
  """
  rows = [
    row("bad", valid=False),
    row("What is a?", slot=1),
    row("What is b?", response=1),
    row("?", response=1, slot=1, status="unscored"),
    row("?", response=2, status="unscored"),
    row("", response=3, status="unparsed"),
    row("easy", response=3, slot=1, correct=True),
  ]
  got = score(rows)
  np.testing.assert_allclose(got.reward, [-1, 1, 1, 0, 0, -1, 0])
  np.testing.assert_array_equal(got.scored, [1, 1, 1, 0, 0, 1, 1])
  np.testing.assert_allclose(got.response_reward, [0, 1, 0, -0.5])
  np.testing.assert_array_equal(got.response_scored, [1, 1, 0, 1])
  nothing = {"delta_emb": None, "delta_ifreq": None, "reward": None}
  assert got.record_fields(4) == nothing | {"response_reward": None}
  assert got.record_fields(3) == nothing | {"response_reward": 1.0}
  assert got.record_fields(0)["reward"] == -1.0


@pytest.mark.parametrize(
  ("terms", "want"),
  [
    (("semantic", "lexical", "penalty"), [0.25, -1.0]),
    (("semantic", "penalty"), [0.0, -1.0]),
    (("lexical", "penalty"), [0.25, -1.0]),  # .5 * .5, not .5
    (("penalty",), [1.0, -1.0]),  # Delta = 1, without lambda_scale
    (("semantic", "lexical"), [0.25, 0.0]),
    ((), [1.0, 0.0]),
  ],
)
def test_terms(terms, want):
  """Each ablation row of the paper's Table 4, on a repeated and an invalid question."""
  rows = [row("What is a?"), row("bad", valid=False, response=1)]
  got = score(rows, filled(row("What is a?")), terms=terms)
  np.testing.assert_allclose(got.reward, want, atol=1e-6)
  has = ("semantic" in terms, "lexical" in terms)
  assert (got.has_delta_emb[0], got.has_delta_ifreq[0]) == has
  assert not got.has_delta_emb[1]


def test_relative_lexical():
  """Counts 3 and 1, mean 2: 1/(1 + 1.5) = .4, 1/(1 + .5) = 2/3, new 1.

  Ten times the bank, same shares: unchanged, where eq. 4 gives 1/31.
  """
  for factor in (1, 10):
    counts = {"what is": 3 * factor, "how many": factor}
    got = [rewards.lexical_relative(t, counts) for t in ("what is", "how many", "is x")]
    np.testing.assert_allclose(got, [0.4, 2 / 3, 1.0])
  assert rewards.lexical_relative("what is", {}) == 1.0
  assert rewards.lexical_paper("what is", counts) == 1 / 31


@pytest.mark.parametrize(
  ("question", "length", "want"),
  [
    ("What is the colour?", 2, "what is"),
    ("  HOW   many?! ", 2, "how many"),
    ('"Is" - (the) cup', 2, "is the"),  # a lone dash is no word
    ("What's up", 2, "what's up"),  # inner punctuation stays
    ("Why?", 2, "why"),
    ("?!", 2, ""),
    ("What is the colour", 1, "what"),
    ("What is the colour", 9, "what is the colour"),
    ("¿Dónde está", 2, "dónde está"),
    ("की किताब", 1, "की"),  # a trailing vowel sign is not punctuation
  ],
)
def test_prefix(question, length, want):
  assert rewards.prefix(question, length) == want


def test_needs_embedding():
  """Failures and the parsed slots before them; nothing after, nothing unparsed."""
  rows = [
    row("before", valid=False),
    row("", slot=1, status="unparsed"),
    row("unsure", slot=2, status="unscored"),
    row("failure", slot=3),
    row("after", slot=4, valid=False),
    row("other", response=1, correct=True),
  ]
  assert rewards.needs_embedding(rows, PAPER["terms"]) == [
    "before",
    "unsure",
    "failure",
  ]
  assert rewards.needs_embedding(rows, ("lexical", "penalty")) == []
  vectors = {t: np.array(EAST) for t in ("before", "unsure", "failure")}
  score(rows, vectors=vectors)  # looks up nothing else


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="semantics"):
    score([], terms=("semantics",))
  with pytest.raises(ValueError, match="median"):
    score([], aggregate="median")
  with pytest.raises(ValueError, match="rare"):
    score([], lexical="rare")
  with pytest.raises(ValueError, match="prefix_length"):
    score([], prefix_length=3)
  with pytest.raises(ValueError, match="verdict"):
    score([Row("i", 0, 0, "ok", "What is a?", None, None)])
  assert score([]).response_reward.shape == (0,)


WORDS = ["What is", "how many", "Is the", "Where", "WHAT is,", "Which"]


def fake_embed(texts):
  """[N, 6] unit vectors that depend on the text only."""
  out = []
  for text in texts:
    seed = int.from_bytes(text.encode(), "little") % 2**32
    vector = np.random.default_rng(seed).normal(size=6) + 0.7
    out.append(vector / np.linalg.norm(vector))
  return np.array(out, np.float32)


def simulate(seed, steps=6, images=4, group=3, slots=3, **changes):
  """Runs the implementation over a made-up run and writes what records would hold."""
  settings = PAPER | changes
  generator = np.random.default_rng(seed)
  banks = rewards.Banks(settings["prefix_length"])
  records = []
  for step in range(steps):
    rows, groups = [], []
    for position in range(3):
      image = f"i{generator.integers(images)}"
      for g in range(group):
        for k in range(slots):
          status = generator.choice(["ok", "ok", "ok", "unparsed", "unscored"])
          text = f"{generator.choice(WORDS)} {generator.integers(4)} thing?"
          valid = bool(generator.random() < 0.8) if status == "ok" else None
          correct = bool(generator.random() < 0.4) if valid else None
          text = "" if status == "unparsed" else text
          rows.append(Row(image, g, k, str(status), text, valid, correct))
          groups.append(f"{step}-{position}")
    texts = rewards.needs_embedding(rows, settings["terms"])
    embeddings = dict(zip(texts, fake_embed(texts), strict=True))
    got = rewards.score_step(rows, embeddings, banks, **settings)
    banks.append(rows, embeddings)
    # Through a checkpoint at every step: a bank that loses something shows later.
    arrays, meta = banks.state()
    banks = rewards.Banks.from_state(
      arrays, json.loads(json.dumps(meta, sort_keys=True))
    )
    for i, r in enumerate(rows):
      record = r._asdict() | {"step": step, "group_id": groups[i]}
      records.append(record | got.record_fields(i))
  return pd.DataFrame(records)


@pytest.mark.parametrize("lexical", ["paper", "relative"])
@pytest.mark.parametrize(
  "terms",
  [("semantic", "lexical", "penalty"), ("semantic",), ("lexical", "penalty"), ()],
)
def test_brute_force(terms, lexical):
  """Every reward again from the rows alone; any bank or sibling rule shows here."""
  changes = {"terms": terms, "lexical": lexical, "lambda_scale": 0.7}
  df = simulate(len(terms), lambda_penalty=0.4, **changes)
  got = recompute_rewards(df, fake_embed, terms, (0.7, 0.4), 2, lexical)
  for name, values in got.items():
    want = df[name].to_numpy(float)
    np.testing.assert_allclose(values, want, atol=2e-6, err_msg=name)
  assert np.isfinite(got["reward"]).sum() > 100


@pytest.mark.parametrize("aggregate", ["mean", "sum", "max"])
def test_brute_force_aggregates(aggregate):
  df = simulate(7, steps=2, aggregate=aggregate, prefix_length=1)
  got = recompute_rewards(
    df, fake_embed, PAPER["terms"], (0.5, 1.0), 1, aggregate=aggregate
  )
  for name, values in got.items():
    np.testing.assert_allclose(values, df[name].to_numpy(float), atol=2e-6)
