"""Topics to skills to meta-skills: labels, their merging, and groups of them."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float
from tqdm import tqdm

from fmd_jax import prompts
from fmd_jax.inference import Embedder, Generator, identity
from fmd_jax.records.files import write_atomic
from fmd_jax.taxonomy import asking, duplicates, topics

SHOWN = 16  # phrases of a topic that the namer sees
UNSORTED = "unsorted"  # the meta-skill of skills that nobody has sorted
_BATCH = 64


def normalise(label: str) -> str:
  """One spelling for a label, without "the skill of …" or "… skills"."""
  return duplicates.normalise(label.replace("_", " ").replace("-", " "))


def label_topics(
  primitives: pd.DataFrame,
  vectors: Float[np.ndarray, "P E"],
  keywords: Sequence[Sequence[str]],
  namer: Generator,
  cache: epath.Path,
  *,
  max_tokens: int,
  retries: int,
) -> pd.DataFrame:
  """Asks the namer for a label of each topic.

  What it has said of the same phrases before is in `cache`, a JSON file. A topic that
  it fails to name is called by its most frequent phrase, and `named` is false.

  Args:
    primitives: P rows with phrase, count, topic.
    vectors: [P, E].
    keywords: of each topic.
    namer: whom to ask.
    cache: labels by what was shown.
    max_tokens: longest reply.
    retries: of a reply outside the grammar.

  Returns:
    One row a topic: topic, label, named, error.
  """
  said = json.loads(cache.read_text()) if cache.is_file() else {}
  shown = _shown(primitives, vectors)
  keys = []
  for phrases, words in zip(shown, keywords, strict=True):
    key = [identity(namer), prompts.version("namer"), phrases, list(words)]
    keys.append(hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16])
  todo = [t for t in range(len(shown)) if keys[t] not in said]
  errors: dict[int, str] = {}
  bar = tqdm(total=len(shown), initial=len(shown) - len(todo), desc="name topics")
  for start in range(0, len(todo), _BATCH):
    part = todo[start : start + _BATCH]
    outcomes = asking.name_topics(
      namer,
      [(shown[t], keywords[t]) for t in part],
      max_tokens=max_tokens,
      retries=retries,
    )
    for t, outcome in zip(part, outcomes):
      if outcome.value is None:
        errors[t] = outcome.error
      else:
        said[keys[t]] = outcome.value
    write_atomic(cache, json.dumps(said, indent=1, ensure_ascii=False).encode())
    bar.update(len(part))
  bar.close()
  frequent = primitives.sort_values(["count", "phrase"], ascending=[False, True])
  frequent = frequent.drop_duplicates("topic").set_index("topic")["phrase"]
  named = [key in said for key in keys]
  said |= {key: frequent[t] for t, key in enumerate(keys) if key not in said}
  return pd.DataFrame(
    {
      "topic": range(len(shown)),
      "label": [
        said[key] if key in said else frequent[t] for t, key in enumerate(keys)
      ],
      "named": named,
      "error": [errors.get(t, "") for t in range(len(shown))],
    }
  )


def _shown(
  primitives: pd.DataFrame, vectors: Float[np.ndarray, "P E"]
) -> list[list[str]]:
  """Up to SHOWN phrases of each topic: its most central and its most frequent ones."""
  topic = primitives["topic"].to_numpy()
  centres = topics.centres(vectors, topic)
  central = np.einsum("pe,pe->p", vectors, centres[topic])
  count = primitives["count"].to_numpy()
  out = []
  for t in range(len(centres)):
    own = np.flatnonzero(topic == t)
    order = [own[np.argsort(-by[own], kind="stable")] for by in (central, count)]
    mixed = np.stack(order, 1).ravel() if len(own) else own
    chosen = list(dict.fromkeys(mixed.tolist()))[:SHOWN]
    out.append(primitives["phrase"].iloc[chosen].tolist())
  return out


def merge_labels(
  labels: pd.DataFrame,
  weight: Sequence[int],
  embedder: Embedder,
  threshold: float,
) -> dict[str, list[int]]:
  """Topics whose labels are the same, or nearly, become one skill.

  Args:
    labels: of `label_topics`.
    weight: of each topic; the heaviest label of near-duplicates names the skill.
    embedder: of labels.
    threshold: of the cosine.

  Returns:
    skill -> its topics, heaviest skill first.
  """
  groups: dict[str, list[int]] = {}
  weights: dict[str, int] = {}
  for topic, label in zip(labels["topic"], labels["label"]):
    name = normalise(label)
    groups.setdefault(name, []).append(int(topic))
    weights[name] = weights.get(name, 0) + int(weight[topic])
  names = sorted(groups, key=lambda name: (-weights[name], name))
  parent, _ = duplicates.representatives(embedder.embed(names), threshold)
  skills: dict[str, list[int]] = {}
  for at, name in enumerate(names):
    skills.setdefault(names[parent[at]], []).extend(groups[name])
  return {skill: sorted(own) for skill, own in skills.items()}


def organize(
  skills: Sequence[str], namer: Generator, *, max_tokens: int, retries: int
) -> tuple[list[dict], str]:
  """Meta-skills of skills: dicts of name, description, skills; and an error.

  When the namer fails they all are UNSORTED and the error says why.
  """
  found = asking.organize(namer, skills, max_tokens=max_tokens, retries=retries)
  if found.value is None:
    return [{"name": UNSORTED, "description": "", "skills": list(skills)}], found.error
  return found.value, ""
