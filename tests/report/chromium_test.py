"""The page as a reader has it: opened from disk in Chromium."""

import re

import pandas as pd
import pytest

from fmd_jax import records, report
from fmd_jax.report.parts import said
from tests.report import chromium, fake

needs_chromium = pytest.mark.skipif(bool(chromium.ABSENT), reason=chromium.ABSENT)
HOSTILE = {
  "script": "</script><script>window.hacked = 1</script><img src=x onerror=hacked=1>",
  "comment": "<!--<script>",
  "rtl": "\u202eהאם יש כוכב אדום?\u2066",
  "long": "Why? " * 2048,
  "emoji": "👩‍👩‍👧 How many 🦓?",
  "nul": "Is\x00 there\u2028a ' \" ` ${1} circle?",
}


@pytest.fixture(scope="module")
def driver():
  with chromium.browser() as found:
    yield found


def go(driver, page, hash_=""):
  # The same file with another hash would not be loaded anew.
  driver.get("about:blank")
  driver.get(chromium.address(page) + hash_)
  chromium.errors(driver)


def state(driver):
  """What a reader sees of the browser."""
  return driver.execute_script(
    """
    const one = document.querySelector('[role="option"][aria-selected="true"]');
    const words = (selector) => document.querySelector(selector)?.textContent ?? "";
    return {count: words("#count"), question: words("#detail h3"),
      facts: words("#detail dl"), selected: one ? one.ariaPosInSet : null,
      rows: document.querySelectorAll('[role="option"]').length,
      hash: location.hash, focus: document.activeElement.id};
    """
  )


def set_filter(driver, name, value):
  driver.execute_script(
    "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    "one.dispatchEvent(new Event(one.tagName === 'SELECT' ? 'change' : 'input'))",
    name,
    value,
  )
  return int(state(driver)["count"].split()[0].replace(",", ""))


@needs_chromium
def test_filters_and_search_leave_what_a_loop_leaves(workdir, page, driver):
  go(driver, page)
  rows, found = workdir[1], fake.expected(workdir[1])
  skills = {
    (r["image_id"], r["question"]): r["skills"] for r in rows.to_dict("records")
  }
  total = len(found)
  assert state(driver)["count"].startswith(f"{total:,} questions of ")
  assert set_filter(driver, "by-method", "RL (GRPO)") == sum(
    method == "grpo" for method, _, _ in found
  )
  ocr = sum(m == "grpo" and "ocr" in skills[i, q] for m, i, q in found)
  assert set_filter(driver, "by-skill", "ocr") == ocr
  assert state(driver)["hash"] == "#skill=ocr&method=RL%20%28GRPO%29"
  words = "star letter"
  both = sum(
    m == "grpo" and "ocr" in skills[i, q] and "star" in q and "letter" in q
    for m, i, q in found
  )
  assert 0 < set_filter(driver, "query", words.upper()) == both < ocr
  assert set_filter(driver, "query", "no such word") == 0
  assert "Nothing passes" in driver.find_element("id", "detail").text
  driver.find_element("id", "clear").click()
  assert state(driver)["count"].startswith(f"{total:,} ")
  late = sum(5 <= step <= 9 for _, step in found.values())
  set_filter(driver, "from-step", "5")
  assert set_filter(driver, "to-step", "9") == late
  driver.find_element("id", "clear").click()
  begin = sum(q.lower().startswith("what color") for _, _, q in found)
  assert set_filter(driver, "by-prefix", "what color") == begin
  driver.find_element("id", "clear").click()
  unscored = rows[rows["status"] == "unscored"]
  distinct = len(unscored.drop_duplicates(["method", "image_id", "question"]))
  assert set_filter(driver, "by-status", "unscored") == distinct
  assert "unscored" in state(driver)["facts"]
  driver.find_element("id", "clear").click()
  set_filter(driver, "order", "times")
  most = max(times for times, _ in found.values())
  assert f"the first of {most} times" in state(driver)["facts"]
  assert state(driver)["rows"] < 30 < total  # only what is in sight exists
  assert chromium.errors(driver) == []


@needs_chromium
def test_a_permalink_opens_one_failure(page, driver):
  own = fake.content(page)
  columns = own["columns"]
  for status in ("wrong", "invalid"):
    row = columns["status"].index(own["statuses"].index(status))
    go(driver, page, f"#f={columns['key'][row]}")
    now = state(driver)
    assert now["question"] == own["text"][columns["question"][row]]
    assert own["names"][columns["image"][row]] in now["facts"]
    assert status in now["facts"]
    top = driver.execute_script(
      "return document.querySelector('#explorer').getBoundingClientRect().top"
    )
    assert top < 900
    link = driver.find_element("css selector", "#detail .permalink")
    assert link.get_attribute("href").endswith(f"#f={columns['key'][row]}")
  # One that is gone: the page opens as ever.
  go(driver, page, "#f=000000000000&skill=no%20such&step=x")
  assert state(driver)["question"] and chromium.errors(driver) == []


@needs_chromium
def test_keys_walk_through_the_failures(page, driver):
  from selenium.webdriver import ActionChains, Keys

  def press(*keys):
    ActionChains(driver).send_keys(*keys).perform()
    return state(driver)

  go(driver, page)
  first = state(driver)
  assert first["selected"] == "1" and first["hash"] == ""
  third = press("j", "j")
  assert third["selected"] == "3" and third["question"]
  assert third["hash"].startswith("#f=")
  assert press("k")["selected"] == "2" and press("k", "k")["selected"] == "1"
  assert press("/")["focus"] == "query"
  typed = press("j")  # a letter, not a step
  assert typed["hash"].startswith("#q=j")
  driver.find_element("id", "clear").click()
  driver.execute_script("document.getElementById('list').focus()")
  total = int(state(driver)["count"].split()[0])
  assert press(Keys.END)["selected"] == str(total)
  assert press(Keys.ARROW_UP)["selected"] == str(total - 1)
  assert press(Keys.HOME, Keys.ARROW_DOWN)["selected"] == "2"
  # A button that was pressed keeps the focus, so that it can be pressed again.
  driver.find_element("css selector", "#detail .next").send_keys(Keys.ENTER)
  assert press(Keys.ENTER)["selected"] == "4"
  assert press(Keys.ESCAPE)["focus"] == "list"
  # Everything is reached by Tab, in the order of the page.
  driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
  tops = []
  for _ in range(200):
    press(Keys.TAB)
    focused = driver.execute_script(
      "const one = document.activeElement, box = one.getBoundingClientRect();"
      "return [one.id || one.className, Math.round(box.top + scrollY)]"
    )
    if focused[0] == "list":
      break
    tops.append(focused)
  else:
    pytest.fail(f"no way to the list by Tab: {tops}")
  assert {"query", "by-status", "by-skill"} <= {name for name, _ in tops}
  assert chromium.errors(driver) == []


@needs_chromium
def test_a_heading_sorts_its_table(page, driver):
  def column(name):
    return driver.execute_script(
      "const label = `.sortable td[data-label='${arguments[0]}']`;"
      "return [...document.querySelectorAll(label)].map((cell) => cell.dataset.sort)",
      name,
    )

  def press(name):
    path = f"//table[contains(@class, 'sortable')]//th//button[text()='{name}']"
    driver.execute_script("arguments[0].click()", driver.find_element("xpath", path))

  go(driver, page)
  assert column("Rank") == ["1", "2", "3", "4"]
  press("Questions")
  asked = [int(n) for n in column("Questions")]
  assert asked == sorted(asked, reverse=True)
  press("Questions")
  assert [int(n) for n in column("Questions")] == sorted(asked)
  press("Skill")
  assert column("Skill") == sorted(fake.QUESTIONS)
  assert driver.execute_script(
    "return [...document.querySelectorAll('th[aria-sort]')].map((one) => one.ariaSort)"
  ) == ["ascending"]


def luminance(color):
  """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
  parts = [int(n) / 255 for n in re.findall(r"\d+", color)[:3]]
  parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return parts[0] * 0.2126 + parts[1] * 0.7152 + parts[2] * 0.0722


@needs_chromium
def test_dark_and_light_are_readable_and_by_choice(page, driver):
  go(driver, page, "#f=" + fake.content(page)["columns"]["key"][0])
  seen = {}
  for theme, system in (("light", "light"), ("dark", "dark"), ("chosen", "light")):
    feature = {"name": "prefers-color-scheme", "value": system}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    if theme == "chosen":  # dark, against the system
      driver.find_element("id", "theme").click()
    colors = driver.execute_script(
      """
      const colors = (selector) => {
        const one = document.querySelector(selector);
        let ground = one;
        const clear = "rgba(0, 0, 0, 0)";
        while (getComputedStyle(ground).backgroundColor === clear) {
          ground = ground.parentElement;
        }
        return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
      };
      return Object.fromEntries(["p.soft", "h1", ".wrong", ".right", ".badge", "nav a",
        "#detail dt", "#detail a", '[aria-selected="true"] .soft', "td .between",
        "button", "#query"].map((one) => [one, colors(one)]));
      """
    )
    for name, pair in colors.items():
      low, high = sorted(map(luminance, pair))
      assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, name, pair)
    seen[theme] = luminance(colors["h1"][1])
  driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
  assert seen["light"] > 0.8 and seen["dark"] < 0.05 and seen["chosen"] < 0.05
  assert driver.find_element("id", "theme").text == "Theme: dark"


@needs_chromium
def test_controls_have_names_and_pictures_descriptions(page, driver):
  go(driver, page)
  nameless = driver.execute_script(
    """
    const named = (one) => one.ariaLabel || one.labels?.length
      || one.textContent.trim() || one.title;
    const wanted = "button, input, select, a, [role], [tabindex]";
    return [...document.querySelectorAll(wanted)]
      .filter((one) => one.getAttribute("role") !== "presentation" && !named(one)
        && !one.matches("svg"))
      .concat([...document.querySelectorAll("img:not([alt])")])
      .concat([...document.querySelectorAll("svg")].filter((one) =>
        !one.querySelector("title")))
      .map((one) => one.outerHTML.slice(0, 200));
    """
  )
  assert nameless == []
  ids = driver.execute_script(
    "return [...document.querySelectorAll('[id]')].map((one) => one.id)"
  )
  assert len(ids) == len(set(ids))


@needs_chromium
def test_what_a_model_says_does_nothing(a_copy, driver):
  texts = list(HOSTILE.values())
  for path in (a_copy / "evaluations").glob("*.parquet"):
    rows = pd.read_parquet(path)
    turn = [texts[i % len(texts)] for i in range(len(rows))]
    asked = rows["question"] != ""
    rows.loc[asked, "question"] = [t for t, a in zip(turn, asked) if a]
    for column in ("answer", "truth", "rationale", "prefix"):
      rows[column] = turn
    rows["skills"] = [[text] for text in turn]
    records.write_parquet(path, rows)
  page = report.build(a_copy)
  go(driver, page)
  for name, text in HOSTILE.items():
    place = fake.content(page)["skills"].index(said(text))
    set_filter(driver, "by-skill", fake.content(page)["skills"][place])
    shown = driver.execute_script(
      "return [...document.querySelectorAll('#detail h3')].map((e) => e.textContent)[0]"
    )
    assert shown == said(text, 4_000), name
    assert set_filter(driver, "query", said(text)[:20]) > 0, name
    driver.find_element("id", "clear").click()
  link = driver.find_element("css selector", ".sortable a.said")
  driver.execute_script("arguments[0].click()", link)
  assert state(driver)["hash"].startswith("#skill=")
  found = driver.execute_script(
    "return [window.hacked, document.scripts.length, document.title,"
    "document.querySelectorAll('[onerror]').length,"
    "document.documentElement.scrollWidth <= innerWidth]"
  )
  assert found == [None, 3, "What testbed/answerer gets wrong", 0, True]
  assert chromium.errors(driver) == []
  # Were a script to slip through, the page's policy would not run it.
  driver.execute_script(
    "const one = document.createElement('script'); one.textContent = 'hacked = 1';"
    "document.body.append(one)"
  )
  assert driver.execute_script("return window.hacked") is None
  assert "Content Security Policy" in chromium.errors(driver)[0]


@needs_chromium
def test_a_phone_shows_the_list_or_one_failure(a_copy, monkeypatch):
  # Pictures beside the page, loaded when they come in sight.
  monkeypatch.setattr("fmd_jax.report.pictures.INLINE_BYTES", 10_000)
  page = report.build(a_copy)
  with chromium.browser(390, 844, phone=True) as driver:
    go(driver, page)
    visible = (
      "return ['list', 'detail'].map((id) => document.getElementById(id)"
      ".offsetParent !== null)"
    )
    assert driver.execute_script(visible) == [True, False]
    width = "return document.documentElement.scrollWidth"
    assert driver.execute_script(width) <= 390
    driver.execute_script("document.querySelectorAll('.row')[2].click()")
    assert driver.execute_script(visible) == [False, True]
    assert driver.execute_script(width) <= 390
    loaded = "const one = document.querySelector('#detail img'); return one.decode()"
    driver.execute_script(loaded)
    assert driver.execute_script(
      "return document.querySelector('#detail img').naturalWidth"
    ) == 112  # fmt: skip
    driver.find_element("css selector", "#detail .back").click()
    assert driver.execute_script(visible) == [True, False]
    assert chromium.errors(driver) == []
