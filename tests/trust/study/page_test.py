"""The study page as annotators have it, in Chromium."""

import random

import pandas as pd
import pytest

from fmd_jax import trust
from fmd_jax.report.parts import said as visible
from fmd_jax.trust import study as kit
from fmd_jax.trust.study import quiz
from fmd_jax.trust.study.journal import latest
from fmd_jax.trust.study.wording import CRITERIA
from tests.report import chromium
from tests.report.chromium_test import HOSTILE
from tests.trust.study import made
from tests.trust.study.visitor import serving

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(bool(chromium.ABSENT), reason=chromium.ABSENT),
]


@pytest.fixture(scope="module")
def driver():
  with chromium.browser() as found:
    # The proxy of a browser that may reach nothing is not asked for 127.0.0.1.
    yield found


def wait(driver, script):
  from selenium.webdriver.support.ui import WebDriverWait

  return WebDriverWait(driver, 120, 0.02).until(
    lambda _: driver.execute_script(f"return {script}"), f"no {script}"
  )


def press(driver, *keys):
  from selenium.webdriver.common.action_chains import ActionChains

  for key in keys:
    ActionChains(driver).send_keys(key).perform()


def click(driver, selector):
  driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def shown(driver):
  """What is on the screen: kind, number of answers, name of the item, its question."""
  return driver.execute_script(
    "return {kind: state.screen.screen, done: state.screen.done, step: state.step,"
    "item: state.screen.item, round: state.screen.round,"
    "question: document.querySelector('.question')?.textContent ?? ''}"
  )


def next_screen(driver, before):
  wait(
    driver,
    "!state.busy && (state.screen.item !== "
    f"{before['item']!r} || state.step === 'explained')",
  )


def give(driver, valid, correct, criterion=""):
  """Answers by keys alone."""
  if valid:
    press(driver, "v", "c" if correct else "x")
  else:
    press(driver, "i", str(1 + list(CRITERIA).index(criterion or "grounded")))


def do_exercise(driver):
  while shown(driver)["kind"] == "quiz":
    now = shown(driver)
    known = {one.name: one for one in quiz.exercise(now["round"])}
    one = known[now["item"]]
    assert now["question"] == one.question
    give(driver, one.valid, one.correct, one.criterion)
    wait(driver, "state.step === 'explained'")
    assert one.why in driver.find_element("css selector", ".verdict").text
    press(driver, "\ue007")  # Enter
    next_screen(driver, now)


def begin(driver, url):
  driver.get(url)
  driver.delete_all_cookies()
  driver.get(url)
  wait(driver, "state.screen")
  chromium.errors(driver)
  click(driver, "main button.main")
  wait(driver, "state.screen.screen === 'quiz'")
  do_exercise(driver)


def test_five_people_label_a_whole_study(tmp_path, driver):
  """Page -> import -> score: what comes out is what they were made to say."""
  evaluations = made.make_run(tmp_path / "run")
  study = kit.export(tmp_path / "run", tmp_path / "study", items=12)
  truth = made.item_truth(study, evaluations)
  rng, said = random.Random(5), {}
  with serving(study, min_seconds=0) as server:
    for person in range(5):
      begin(driver, server.url)
      while shown(driver)["kind"] == "item":
        now = shown(driver)
        valid, correct = truth[now["item"]]
        # Each errs now and then, but never three of an item's five.
        if rng.random() < 0.3 and person < 2:
          valid, correct = not valid, rng.random() < 0.5
        said[person, now["item"]] = (int(valid), int(correct) if valid else None)
        give(driver, valid, correct)
        next_screen(driver, now)
      now = shown(driver)
      assert (now["kind"], now["done"]) == ("done", len(study.items))
      driver.refresh()  # it is still done, and nobody is asked twice
      wait(driver, "state.screen && state.screen.screen === 'done'")
    assert chromium.errors(driver) == []
  found = kit.read_labels(study)
  assert found.labels["rater"].nunique() == 5
  given = {}
  for event in (event for _, event in latest(study.journal)):
    given.setdefault(event["rater"], []).append(
      (event["item"], event["valid"], event["correct"])
    )
  wanted = [
    sorted((i, *answer) for (p, i), answer in said.items() if p == person)
    for person in range(5)
  ]
  assert [sorted(own) for own in given.values()] == wanted
  path = tmp_path / "labels.csv"
  found.labels.to_csv(path, index=False)
  labels = pd.read_csv(path, dtype={"image_id": str})
  own = trust.score(tmp_path / "run", labels)["judges"]["judge-of-the-study@1"]
  # The evaluator was right in all, and the majority too.
  assert own["valid"]["sensitivity"]["value"] == 1.0
  assert own["correct"]["specificity"]["value"] == 1.0
  assert own["agreement"]["valid"]["percent"] == 1.0
  # The verifier called everything valid and right.
  judges = trust.score(tmp_path / "run", labels)["judges"]
  assert judges["v"]["valid"]["sensitivity"]["value"] == 0.0


@pytest.fixture
def hostile(tmp_path):
  texts = [*HOSTILE.values(), "x" * 10_000]
  made.make_run(tmp_path / "run", images=2, texts=texts)
  evaluations = sorted((tmp_path / "run" / "evaluations").glob("*.parquet"))
  for path in evaluations:
    table = pd.read_parquet(path)
    table["answer"] = table["question"].iloc[::-1].to_numpy()
    table.to_parquet(path)
  return kit.export(tmp_path / "run", tmp_path / "study", items=10_000, annotations=1)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_what_a_model_says_does_nothing(hostile, width, height):
  seen = set()
  with (
    chromium.browser(width, height, phone=width < 500) as driver,
    serving(hostile, min_seconds=0) as server,
  ):
    begin(driver, server.url)
    while shown(driver)["kind"] == "item":
      now = shown(driver)
      press(driver, "v")
      texts = {item.item: item for item in hostile.items}[now["item"]]
      for text, place in ((texts.question, ".question"), (texts.answer, ".answer")):
        there = driver.find_element("css selector", place).get_property("textContent")
        assert there == visible(text, 20_000)  # all of it, as the report has it
        seen.add(text)
      found = driver.execute_script(
        "return [window.hacked ?? null, document.scripts.length, document.title,"
        "document.querySelectorAll('[onerror]').length,"
        "document.documentElement.scrollWidth <= innerWidth]"
      )
      assert found == [None, 1, "Picture questions", 0, True]
      press(driver, "c")
      next_screen(driver, now)
    assert chromium.errors(driver) == []
    # Were a script to slip through, the page's policy would not run it.
    driver.execute_script(
      "const one = document.createElement('script'); one.textContent = 'hacked = 1';"
      "document.body.append(one)"
    )
    assert driver.execute_script("return window.hacked") is None
  assert len(seen) == len(HOSTILE) + 1


def test_a_fast_answer_is_asked_about_and_can_be_corrected(study, driver):
  with serving(study, min_seconds=1e6) as server:
    begin(driver, server.url)
    now = shown(driver)
    press(driver, "v", "c")
    wait(driver, "document.querySelector('#slow').open")
    press(driver, "v")  # keys of the page do nothing while it asks
    press(driver, "\ue00c")  # Escape: look again
    wait(driver, "!document.querySelector('#slow').open")
    assert shown(driver)["item"] == now["item"] and latest(study.journal) == []
    press(driver, "x")
    wait(driver, "document.querySelector('#slow').open")
    click(driver, "#slow button:not(.main)")
    next_screen(driver, now)
    second = shown(driver)
    press(driver, "l")
    wait(driver, f"!state.busy && state.screen.item === {now['item']!r}")
    pressed = "document.querySelector('[aria-pressed=\"true\"]').dataset.key"
    assert driver.execute_script(f"return {pressed}") == "v"
    press(driver, "f")
    driver.find_element("id", "comment").send_keys("vicx12 the picture")
    assert shown(driver)["step"] == "flag"  # letters in a text are no keys
    click(driver, "[data-key='2']")
    wait(driver, f"!state.busy && state.screen.item === {second['item']!r}")
    ((_, event),) = latest(study.journal)
    told = (event["item"], event["valid"], event["flag"], event["comment"])
    assert told == (now["item"], None, "picture", "vicx12 the picture")


def test_an_answer_waits_for_a_server_that_is_down(study, driver):
  with serving(study, min_seconds=0) as server:
    begin(driver, server.url)
    port = server.server_address[1]
  now = shown(driver)
  press(driver, "v", "c")
  wait(driver, "!document.querySelector('#trouble').hidden")
  assert "your answer is sent as soon" in driver.find_element("id", "trouble").text
  with serving(study, min_seconds=0, port=port):
    next_screen(driver, now)
    assert shown(driver)["done"] == 1
    assert not driver.find_element("id", "trouble").is_displayed()
  ((_, event),) = latest(study.journal)
  assert event["item"] == now["item"]


def test_every_screen_has_names_and_fits_a_phone(study):
  nameless = """
    const named = (one) => one.ariaLabel || one.getAttribute("aria-labelledby")
      || (one.labels && one.labels.length) || one.textContent.trim() || one.title;
    const wanted = "button, input, textarea, dialog[open], progress";
    return [...document.querySelectorAll(wanted)]
      .filter((one) => !named(one))
      .concat([...document.querySelectorAll("img:not([alt])")])
      .map((one) => one.outerHTML.slice(0, 200));
  """
  with (
    chromium.browser(390, 844, phone=True) as driver,
    serving(study, min_seconds=1e6) as server,
  ):

    def look():
      assert driver.execute_script(nameless) == []
      assert driver.execute_script(
        "return document.documentElement.scrollWidth <= innerWidth"
      )

    driver.get(server.url)
    wait(driver, "state.screen")
    look()
    begin(driver, server.url)
    look()
    for key in "if":
      press(driver, key)
      look()
      press(driver, "\ue00c")
    press(driver, "v")
    look()
    press(driver, "?")
    look()
    code = driver.find_element("css selector", "#guide .code").text
    assert len(code) == 19
    press(driver, "\ue00c")
    press(driver, "c")
    wait(driver, "document.querySelector('#slow').open")
    look()
