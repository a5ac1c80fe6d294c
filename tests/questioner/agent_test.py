"""The agent on photographs: few shapes, and everything that a step takes of it."""

import io

import jax
import numpy as np
import PIL.Image
import pytest

from fmd_jax import models, types
from fmd_jax.data import Workers
from fmd_jax.questioner.agent import Agent
from tests.models import tiny

B = 6


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
  folder = tmp_path_factory.mktemp("questioner")
  models.save(tiny.model(seed=1), folder)
  tiny.write_processor(folder, min_pixels=56 * 56, max_pixels=28 * 28 * 16)
  return Agent(
    str(folder), questions=2, group_size=2, max_new_tokens=4, temperature=1.0
  )


@pytest.fixture(scope="module")
def photographs():
  """Plain pictures of 40 sizes, between 60 and 400 pixels a side."""
  rng = np.random.default_rng(0)
  out = []
  for i, (width, height) in enumerate(rng.integers(60, 400, (40, 2)).tolist()):
    file = io.BytesIO()
    colour = tuple(rng.integers(0, 255, 3).tolist())
    PIL.Image.new("RGB", (width, height), colour).save(file, "PNG")
    out.append(types.ImageExample(str(i), file.getvalue()))
  return out


def test_photographs_share_a_few_programs(agent, photographs):
  # Without buckets each shape is another program to compile, for minutes at full size.
  rng = np.random.default_rng(0)
  shapes = set()
  for _ in range(200):
    images = [photographs[i] for i in rng.choice(len(photographs), B, replace=False)]
    inputs = agent.prepare(images)
    shapes.add(str(jax.tree.map(np.shape, inputs)))
  assert len(shapes) < 12


@pytest.mark.parametrize("count", [0, 3])
def test_workers_and_their_cache_change_nothing(agent, photographs, count):
  # Joined as they finish, images would swap places; kept under a name that another
  # image or another size has too, one would stand for the other.
  images = [*photographs[:B], photographs[0]]
  wanted = agent.encode(images, Workers())
  with Workers(count, cache_mb=1) as workers:
    for _ in range(2):
      got = agent.encode(images, workers)
      for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(got, name), value)
    broken = types.ImageExample("broken", b"no picture")
    with pytest.raises(ValueError, match="not a readable image: its format is unknown"):
      agent.encode([*images, broken], workers)


def test_what_may_be_said(agent):
  # Rows past the tokenizer's last token are allowed nowhere: they decode to nothing.
  size = agent.processor.vocab_size
  assert size < len(agent.allowed_tokens) == tiny.VOCABULARY
  assert not agent.allowed_tokens[size:].any()
  assert agent.allowed_tokens[: tiny.WORDS].all()
