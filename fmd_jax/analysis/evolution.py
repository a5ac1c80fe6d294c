"""How one image's questions change through training: figure 10 of the paper.

Three measures of a question, all ours; the paper shows examples only:
- length: its words;
- depth: how many references hang on each other, counted by the words that tie one
  thing to another ("the circle left of the star above …");
- granularity: mean surprise of its words, -log2 of the share of all valid questions of
  the pool that have the word. Questions of fine detail use rare words.
"""

import re

import numpy as np
import pandas as pd
from scipy import stats

from fmd_jax.analysis.rows import arms

MEASURES = ("length", "depth", "granularity")
_TIES = re.compile(
  r"\b(left of|right of|in front of|next to|close(?:st)? to|near(?:est)?(?: to)?|"
  r"on top of|above|below|beneath|under(?:neath)?|over|behind|beside|between|inside|"
  r"outside|around|along|across|against|attached to|connected to|held by|worn by|"
  r"facing|closer to|farther from|furthest from|that|which|whose|with|containing)\b"
)
_WORD = re.compile(r"[^\W_]+(?:'\w+)?")


def words(question: str) -> list[str]:
  """Its words, in lower case."""
  return _WORD.findall(question.casefold())


def depth(question: str) -> int:
  """The words that tie one referred thing to another."""
  return len(_TIES.findall(question.casefold()))


def measure(questions: pd.Series) -> pd.DataFrame:
  """[N] questions -> length, depth, granularity, on the same index."""
  distinct = questions.drop_duplicates()
  weight = questions.map(questions.value_counts())[distinct.index].to_numpy()
  own = [set(words(text)) for text in distinct]
  have: dict[str, int] = {}
  for text, times in zip(own, weight):
    for word in text:
      have[word] = have.get(word, 0) + int(times)
  total = max(len(questions), 1)
  table = pd.DataFrame(
    {
      "length": [len(words(text)) for text in distinct],
      "depth": [depth(text) for text in distinct],
      "granularity": [
        float(np.mean([-np.log2(have[w] / total) for w in text])) if text else 0.0
        for text in own
      ],
    },
    index=distinct.to_numpy(),
  )
  return table.loc[questions.to_numpy()].set_axis(questions.index)


def trends(rows: pd.DataFrame) -> pd.DataFrame:
  """Whether questions get longer, deeper, finer with the step.

  Kendall's tau-b between step and an image's mean at that step, for each image; the
  test is Wilcoxon's signed rank test of the images' taus against 0, so that images, not
  questions, are the sample.

  Args:
    rows: of `rows.read`.

  Returns:
    arm, measure, first and last (means of the first and last third of the steps), tau
    (mean over images), tau_low, tau_high (95 %, by t), p, images.
  """
  out = []
  for arm, protocol, own in arms(rows):
    own = own[own["valid"]]
    if protocol != "during" or own["step"].nunique() < 3:
      continue
    measured = measure(own["question"]).assign(step=own["step"], image=own["image_id"])
    third = (measured["step"] * 3 // (measured["step"].max() + 1)).to_numpy()
    for name in MEASURES:
      means = measured.groupby(["image", "step"])[name].mean().reset_index()
      taus = np.array(
        [
          stats.kendalltau(part["step"], part[name]).statistic
          for _, part in means.groupby("image")
          if part[name].nunique() > 1 and len(part) > 2
        ]
      )
      low, high, p = _around(taus)
      out.append(
        {
          "arm": arm,
          "measure": name,
          "first": measured.loc[third == 0, name].mean(),
          "last": measured.loc[third == 2, name].mean(),
          "tau": taus.mean() if len(taus) else None,
          "tau_low": low,
          "tau_high": high,
          "p": p,
          "images": len(taus),
        }
      )
  return pd.DataFrame(out)


def _around(taus: np.ndarray) -> tuple[float | None, float | None, float | None]:
  if len(taus) < 3 or taus.std() == 0:
    return None, None, None
  half = stats.t.ppf(0.975, len(taus) - 1) * stats.sem(taus)
  mean = taus.mean()
  return mean - half, mean + half, float(stats.wilcoxon(taus).pvalue)


def one_image(rows: pd.DataFrame, image_id: str | None = None) -> pd.DataFrame:
  """An image's distinct valid questions through training.

  Args:
    rows: of one arm while training.
    image_id: None takes the image with the most distinct valid questions.

  Returns:
    image_id, step (of the first time), question, failure, length, depth, granularity.
    Empty when the image has none.
  """
  own = rows[rows["valid"]].sort_values("place")
  measured = own.join(measure(own["question"]))
  first = measured.drop_duplicates(["image_id", "question"])
  if image_id is None and len(first):
    image_id = first["image_id"].value_counts(sort=True).sort_index().idxmax()
  first = first[first["image_id"] == image_id]
  columns = ["image_id", "step", "question", "failure", *MEASURES]
  return first[columns].reset_index(drop=True)
