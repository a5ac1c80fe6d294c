"""The page's server: what it serves, whom, and what is left when it is killed."""

import concurrent.futures
import json
import re
import signal

import pytest

from fmd_jax.trust import study as kit
from fmd_jax.trust.study.journal import latest
from tests.trust.study import made
from tests.trust.study.visitor import Visitor, process, right_answer, serving

VALID = {"valid": 1, "correct": 1}


def test_no_byte_served_tells_a_verdict(run, tmp_path):
  """Two studies that differ in every verdict are served alike, and hold no secret."""
  other = tmp_path / "flipped"
  made.make_run(other, flip=True)
  heard = []
  for place, workdir in enumerate((run[0], other)):
    study = kit.export(workdir, tmp_path / str(place), items=10_000, annotations=1)
    with serving(study) as server:
      ann = Visitor(server.url)
      for path in ("/", "/study.css", "/study.js", *server.examples, *server.pictures):
        assert ann.ask("GET", path)[0] == 200
      screen = ann.enter()
      asked = 0
      while screen["screen"] == "item":
        assert set(screen) == {
          "instruction", "criteria", "flags", "min_seconds", "items", "exercise",
          "mistakes_allowed", "examples", "code", "done", "total", "again", "screen",
          "item", "image", "question", "answer",
        }  # fmt: skip
        _, screen = ann.label(screen, VALID)
        asked += 1
      assert screen["screen"] == "done" and asked == len(study.items)
      for path in ("/private/key.csv", "/images/../../private/key.csv", "/key.csv",
                   "/images/%2e%2e/%2e%2e/private/salt", "/salt"):  # fmt: skip
        assert ann.ask("GET", path)[0] == 404
    text = b"\n".join(ann.heard)
    for secret in (made.CANARY, "judge-of-the-study", "nobody-may-see", "fmd_scene",
                   "train-", "held"):  # fmt: skip
      assert secret.encode() not in text, secret
    code = ann.cookies[server.cookie].encode()
    text = text.replace(code, b"CODE").replace(server.cookie.encode(), b"COOKIE")
    heard.append(re.sub(rb"\('(Date|Content-Length)', '[^']*'\)", b"", text))
  assert heard[0] == heard[1]


def test_the_exercise_comes_first(study):
  with serving(study) as server:
    ann = Visitor(server.url)
    assert ann.label({"item": study.items[0].item}, VALID)[0] == 401
    _, screen = ann.post("/api/join")
    for name in ("valid", "correct", "criterion", "why", "title"):
      assert name not in screen  # the truth comes after the answer
    status, told = ann.label({"item": study.items[0].item}, VALID)
    assert (status, told["error"]) == (409, "The exercise comes first.")
    first = screen["item"]
    # Wrong throughout: a round of other questions follows.
    while screen["screen"] == "quiz" and screen["round"] == 0:
      _, told = ann.post("/api/quiz", {"item": screen["item"], "flag": "cannot_tell"})
      assert told["right"] is False and told["why"]
      screen = told["next"]
    assert (told["ends"], told["mistakes"]) == ("again", 7)
    assert screen["screen"] == "quiz" and screen["item"] != first
    # A known answer cannot be given again.
    _, told = ann.post("/api/quiz", {"item": first, **VALID})
    assert set(told) == {"next"}
    # Reloaded in the middle, it goes on there.
    _, again = ann.post("/api/screen")
    assert again["item"] == screen["item"]
  assert latest(study.journal) == []


def test_a_correction_and_a_return_in_another_browser(study):
  with serving(study) as server:
    ann = Visitor(server.url)
    screen = ann.enter()
    first = screen["item"]
    ann.label(screen, VALID)
    _, screen = ann.post("/api/before", {"item": ""})
    assert screen["item"] == first and screen["given"]["correct"] == 1
    _, screen = ann.label(screen, {"valid": 0, "criterion": "atomic"})
    assert screen["done"] == 1 and screen["item"] != first
    other = Visitor(server.url)
    code = screen["code"].upper().replace("-", " ")
    status, there = other.post("/api/return", {"code": code})
    assert status == 200 and there["item"] == screen["item"] and there["done"] == 1
    status, told = Visitor(server.url).post("/api/return", {"code": "abcd"})
    assert status == 409 and "not known" in told["error"]
  ((_, event),) = latest(study.journal)
  assert (event["valid"], event["criterion"]) == (0, "atomic")
  assert screen["code"] not in study.journal.read_text()


def test_bad_requests_are_told_so_and_change_nothing(study):
  with serving(study) as server:
    ann = Visitor(server.url)
    screen = ann.enter()
    for body, message in (
      ({"valid": 1}, "not complete"),
      ({"valid": 0}, "not complete"),
      ({"valid": "sure"}, "cannot be read: valid is 'sure'"),
      ({}, "says nothing"),
      ({**VALID, "seconds": "soon"}, "without its time"),
      ({**VALID, "item": {"a": []}}, "no such question"),
    ):
      status, told = ann.label(screen, body)
      assert status == 409 and message in told["error"], body
    for body in (b"{", b"[]", b'"x"', b"\xff", b"[" * 50_000):
      assert ann.ask("POST", "/api/label", body)[0] == 400
    assert ann.ask("POST", "/api/label", b"x" * 70_000)[0] == 400
    assert ann.post("/api/nothing")[0] == 404
    assert latest(study.journal) == []
    # Another site can send neither JSON nor its own name.
    kind = {"Content-Type": "text/plain"}
    assert ann.ask("POST", "/api/label", b"{}", kind)[0] == 400
    assert ann.ask("GET", "/", headers={"Host": "evil.example"})[0] == 403
    _, headers, _ = ann.ask("GET", "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_public_address_needs_a_token_and_the_token_is_needed(study):
  with pytest.raises(ValueError, match="set FMD_JAX_STUDY_TOKEN"):
    kit.StudyServer(study, host="0.0.0.0")
  with pytest.raises(ValueError, match="letters, digits"):
    kit.StudyServer(study, token="a b\r\n")
  with serving(study, token="sesame-1") as server:
    for path in ("/", "/study.js", *list(server.pictures)[:1], "/?token=sesame-2"):
      assert Visitor(server.url).ask("GET", path)[0] == 403
    assert Visitor(server.url).post("/api/join")[0] == 403
    ann = Visitor(server.url)
    status, headers, _ = ann.ask("GET", "/?token=sesame-1")
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite" in headers["Set-Cookie"]
    assert ann.ask("GET", "/")[0] == 200
    assert ann.enter()["screen"] == "item"
    assert server.url.endswith("/?token=sesame-1")


def test_annotators_at_once_lose_nothing(study):
  """8 people over HTTP, 5 for each item: every label that was acknowledged is there."""

  def work(_):
    ann, kept = Visitor(server.url), []
    screen = ann.enter()
    while screen["screen"] in ("item", "wait"):
      if screen["screen"] == "wait":
        _, screen = ann.post("/api/screen")
        continue
      status, told = ann.label(screen, VALID)
      if status == 200:
        kept.append((study.pseudonym(screen["code"]), screen["item"]))
        screen = told
      else:
        _, screen = ann.post("/api/screen")
    return kept

  with serving(study) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
    kept = [label for own in pool.map(work, range(8)) for label in own]
  assert len(kept) == len(set(kept)) == 5 * len(study.items)
  assert sorted((e["rater"], e["item"]) for _, e in latest(study.journal)) == sorted(
    kept
  )
  found = kit.read_labels(study)
  assert found.raters["annotations"].sum() == len(kept)
  assert found.items == len(study.items)


def test_a_killed_server_goes_on_without_a_loss(study):
  """SIGKILL after labels were acknowledged; the same people go on at the same items."""
  visitors, screens, kept = [], {}, {}
  with process(study) as (started, url):
    for name in ("ann", "bob"):
      visitor = Visitor(url)
      visitors.append((name, visitor))
      screen = visitor.enter()
      for k in range(3):
        body = VALID if k else {"valid": 0, "criterion": "grounded"}
        kept[study.pseudonym(screen["code"]), screen["item"]] = body["valid"]
        status, screen = visitor.label(screen, body)
        assert status == 200
      screens[name] = screen
    started.send_signal(signal.SIGKILL)
    started.wait()
  assert {(e["rater"], e["item"]): e["valid"] for _, e in latest(study.journal)} == kept
  with serving(study) as server:
    for name, visitor in visitors:
      visitor.place = Visitor(server.url).place
      _, screen = visitor.post("/api/screen")
      assert screen["item"] == screens[name]["item"] and screen["done"] == 3
      kept[study.pseudonym(screen["code"]), screen["item"]] = 1
      # What was open before the kill is taken after it.
      assert visitor.label(screens[name], VALID)[0] == 200
  assert {(e["rater"], e["item"]): e["valid"] for _, e in latest(study.journal)} == kept
  assert json.loads((study.folder / "study.json").read_text())["annotations"] == 5


def test_every_round_of_the_exercise_is_sound():
  """The oracle, asked again, says what the explanations say."""
  from fmd_jax.trust.study import quiz
  from fmd_jax.types import CRITERIA

  names = set()
  for questions in (quiz.examples(), *(quiz.exercise(k) for k in range(3))):
    assert {one.criterion for one in questions} == {"", *CRITERIA}
    assert [one.correct for one in questions].count(True) == 1
    assert [one.correct for one in questions].count(False) == 1
    for one in questions:
      assert right_answer(one) and one.why
      assert b"fmd_scene" not in one.picture
      names.add(one.name)
  assert len(names) == 28
  assert {one.name for one in quiz.exercise(3)} == {
    one.name for one in quiz.exercise(0)
  }
