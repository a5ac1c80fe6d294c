"""Who labels which item: each item gets so many people, and nobody the same one twice.

The state is what the journal's events make of it, so a server that was killed goes on
where it was. Every method is one step under one lock.
"""

import collections
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fmd_jax.trust.study.answers import Said
from fmd_jax.trust.study.journal import Event, Journal

# Seconds for which an item stays somebody's who was shown it; later it may be given to
# another, and is still taken from the first as long as there is room.
LEASE = 1800.0


class Refused(Exception):
  """What an annotator may not do, or not now; the message is for them."""


class Rater:
  """What is known of one annotator."""

  def __init__(self):
    self.passed = False
    self.round = 0  # of the quiz
    self.quiz: dict[str, bool] = {}  # question of this round -> answered rightly
    self.labels: dict[str, Event] = {}  # item -> the last label, in order of the first
    self.claim: tuple[str, float] | None = None  # item shown, since when


class Next(NamedTuple):
  """What comes for an annotator: an item, or none.

  Attributes:
    item: its name; "" when there is none.
    later: whether an item may become free, that others have open.
    total: how many items this annotator labels in all, as it looks now.
  """

  item: str
  later: bool
  total: int


class Assignments:
  """Shares items among annotators."""

  def __init__(
    self,
    items: Sequence[str],
    annotations: int,
    journal: Journal,
    clock: Callable[[], float] = time.time,
  ):
    """
    Args:
      items: names, in the order of asking.
      annotations: how many people label each.
      journal: takes every event before it counts; its events so far are the state.
      clock: gives the time in seconds.
    """
    self._items, self._annotations = list(items), annotations
    self._journal, self._clock = journal, clock
    self._lock = threading.Lock()
    self._raters: dict[str, Rater] = {}
    self._labelled = collections.Counter()
    for event in journal.events:
      self._apply(event)

  def _do(self, event: str, rater: str, **fields: Any) -> None:
    known = {"event": event, "rater": rater, "time": round(self._clock(), 3), **fields}
    self._journal.append(known)
    self._apply(known)

  def _apply(self, event: Event) -> None:
    match event["event"]:
      case "joined":
        self._raters[event["rater"]] = Rater()
      case "quizzed":
        rater = self._raters[event["rater"]]
        rater.quiz[event["question"]] = event["right"]
        rater.passed = event["ends"] == "passed"
        if event["ends"] == "again":
          rater.round, rater.quiz = rater.round + 1, {}
      case "claimed":
        self._raters[event["rater"]].claim = (event["item"], event["time"])
      case "labelled":
        rater, item = self._raters[event["rater"]], event["item"]
        self._labelled[item] += item not in rater.labels
        rater.labels[item] = event
        if rater.claim and rater.claim[0] == item:
          rater.claim = None

  def join(self, rater: str) -> None:
    with self._lock:
      if rater not in self._raters:
        self._do("joined", rater)

  def rater(self, rater: str) -> Rater | None:
    """What is known of an annotator; not to be changed."""
    return self._raters.get(rater)

  def quiz(
    self, rater: str, question: str, right: bool, *, size: int, mistakes: int
  ) -> tuple[str, int]:
    """Notes an answer of the exercise; the last of a round ends it.

    Args:
      rater: who answered.
      question: of this round; the first answer to it counts.
      right: whether the answer was.
      size: questions of a round.
      mistakes: with which it is passed.

    Returns:
      How the round ended ("passed", "again", or "" when it goes on), and the mistakes
      in it so far.
    """
    with self._lock:
      own = self._raters[rater]
      answers = {question: right} | own.quiz
      wrong = list(answers.values()).count(False)
      ends = ""
      if len(answers) == size:
        ends = "passed" if wrong <= mistakes else "again"
      if question not in own.quiz:
        self._do("quizzed", rater, question=question, right=right, ends=ends)
      return ends, wrong

  def _open_elsewhere(self, rater: str) -> collections.Counter:
    """Item -> how many others are looking at it."""
    now = self._clock()
    return collections.Counter(
      own.claim[0]
      for name, own in self._raters.items()
      if name != rater and own.claim and now - own.claim[1] < LEASE
    )

  def next(self, rater: str) -> Next:
    """Shows an annotator the next item; the one already shown, if it is still free.

    Items that others have begun come first, so that a study which ends early has whole
    items.

    Raises:
      Refused: the quiz is not passed.
    """
    with self._lock:
      own = self._own(rater)
      elsewhere = self._open_elsewhere(rater)
      left = [
        item
        for item in self._items
        if item not in own.labels and self._labelled[item] < self._annotations
      ]
      free = [
        item
        for item in left
        if self._labelled[item] + elsewhere[item] < self._annotations
      ]
      total = len(own.labels) + len(left)
      if not free:
        return Next("", bool(left), total)
      item, since = own.claim or ("", -math.inf)
      if item not in free:
        item = max(free, key=lambda i: self._labelled[i] + elsewhere[i])
        since = -math.inf
      if self._clock() - since > LEASE / 2:
        self._do("claimed", rater, item=item)
      return Next(item, True, total)

  def label(self, rater: str, item: str, said: Said, seconds: float) -> None:
    """Takes a label, durably, or the annotator's correction of an earlier one.

    Raises:
      Refused: there is no such item, or it has all its labels by now.
      OSError: it could not be written; nothing is taken then.
    """
    with self._lock:
      own = self._own(rater)
      if item not in self._items:
        raise Refused("There is no such question in this study.")
      before = own.labels.get(item)
      if before is None:
        elsewhere = self._open_elsewhere(rater)[item]
        if self._labelled[item] + elsewhere >= self._annotations:
          raise Refused(
            "Others have answered this question in the meantime: it has all it needs."
          )
      # A page that did not hear of its label being taken sends it again.
      elif {k: before[k] for k in said.asdict()} == said.asdict():
        return
      self._do("labelled", rater, item=item, seconds=seconds, **said.asdict())

  def before(self, rater: str, item: str) -> Event | None:
    """The annotator's label before that of `item`; the last when it has none yet."""
    with self._lock:
      own = list(self._own(rater).labels)
      place = own.index(item) if item in own else len(own)
      return self._raters[rater].labels[own[place - 1]] if place else None

  def progress(self) -> tuple[int, int, int]:
    """Labels so far, labels in all, annotators who passed the quiz."""
    with self._lock:
      passed = sum(own.passed for own in self._raters.values())
      total = len(self._items) * self._annotations
      return sum(self._labelled.values()), total, passed

  def _own(self, rater: str) -> Rater:
    own = self._raters[rater]
    if not own.passed:
      raise Refused("The exercise comes first.")
    return own
