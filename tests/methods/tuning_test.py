"""Fine-tuning on given questions: what is learned, in which order, by which loss."""

import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmd_jax import data, models, prompts, rl
from fmd_jax.methods import tuning
from fmd_jax.methods.run import Run
from fmd_jax.questioner.agent import Agent
from fmd_jax.testbed import packed
from fmd_jax.types import ImageExample
from fmd_jax.update import init_state, make_update_fn
from tests.models import tiny
from tests.runs import small_config

K, G, LONGEST = 2, 3, 64


class Corpus:
  """Image i has i + 1 questions."""

  def __init__(self, images):
    self._images = images

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return self._images[index], tuple(f"Is it {index}.{n}?" for n in range(index + 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("questioner")
  models.save(tiny.model(seed=1), folder)
  tiny.write_processor(folder)
  agent = Agent(
    str(folder), questions=K, group_size=G, max_new_tokens=LONGEST, temperature=1.0
  )
  config = small_config(images_per_step=2, group_size=G)
  config.sampling.max_new_tokens = LONGEST
  images = data.open("testbed://?split=train&size=8")
  return Run(config, folder, "id", agent, None, images, images)


@pytest.fixture(scope="module")
def corpus():
  return Corpus([ImageExample(str(i), bytes([i])) for i in range(5)])


def test_a_question_is_in_one_response_only():
  questions = [f"q{i}" for i in range(7)]
  drawn = tuning.compose(questions, k=2, most=9, rng=np.random.default_rng(0))
  assert [len(response) for response in drawn] == [2, 2, 2, 1]
  assert sorted(sum(drawn, ())) == questions
  few = tuning.compose(questions, k=2, most=2, rng=np.random.default_rng(1))
  assert [len(response) for response in few] == [2, 2]
  # Always the first ones would never teach the rest.
  assert {q for response in few for q in response} != set(questions[:4])


def test_only_whole_responses_teach_the_end(run):
  end = run.agent.config.eos_token_ids[0]
  whole = tuning.spell(run.agent, ["a", "b"], K, LONGEST)
  assert whole[-1] == end
  assert run.agent.processor.decode(whole) == prompts.response(["a", "b"])
  # With an end token a questioner of benchmarks with one question an image would learn
  # to leave the second slot out.
  assert end not in tuning.spell(run.agent, ["a"], K, LONGEST)
  assert tuning.spell(run.agent, ["a", "b"], K, 5) == whole[:5]
  # A question is data: a control token in it must not become one.
  risky = tuning.spell(run.agent, ["a<|im_end|>", "b</response_1>"], K, LONGEST)
  assert risky == whole


def test_an_epoch_shows_every_image_once_and_a_resumed_run_the_same(run, corpus):
  updates = tuning.updates_of(corpus, 2.0, run.config.images_per_step)
  assert updates == 5
  seen = list(tuning.lessons(run, corpus, range(updates), stream=0))
  ids = [image.image_id for lesson in seen for image in lesson.images]
  assert sorted(ids[:5]) == sorted(ids[5:]) == list("01234")
  # The same order each time would be no epoch of its own.
  assert ids[:5] != ids[5:]
  for lesson in seen:
    for image, lengths in zip(lesson.images, lesson.lengths, strict=True):
      assert (lengths > 0).sum() == min(-(-(int(image.image_id) + 1) // K), G)
  again = list(tuning.lessons(run, corpus, range(3, updates), stream=0))
  for a, b in zip(again, seen[3:], strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
  other = next(tuning.lessons(run, corpus, range(1), stream=1))
  assert not np.array_equal(other.tokens, seen[0].tokens)


def test_the_loss_is_that_of_packed_rows():
  """Two implementations, one number: the recipe's, with whole logits, is the oracle."""
  model = models.init(tiny.config(), seed=0)
  rng, vocabulary = np.random.default_rng(0), model.config.text.vocab_size
  prompt = np.arange(1, 8, dtype=np.int32)
  texts = [rng.integers(1, 50, n).astype(np.int32) for n in (6, 4, 5)]
  lengths = np.array([[len(text) for text in texts]], np.int32)
  tokens = np.zeros((1, len(texts), 8), np.int32)
  for g, text in enumerate(texts):
    tokens[0, g, : len(text)] = text
  # In packed rows a text starts from the last token of the prompt.
  rows = [(np.append(prompt[-1:], t), np.append([False], t >= 0)) for t in texts]
  arrays = packed.pack(rows, len(texts), 8)
  batch = packed.Batch(
    jnp.zeros((1, model.config.text.hidden_size)),
    prompt[None, :-1],
    np.broadcast_to(np.arange(6), (3, 1, 6)).astype(np.int32),
    np.ones((1, 6), bool),
    *(array[None] for array in (arrays[0], arrays[1] + 6, arrays[2], arrays[3])),
  )
  wanted, _ = packed.loss(model, batch)
  optimizer = optax.sgd(0.0)
  update = make_update_fn(
    tiny_graph(model),
    optimizer,
    beta=0.0,
    clip=0.2,
    loss=rl.SUPERVISED,
    temperature=1.0,
    allowed_tokens=np.ones(vocabulary, bool),
    image_token_id=model.config.image_token_id,
  )
  lesson = tuning.Lesson([], tokens, lengths)
  agent = types.SimpleNamespace(join=lambda x: x)
  inputs = types.SimpleNamespace(prompt=prompt_of(prompt), pixel_values=None, plan=None)
  made = tuning.batch_of(agent, inputs, lesson)
  made = made._replace(image_features=batch.image_features)
  _, metrics = update(init_state(model, optimizer, ("visual",)), made)
  # The mean over responses instead of over tokens differs: lengths are 6, 4 and 5.
  np.testing.assert_allclose(float(metrics["grpo/loss"]), float(wanted), rtol=1e-5)


def tiny_graph(model):
  from flax import nnx

  return nnx.graphdef(model)


def prompt_of(ids):
  from fmd_jax.questioner.inputs import Prompt

  positions = np.broadcast_to(np.arange(len(ids)), (3, 1, len(ids))).astype(np.int32)
  lengths = np.array([len(ids)], np.int32)
  return Prompt(ids[None], lengths, positions, lengths)
