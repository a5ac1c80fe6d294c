"""The items of a study as Label Studio's tasks and as a spreadsheet."""

import base64
import csv
import io
import json
import pathlib
import re
from xml.sax.saxutils import quoteattr

from fmd_jax.trust.study.folder import Study
from fmd_jax.trust.study.wording import CRITERIA, FLAGS, INSTRUCTION

# What an annotator fills in; the rater may stay empty: then it is the file's name.
FILLED = ["rater", "valid", "criterion", "correct", "flag", "comment"]
# Neither XML nor a database keeps these; all that they do is nothing, or harm.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
  return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def write_forms(study: Study, folder: pathlib.Path, images_at: str = "") -> None:
  """Writes label_studio/tasks.json, label_studio/config.xml and items.csv.

  Args:
    study: whose items.
    folder: where to.
    images_at: address under which the pictures will be found; "" for pictures inside
      the tasks of Label Studio, and paths beside items.csv.
  """
  (folder / "label_studio").mkdir()
  tasks, rows = [], []
  for item in study.items:
    png = (study.images / item.image).read_bytes()
    inside = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    at = images_at and f"{images_at.rstrip('/')}/{item.image}"
    texts = {"question": printable(item.question), "answer": printable(item.answer)}
    tasks.append({"data": {"item": item.item, "image": at or inside, **texts}})
    texts = {name: _cell(text) for name, text in texts.items()}
    rows.append({"item": item.item, "image": at or f"images/{item.image}", **texts})
  text = json.dumps(tasks, indent=1)
  (folder / "label_studio" / "tasks.json").write_text(text, encoding="utf-8")
  (folder / "label_studio" / "config.xml").write_text(_config(), encoding="utf-8")
  buffer = io.StringIO(newline="")
  writer = csv.DictWriter(buffer, ["item", "image", "question", "answer", *FILLED])
  writer.writeheader()
  writer.writerows(rows)
  # With a byte order mark: spreadsheets take a CSV for Latin-1 without.
  (folder / "items.csv").write_bytes(buffer.getvalue().encode("utf-8-sig"))


def _cell(text: str) -> str:
  """Text that a spreadsheet does not take for a formula."""
  number = re.fullmatch(r"[-+]?\d+([.,]\d+)?", text)
  return f"'{text}" if text[:1] in tuple("=+-@\t\r") and not number else text


def _if(choice: str) -> str:
  """Attributes of a tag that is there only after this choice of the first step."""
  # It goes by `value`, so the choices it names have no alias.
  when = f'whenTagName="valid" whenChoiceValue="{choice}"'
  return f' visibleWhen="choice-selected" {when}' if choice else ""


def _choices(name: str, title: str, options: dict[str, str], only: str = "") -> str:
  lines = [f"  <View{_if(only)}><Header value={quoteattr(title)}/></View>"]
  tag = f'name="{name}" toName="image" choice="single-radio" required="true"'
  lines.append(f"  <Choices {tag}{_if(only)}>")
  for value, text in options.items():
    alias = "" if value == text else f' alias="{value}"'
    lines.append(f"    <Choice value={quoteattr(text)}{alias}/>")
  return "\n".join([*lines, "  </Choices>"])


def _config() -> str:
  """The two-step screen in Label Studio's tags: https://labelstud.io/tags/choices"""
  rules = {name: f"{rule.title}: {rule.text}" for name, rule in CRITERIA.items()}
  first = {name: name for name in ("Valid", "Invalid", "Flag")}
  second = {name: name for name in ("Correct", "Incorrect")}
  return "\n".join(
    [
      "<View>",
      f"  <Header value={quoteattr(INSTRUCTION)}/>",
      '  <Image name="image" value="$image" maxWidth="480px"/>',
      '  <Header value="Question"/>',
      '  <Text name="question" value="$question"/>',
      _choices("valid", "Is this a valid question about the picture?", first),
      _choices("criterion", "What is wrong with it?", rules, "Invalid"),
      _choices("flag", "Why can you not judge it?", FLAGS, "Flag"),
      f"  <View{_if('Valid')}>",
      '    <Header value="The model answered"/>',
      '    <Text name="answer" value="$answer"/>',
      "  </View>",
      _choices("correct", "Is that answer correct?", second, "Valid"),
      '  <TextArea name="comment" toName="image" placeholder="Comment (optional)"/>',
      "</View>\n",
    ]
  )
