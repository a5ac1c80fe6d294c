"""The testbed's judge: it reads the scene out of the image itself; exact or noisy."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fmd_jax
from fmd_jax.inference.protocol import Reply, Request
from fmd_jax.types import CRITERIA
from fmd_jax.world import oracle, png, wordings
from fmd_jax.world.paraphrase import paraphrase
from fmd_jax.world.skills import EASY_SKILLS, skills_of

# Why a criterion holds and why not, in the exact judge's words.
_WHY = {
  "grammatical": ("a well-formed question", "not a well-formed question"),
  "atomic": ("asks one thing", "two questions in one"),
  "grounded": ("answered by what is visible", "the image does not tell"),
  "objective": ("has one answer", "a matter of opinion"),
}


@dataclasses.dataclass(frozen=True)
class Noise:
  """The known error of a judge that looks for two faults, one after the other.

  1. The question is invalid. An invalid one is called so with probability `se`, a
     valid one is called valid with probability `sp`. A valid question called invalid
     fails one criterion, each as likely.
  2. The answer is wrong, asked only of a question called valid. A wrong answer to a
     valid question is called wrong with probability `se`, a right one right with
     probability `sp`. An invalid question has no true answer: a fair coin.

  The two are independent: a failure (valid, answered wrongly) is reported as one with
  probability sp * se. All draws are a hash of the seed, the image, the question and,
  for the second, the answer; so all answers to a question find it equally valid.

  By difficulty, the error (1 - se or 1 - sp) of a valid question is multiplied by

    1/2  it needs one easy skill (`world.skills.EASY_SKILLS`)
    1    it needs one other skill
    2    it needs several skills

  and is at most 1/2, a coin. Of questions drawn evenly over the skills, as
  `world.questions.sample_question` does, these are 26 %, 59 % and 15 %: on average the
  error is 1.02 times the asked one up to 1/4, then the cap lowers it (.87 times at
  1/2). Invalid questions, many of which need no skill, keep the asked error.

  The reason for `correct` is "the answer is right" or "the answer is wrong": the exact
  judge's names the true answer, which would give a wrong verdict away.

  Attributes:
    se: sensitivity, a probability in [.5, 1].
    sp: specificity, a probability in [.5, 1].
    by_difficulty: whether the error grows with the question's difficulty.
    seed: whole number from 0.
  """

  se: float = 1.0
  sp: float = 1.0
  by_difficulty: bool = False
  seed: int = 0

  def __str__(self) -> str:
    by = "&by=difficulty" if self.by_difficulty else ""
    return f"se={self.se}&sp={self.sp}{by}&seed={self.seed}"

  def disturb(
    self,
    verdict: dict[str, dict],
    skills: Sequence[str],
    image: bytes,
    question: str,
    answer: str,
  ) -> dict[str, dict]:
    """The verdict that the noisy judge gives in place of the exact one.

    Args:
      verdict: `world.oracle.judge` of the question and the answer.
      skills: that the question needs.
      image: the encoded image, as it came with the request.
      question: as asked.
      answer: as given.
    """
    item = (self.seed, hashlib.blake2b(image).hexdigest(), question)
    valid = all(verdict[name]["ok"] for name in CRITERIA)
    factor = _difficulty(skills) if valid and self.by_difficulty else 1.0
    flipped = _uniform("valid", *item) < self._error(not valid, factor)
    if valid == flipped:
      failing = {}
      if flipped:
        name = CRITERIA[int(len(CRITERIA) * _uniform("criterion", *item))]
        failing[name] = {"ok": False, "why": _WHY[name][1]}
      return {**verdict, **failing, "correct": {"ok": False, "why": "no true answer"}}
    right = verdict["correct"]["ok"]
    error = self._error(not right, factor) if valid else 0.5
    right ^= _uniform("correct", *item, answer) < error
    reply = {name: {"ok": True, "why": _WHY[name][0]} for name in CRITERIA}
    why = f"the answer is {'right' if right else 'wrong'}"
    return {**reply, "correct": {"ok": right, "why": why}}

  def _error(self, fault: bool, factor: float) -> float:
    return min(0.5, factor * (1 - (self.se if fault else self.sp)))


def _difficulty(skills: Sequence[str]) -> float:
  if len(skills) > 1:
    return 2.0
  return 0.5 if skills[0] in EASY_SKILLS else 1.0


def _uniform(*parts: int | str) -> float:
  """A number in [0, 1) that depends on `parts` and on nothing else."""
  digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).digest()
  return int.from_bytes(digest, "big") / 2**48


class OracleEngine:
  """Replies in the verdict grammar, from the scene in the PNG's text chunk.

  With the field "task" a request asks for the taxonomy: "primitives" of a question, the
  "label" of phrases, "meta_skills" of skills. These are deliberately imprecise (see
  `world.wordings`), whatever the noise. Always exact are the "paraphrase" of a
  question and its own "answer" to one.

  Without noise it is exact, and its name is "oracle"; with noise its name tells which:
  "oracle?se=0.8&sp=0.8&by=difficulty&seed=0".
  """

  def __init__(self, noise: Noise | None = None):
    self._judge, self._judge_question = oracle.judge, oracle.judge_question
    self._scene_of = png.scene_of
    self._noise = noise
    self.name = "oracle" if noise is None else f"oracle?{noise}"
    self.revision = fmd_jax.__version__

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    scenes: dict[bytes, Any] = {}
    return [self._reply(request, scenes) for request in requests]

  def _reply(self, request: Request, scenes: dict[bytes, Any]) -> Reply:
    """Replies to one request; `scenes` keeps the batch's scenes by image."""
    try:
      named = _named(request.fields)
    except ValueError as error:
      return Reply("", error=f"the oracle failed: {error!r}")
    if named is not None:
      return Reply(json.dumps(named, ensure_ascii=False))
    if not request.images:
      return Reply("", error="the oracle needs an image; the request has none")
    task = request.fields.get("task")
    asked = task in ("primitives", "answer")
    for name in ("question",) if asked else ("question", "answer"):
      if name not in request.fields:
        return Reply("", error=f"the oracle needs the field {name!r}")
    image, question = request.images[0], request.fields["question"]
    # One image or question that trips the judge must not take its neighbours along.
    try:
      if image not in scenes:
        scenes[image] = self._scene_of(image)
      scene = scenes[image]
      if scene is None:
        return Reply("", error="the image carries no scene; oracle:// cannot judge it")
      if task == "answer":
        answer = self._judge_question(question, scene).answer
        return Reply("the question has no answer" if answer is None else answer)
      if task == "primitives":
        digest = hashlib.blake2b(image).hexdigest()
        found = wordings.primitives(skills_of(question), digest, question)
        return Reply(json.dumps({"primitives": found}))
      answer = request.fields["answer"]
      verdict = self._judge(question, answer, scene)
      if self._noise is not None:
        skills = self._judge_question(question, scene).skills
        verdict = self._noise.disturb(verdict, skills, image, question, answer)
    except Exception as error:
      return Reply("", error=f"the oracle failed: {error!r}")
    return Reply(json.dumps(verdict, ensure_ascii=False))


def _named(fields: Mapping[str, str]) -> dict[str, Any] | None:
  """The reply to a request that needs no image; None for any other."""
  task = fields.get("task")
  if task == "paraphrase":
    found = paraphrase(fields["question"])
    if found is None:
      raise ValueError(f"no other words for {fields['question']!r}")
    return {"paraphrase": found}
  if task == "label":
    return {"label": wordings.label(json.loads(fields["phrases"]))}
  if task == "meta_skills":
    groups = wordings.meta_skills(json.loads(fields["skills"]))
    about = "What questions of this kind have in common: "
    return {
      "meta_skills": [
        {"name": name, "description": f"{about}{name}.", "skills": skills}
        for name, skills in groups.items()
      ]
    }
  return None
