"""Dialogues that teach ConMe's second turn, and what was learned from them."""

import random

import numpy as np
import pytest

from fmd_jax import inference
from fmd_jax.inference.engines import folders
from fmd_jax.models.processor import Processor
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.testbed import dataset, recipe, two_turns
from fmd_jax.world.oracle import judge_answer, judge_question
from fmd_jax.world.questions import UNIFORM, sample_question
from fmd_jax.world.scenes import sample_scene


@pytest.fixture
def talk():
  """A scene, and questions about it with their verdicts."""
  rng = random.Random(3)
  scene = sample_scene(rng)
  asked = [sample_question(rng, scene, UNIFORM) for _ in range(60)]
  return scene, list({a.text: (a.text, a.verdict) for a in asked}.values())


def test_the_made_up_target_errs_evenly_and_only_where_it_is_said_to(talk):
  _, pool = talk
  rng, errors = random.Random(0), dict.fromkeys((q for q, _ in pool), 0)
  rounds = 300
  for _ in range(rounds):
    first = two_turns.said(rng, *zip(*pool, strict=True))
    for (question, verdict), answer in zip(pool, first.answers, strict=True):
      wrong = not judge_answer(verdict, answer)
      assert wrong == any(verdict is m for m in first.mistaken)
      errors[question] += wrong
  rates = np.array(list(errors.values())) / rounds
  # Five standard errors; a target with blind spots has some rates of 1, others of 0.
  assert abs(rates - two_turns.MISTAKES).max() < 5 * np.sqrt(0.21 / rounds)


def test_harder_questions_are_new_and_nearest_to_a_mistake(talk):
  _, pool = talk
  verdicts, rng = dict(pool), random.Random(0)
  gone_on = 0
  for at in range(0, len(pool) - 2, 2):
    questions = [q for q, _ in pool[at : at + 2]]
    first = two_turns.Said(questions, ["?"] * 2, [verdicts[questions[0]]])
    programs = {verdicts[q].program for q in questions}
    left = [v for q, v in pool if q not in questions and v.program not in programs]
    best = max(two_turns.goes_on(v, first.mistaken) for v in left)
    chosen = two_turns.harder(rng, first, pool, 2)
    # By another wording an old question would come back as a new one.
    assert not programs & {verdicts[q].program for q in chosen}
    assert len({verdicts[q].program for q in chosen}) == 2
    assert two_turns.goes_on(verdicts[chosen[0]], first.mistaken) == best
    gone_on += best == 2
  assert gone_on > 5
  assert two_turns.harder(rng, first, pool[:3], 4) is None


def test_the_lesson_is_what_conme_asks_and_only_the_last_response_is_learned(
  talk, tmp_path
):
  scene, pool = talk
  shop = recipe.Workshop(tmp_path, recipe.SMOKE, "two_turns")
  (one, known), (two, _), (three, _), (four, _) = pool[:4]
  first = two_turns.Said([one, two], ["red", "no"], [known])
  text = two_turns.text_of(shop, first, 2, [three, four], scene)
  (encoded,) = dataset.encode(shop.tokenizer, [text])
  prompt = recipe.prompt_of(shop.processor, shop.config, "questioner", k=2)
  ids = [*prompt.ids, prompt.last, *encoded.ids[~encoded.learned]]
  processor = Processor.from_folder(inference.checkpoint_folder(two_turns.BASE))
  chat = processor.tokens(processor.chat(two_turns.dialogue(first, 2)))
  image = chat.index(processor.image_token_id)
  wanted = [*chat[:image], *chat[image : image + 1] * dataset.CELLS, *chat[image + 1 :]]
  assert ids == wanted
  learned = processor.decode(encoded.ids[encoded.learned])
  assert parse_response(learned, 2) == [three, four]
  # A pointer that is counted from the response lies in the prompt.
  assert encoded.points[encoded.learned].any()
  assert not encoded.points[~encoded.learned].any()
  assert judge_question(three, scene).valid


@pytest.mark.slow
def test_the_shipped_one_asks_a_second_turn_that_its_start_can_not():
  taught, base = (
    two_turns.measure(inference.checkpoint_folder(spec), 12, 2)
    for spec in ("hf://testbed/questioner_two_turns", two_turns.BASE)
  )
  assert taught["n"] == base["n"] == 96
  assert taught["first"] == base["first"] and base["first"]["valid"] >= 0.75
  assert taught["unparsed"] <= 0.02 and taught["valid"] >= 0.75
  assert base["unparsed"] >= 0.5


def test_the_questioner_of_all_tables_is_as_it_was():
  folder = inference.checkpoint_folder(two_turns.BASE)
  assert folders.revision(folder) == "19ddcd5f1434"
