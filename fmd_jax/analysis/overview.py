"""Methods beside each other: tables 1 and 4 to 7 and figure 5 of the paper."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax import metrics
from fmd_jax.analysis.rows import arms, interval, known

Embed = Callable[[Sequence[str]], Float[np.ndarray, "N E"]]
MOST = 1000  # questions that SD is taken of, at most
FEWEST = 30  # valid questions of a meta-skill for its rates to be drawn
_SEED = 0


class Diversity:
  """SD and LD of equally many questions, embedding each distinct text once."""

  def __init__(self, embed: Embed):
    self._embed = embed
    self._vectors: dict[str, np.ndarray] = {}

  def __call__(
    self, questions: Sequence[str], common_n: int
  ) -> dict[str, float | None]:
    """SD (Vendi) and LD of `common_n` of the questions, drawn once without return."""
    if common_n < 2 or common_n > len(questions):
      return {"sd": None, "ld": None}
    generator = np.random.default_rng(_SEED)
    at = generator.choice(len(questions), common_n, replace=False)
    drawn = [questions[i] for i in np.sort(at)]
    new = sorted(set(drawn) - set(self._vectors))
    if new:
      self._vectors.update(zip(new, self._embed(new)))
    vectors = np.stack([self._vectors[text] for text in drawn])
    return {"sd": metrics.vendi(vectors), "ld": metrics.prefix_entropy(drawn)["ld"]}


def table(rows: pd.DataFrame, runs: pd.DataFrame, diversity: Diversity) -> pd.DataFrame:
  """Tables 1 and 4 to 7: one line for each arm and protocol.

  Table 1 is the lines of one run; 4, 5, 6 and 7 are those of runs that differ in terms,
  questions_per_image, prefix_length, and questioner or answerer.

  Args:
    rows: of `rows.read`.
    runs: of `rows.describe`.
    diversity: of the questions.

  Returns:
    arm, method, protocol, the columns of `runs`, questions, valid; qvr, fdr, coverage
    (SC) with _low and _high; common_n, sd and ld (of so many valid questions in all
    lines of a protocol), skills (# Skills).
  """
  counts = {
    protocol: min(int(own["valid"].sum()) for _, p, own in arms(rows) if p == protocol)
    for protocol in rows["protocol"].unique()
  }
  out = []
  for arm, protocol, own in arms(rows):
    found = metrics.rates(own)
    valid = own[own["valid"]]
    skills = known(own)
    common = min(counts[protocol], MOST)
    sizes = metrics.complexity(skills["image_id"].tolist(), skills["skills"].tolist())
    line = {"arm": arm, "method": own["method"].iloc[0], "protocol": protocol}
    line["workdir"] = own["workdir"].iloc[0]
    line |= {"questions": len(own), "valid": len(valid)}
    line |= interval("qvr", found["qvr"]) | interval("fdr", found["fdr"])
    line |= {"common_n": common} | diversity(valid["question"].tolist(), common)
    line["skills"] = metrics.n_skills(skills["skills"].tolist())
    out.append(line | interval("coverage", sizes["mean"]))
  merged = pd.DataFrame(out).merge(runs, on="workdir", how="left")
  first = ["arm", "method", "protocol", *runs.columns]
  return merged[first + [name for name in merged if name not in first]]


def per_meta_skill(rows: pd.DataFrame, diversity: Diversity) -> pd.DataFrame:
  """Figure 5: failure rate, SD and LD of each meta-skill and arm.

  Args:
    rows: of `rows.read`.
    diversity: of the questions.

  Returns:
    protocol, meta_skill, arm, n, fdr, fdr_low, fdr_high, common_n, sd, ld. SD and LD
    are those of equally many questions in all arms of a meta-skill, 1000 at most.
    Meta-skills with fewer than 30 valid questions in an arm have no line for it.
  """
  own = known(rows)
  flat = own[["arm", "protocol", "image_id", "question", "failure", "meta_skills"]]
  flat = flat.explode("meta_skills").rename(columns={"meta_skills": "meta_skill"})
  out = []
  for (protocol, meta), part in flat.groupby(["protocol", "meta_skill"], sort=True):
    sizes = part["arm"].value_counts()
    present = sizes[sizes >= FEWEST]
    common = min(int(present.min()), MOST) if len(present) else 0
    for arm, mine in part.groupby("arm", sort=True):
      if arm not in present.index:
        continue
      _, sums = metrics.cluster_sums(
        mine["image_id"], [mine["failure"].to_numpy(), np.ones(len(mine))]
      )
      (rate,) = metrics.ratio_estimates(sums[:, :1], sums[:, 1:])
      line = {"protocol": protocol, "meta_skill": meta, "arm": arm, "n": len(mine)}
      line |= interval("fdr", rate) | {"common_n": common}
      out.append(line | diversity(mine["question"].tolist(), common))
  return pd.DataFrame(out)
