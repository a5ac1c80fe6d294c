"""Who gets what: nobody twice, no item too often, and nothing lost on disk."""

import concurrent.futures
import json
import os
import random
import threading

import pytest

from fmd_jax.trust.study import assignments as assigning
from fmd_jax.trust.study.answers import Said
from fmd_jax.trust.study.journal import Journal, latest

YES = Said(1, "", 1)


def opened(path, items="abcd", annotations=2, clock=lambda: 0.0):
  journal = Journal(path)
  return journal, assigning.Assignments(list(items), annotations, journal, clock)


def join(own, *raters):
  for rater in raters:
    own.join(rater)
    own.quiz(rater, "q", True, size=1, mistakes=0)


def test_two_at_once_never_pass_the_number_and_never_repeat(tmp_path):
  """12 people at once, each item 5 times: without the lock some get 6."""
  items = [f"i{k}" for k in range(20)]
  journal, own = opened(tmp_path / "j", items, 5, clock=lambda: 1000.0)
  raters = [f"r{k}" for k in range(12)]
  join(own, *raters)
  start, done = threading.Barrier(len(raters)), []

  def work(rater):
    start.wait(60)
    while True:
      found = own.next(rater)
      if not found.item:
        if not found.later:
          return
        continue
      own.label(rater, found.item, YES, 1.0)  # never refused: it was reserved
      done.append((rater, found.item))

  with concurrent.futures.ThreadPoolExecutor(len(raters)) as pool:
    list(pool.map(work, raters))
  journal.close()
  assert len(done) == len(set(done)) == 100
  written = [(e["rater"], e["item"]) for _, e in latest(tmp_path / "j")]
  assert sorted(written) == sorted(done)
  assert {item: sum(i == item for _, i in done) for item in items} == dict.fromkeys(
    items, 5
  )


def test_any_order_of_events_keeps_the_rules(tmp_path):
  """Random walks with a clock that jumps and restarts between any two steps."""
  for seed in range(8):
    rng, now = random.Random(seed), [0.0]
    path = tmp_path / f"j{seed}"
    journal, own = opened(path, "abcde", 2, clock=lambda now=now: now[0])
    raters = ["r1", "r2", "r3"]
    join(own, *raters)
    shown, kept = {}, {}
    for _ in range(60):
      now[0] += rng.choice((1.0, 1.0, 1.0, assigning.LEASE))
      if rng.random() < 0.2:
        journal.close()
        journal, own = opened(path, "abcde", 2, clock=lambda now=now: now[0])
      rater = rng.choice(raters)
      if rng.random() < 0.5:
        shown[rater] = own.next(rater).item or shown.get(rater)
      elif shown.get(rater):
        said = Said(rng.choice((0, 1)), "atomic", None)
        try:
          own.label(rater, shown[rater], said, 1.0)
          kept[rater, shown[rater]] = said.valid
        except assigning.Refused:
          assert sum(item == shown[rater] for _, item in kept) <= 2
    journal.close()
    assert {(e["rater"], e["item"]): e["valid"] for _, e in latest(path)} == kept
    for item in "abcde":
      assert sum(name == item for _, name in kept) <= 2


def test_whole_items_come_first_and_what_is_open_is_not_given_away(tmp_path):
  now = [1000.0]
  journal, own = opened(tmp_path / "j", "abc", 2, clock=lambda: now[0])
  join(own, "r1", "r2", "r3")
  assert own.next("r1").item == "a"
  assert own.next("r1").item == "a"  # a reload shows it again
  assert own.next("r2").item == "a"  # begun by another: to have it whole
  assert own.next("r3").item == "b"  # two have "a" open: a third would be too many
  now[0] += assigning.LEASE + 1
  assert own.next("r3").item == "a" or own.next("r3").item == "b"
  own.label("r1", "a", YES, 1.0)  # late, but there is room
  own.label("r2", "a", YES, 1.0)
  with pytest.raises(assigning.Refused, match="Others have answered"):
    own.label("r3", "a", YES, 1.0)
  with pytest.raises(assigning.Refused, match="no such question"):
    own.label("r3", "z", YES, 1.0)
  assert own.before("r1", "")["item"] == "a" and own.before("r3", "") is None
  own.label("r1", "a", Said(0, "atomic"), 1.0)  # a correction is no third label
  assert own.progress() == (2, 6, 3)
  journal.close()


def test_the_end_is_told_from_a_wait(tmp_path):
  journal, own = opened(tmp_path / "j", "a", 1, clock=lambda: 1000.0)
  join(own, "r1", "r2")
  own.join("r3")
  assert own.next("r1") == ("a", True, 1)
  assert own.next("r2") == ("", True, 1)
  own.label("r1", "a", YES, 1.0)
  assert own.next("r2") == ("", False, 0)
  assert own.next("r1") == ("", False, 1)
  for act in (lambda: own.next("r3"), lambda: own.label("r3", "a", YES, 1.0)):
    with pytest.raises(assigning.Refused, match="exercise"):
      act()
  journal.close()


def test_a_line_cut_by_a_kill_is_as_if_never_sent(tmp_path):
  path = tmp_path / "j"
  journal, own = opened(path)
  join(own, "r1")
  own.label("r1", own.next("r1").item, YES, 1.0)
  journal.close()
  whole = path.read_bytes()
  last = whole.rstrip(b"\n").rfind(b"\n") + 1
  for cut in (last + 1, len(whole) - 1):
    path.write_bytes(whole[:cut])
    journal, own = opened(path)
    assert own.progress() == (0, 8, 1)
    own.label("r1", "a", YES, 1.0)
    journal.close()
    assert [e["item"] for _, e in latest(path)] == ["a"]
  path.write_bytes(b"{oops\n" + whole)
  with pytest.raises(ValueError, match="j line 1 cannot be read"):
    Journal(path)


def test_one_process_holds_a_study(tmp_path):
  journal = Journal(tmp_path / "j")
  with pytest.raises(RuntimeError, match="served by another process"):
    Journal(tmp_path / "j")
  journal.close()
  Journal(tmp_path / "j").close()


def test_what_could_not_be_written_does_not_count(tmp_path, monkeypatch):
  path = tmp_path / "j"
  journal, own = opened(path)
  join(own, "r1")
  item = own.next("r1").item
  before = path.read_bytes()

  def full(file, data):
    """A disk that takes half of a line."""
    real(file, bytes(data)[: len(data) // 2])
    raise OSError(28, "No space left on device")

  real = os.write
  monkeypatch.setattr(os, "write", full)
  with pytest.raises(OSError, match="No space"):
    own.label("r1", item, YES, 1.0)
  monkeypatch.undo()
  assert path.read_bytes() == before and own.progress()[0] == 0
  own.label("r1", item, YES, 1.0)
  journal.close()
  assert [json.loads(line)["event"] for line in path.read_text().splitlines()][-1] == (
    "labelled"
  )


def test_every_event_is_on_disk_before_it_counts(tmp_path, monkeypatch):
  synced = []
  real = os.fsync
  monkeypatch.setattr(
    os, "fsync", lambda f: (real(f), synced.append(os.fstat(f).st_size))
  )
  journal, own = opened(tmp_path / "j")
  join(own, "r1")
  own.label("r1", own.next("r1").item, YES, 1.0)
  journal.close()
  assert synced[-1] == (tmp_path / "j").stat().st_size and len(synced) == 4
