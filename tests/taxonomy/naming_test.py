"""Labels to skills."""

import json

import numpy as np
import pandas as pd
import pytest

from fmd_jax.inference import Reply
from fmd_jax.taxonomy import naming
from tests.taxonomy.asking_test import Says


@pytest.mark.parametrize(
  "label",
  [
    "Sign Recognition",
    "sign-recognition",
    "The skill of sign recognition.",
    "Ability of sign_recognition",
    "sign recognition skills",
    "Sign  recognition task",
  ],
)
def test_one_spelling(label):
  assert naming.normalise(label) == "sign recognition"


@pytest.mark.parametrize(
  ("label", "expected"),
  [("Skill", "skill"), ("Task switching", "task switching"), ("The skills", "skills")],
)
def test_no_label_is_normalised_away(label, expected):
  assert naming.normalise(label) == expected


class Embeds:
  name, revision = "embeds", ""

  def embed(self, texts):
    angle = {"hue": 0.0, "colour": 0.1, "reading": 1.5}
    return np.array([[np.cos(angle[t]), np.sin(angle[t])] for t in texts], np.float32)


def test_equal_and_near_labels_become_one_skill_named_by_the_heaviest():
  # Wrong: the name depends on the order of the topics.
  labels = ["Colour", "hue", "Reading skill", "the skill of reading"]
  table = pd.DataFrame({"topic": range(4), "label": labels})
  merged = naming.merge_labels(table, [5, 9, 1, 1], Embeds(), 0.9)
  assert merged == {"hue": [0, 1], "reading": [2, 3]}
  merged = naming.merge_labels(table, [9, 5, 1, 1], Embeds(), 0.999)
  assert merged == {"colour": [0], "hue": [1], "reading": [2, 3]}


def primitives():
  vectors = np.eye(4, dtype=np.float32)
  table = pd.DataFrame(
    {"phrase": list("abcd"), "count": [1, 5, 2, 2], "topic": [0, 0, 1, 1]}
  )
  return table, vectors, [["k0"], ["k1"]]


def test_a_topic_that_nobody_named_is_called_by_its_most_frequent_phrase(tmp_path):
  namer = Says(['{"label": "First"}', Reply("", error="down")])
  cache = tmp_path / "labels.json"
  options = {"max_tokens": 9, "retries": 0}
  found = naming.label_topics(*primitives(), namer, cache, **options)
  assert found["label"].tolist() == ["First", "c"]
  assert found["named"].tolist() == [True, False]
  assert found["error"].tolist() == ["", "down"]
  # Again: only the one that failed is asked for. Wrong: the made-up name is kept.
  namer = Says(['{"label": "Second"}'])
  found = naming.label_topics(*primitives(), namer, cache, **options)
  assert found["label"].tolist() == ["First", "Second"]
  (request,) = namer.requests[0]
  assert json.loads(request.fields["phrases"]) == ["c", "d"]


def test_a_namer_that_cannot_organise_leaves_all_unsorted():
  found, error = naming.organize(["a", "b"], Says(["no"]), max_tokens=9, retries=0)
  assert found == [{"name": "unsorted", "description": "", "skills": ["a", "b"]}]
  assert "no JSON object" in error
