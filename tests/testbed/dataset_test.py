"""What the tiny models are taught: texts, pointers, planted answers."""

import random

import numpy as np
import pytest
import tokenizers

from fmd_jax.testbed import dataset, folder, planted
from fmd_jax.testbed.card import ASSETS
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.questions import UNIFORM, sample_question
from fmd_jax.world.scenes import VALUES, sample_scene


def _asked(n, seed=0):
  rng = random.Random(seed)
  for _ in range(n // 4):
    scene = sample_scene(rng)
    for _ in range(4):
      yield scene, sample_question(rng, scene, UNIFORM)


@pytest.mark.parametrize("spots", planted.BLIND_SPOTS)
def test_only_planted_cells_are_taught_wrong_and_always_the_same_way(spots):
  wrong, right = {}, 0
  for scene, asked in _asked(6000):
    taught = planted.believed_answer(asked.verdict, scene, spots)
    spot = planted.blind_spot(asked.verdict, spots)
    if spot is None:
      # A label corrupted outside its cell would be a blind spot nobody knows of.
      assert taught == asked.verdict.answer
      right += 1
    else:
      wrong.setdefault(spot.cell, []).append(taught != asked.verdict.answer)
  assert right and set(wrong) == {spot.cell for spot in planted.BLIND_SPOTS[spots]}
  for cell, flips in wrong.items():
    # A claim ("is the star red?") may be denied rightly for a wrong reason.
    assert np.mean(flips) > 0.75, cell


def test_a_planted_belief_is_one_belief_in_questions_and_claims():
  colors = VALUES["color"]
  scene = sample_scene(random.Random(4))
  star = scene.objects[0].__class__("star", "red", "large", "solid", 30.0, 30.0)
  scene = scene.__class__((star,), 220, 0)
  belief = colors[1]
  asked = judge_question("What color is the star?", scene)
  assert planted.believed_answer(asked, scene, "first") == belief
  for color in colors:
    claim = judge_question(f"Is the star {color}?", scene)
    wanted = "yes" if color == belief else "no"
    assert planted.believed_answer(claim, scene, "first") == wanted


def test_pointers_cover_the_words_and_mean_the_objects():
  rng = random.Random(2)
  for _ in range(200):
    scene = sample_scene(rng)
    text = dataset.answerer_text(rng, scene, UNIFORM, "first")
    for pointer in text.pointers:
      assert pointer.cells
      assert set(pointer.cells) <= {item.cell for item in scene.objects}
      assert text.text[pointer.start : pointer.end].strip(" ?") or (
        text.text[pointer.start] == "\n"
      )
  assert text.text[text.learned_from :].endswith(dataset.END)


def test_encode_moves_pointers_to_the_right_tokens():
  tokenizer = tokenizers.Tokenizer.from_file(str(ASSETS / "answerer/tokenizer.json"))
  text = "What color is the red circle?" + dataset.TURN + "red" + dataset.END
  start = text.index("circle")
  example = dataset.Text(
    text,
    text.index("\nred") + 1,
    [dataset.Pointer(start, start + 6, (3, 5))],
  )
  (encoded,) = dataset.encode(tokenizer, [example])
  place = [tokenizer.id_to_token(int(i)) for i in encoded.ids].index("Ġcircle")
  np.testing.assert_allclose(encoded.points[place, [3, 5]], 0.5)
  assert np.delete(encoded.points, place, 0).sum() == 0
  said = [tokenizer.id_to_token(int(i)) for i in encoded.ids[encoded.learned]]
  assert said == ["red", "<|im_end|>"]


def test_every_word_of_the_world_is_one_token():
  tokenizer = folder.train_tokenizer()
  words = {w for _, asked in _asked(2000, 1) for w in asked.text[:-1].split()[1:]}
  split = {w for w in words if len(tokenizer.encode(f" {w}").ids) != 1}
  # A word in pieces would make a question longer than the sampler's limit.
  assert not split
