"""Every form of annotations gives the same labels; a bad one is named by row."""

import csv
import json

import pandas as pd
import pytest

from fmd_jax import trust
from fmd_jax.trust import study as kit
from fmd_jax.trust.scoring import KEY
from tests.trust.study import made


def opinions(study, raters=("ann", "bob")):
  """(rater, item) -> what they say: valid, criterion, correct, flag."""
  out = {}
  for shift, rater in enumerate(raters):
    for place, item in enumerate(study.items):
      kinds = ((1, "", 1, ""), (1, "", 0, ""), (0, "atomic", None, ""))
      kind = kinds[(place + shift) % 3] if place else (None, "", None, "picture")
      out[rater, item.item] = kind
  return out


def write(path, rows):
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    writer.writerows(rows)
  return path


def page(study, folder, said):
  lines = [
    {"event": "labelled", "rater": study.pseudonym(who), "item": item, "time": 1.0,
     "seconds": 4.0, "valid": v, "criterion": k, "correct": c, "flag": f, "comment": ""}
    for (who, item), (v, k, c, f) in said.items()
  ]  # fmt: skip
  path = folder / "annotations.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return [path]


def sheets(study, folder, said):
  """One with raters named, one whose name is the rater."""
  rows = {"ann": [], "bob": []}
  for (who, item), (v, k, c, f) in said.items():
    row = {"item": item, "rater": who if who == "ann" else "", "valid": v,
           "criterion": k, "correct": c, "flag": f, "comment": ""}  # fmt: skip
    rows[who].append({name: "" if x is None else x for name, x in row.items()})
  return [write(folder / f"{who}.csv", own) for who, own in rows.items()]


def label_studio(study, folder, said):
  tasks = []
  for item in study.items:
    own = []
    for (who, name), (v, k, c, f) in said.items():
      if name == item.item:
        first = "Flag" if f else "Valid" if v else "Invalid"
        words = {1: "Correct", 0: "Incorrect"}
        given = {"valid": first, "criterion": k, "correct": words.get(c), "flag": f}
        result = [
          {"from_name": tag, "to_name": "image", "type": "choices",
           "value": {"choices": [text]}}
          for tag, text in given.items() if text
        ]  # fmt: skip
        who = 7 if who == "ann" else {"id": 8, "email": "bob@example.org"}
        own.append({"id": 1, "completed_by": who, "result": result, "lead_time": 4.0})
    own.append({"id": 2, "completed_by": 9, "was_cancelled": True, "result": []})
    tasks.append({"id": 1, "data": item._asdict(), "annotations": own})
  path = folder / "export.json"
  path.write_text(json.dumps(tasks))
  return [path]


def mturk(shape):
  def make(study, folder, said):
    rows = []
    for (who, item), (v, k, c, f) in said.items():
      words = {
        "valid": {1: "yes", 0: "no", None: ""}[v],
        "correct": {1: "right", 0: "wrong", None: ""}[c],
      }
      if shape == "plain":
        answers = {f"Answer.{name}": text for name, text in words.items()}
        answers |= {"Answer.criterion": k, "Answer.flag": f}
      elif shape == "radio":
        answers = {
          f"Answer.{name}.{option}": str(option == text).lower()
          for name, text in {**words, "criterion": k, "flag": f}.items()
          for option in {"valid": ("yes", "no"), "correct": ("right", "wrong"),
                         "criterion": ("atomic", "objective"),
                         "flag": ("picture", "offensive")}[name]
        }  # fmt: skip
      else:
        texts = {**words, "criterion": k, "flag": f}
        radios = {
          name: {text: True, "x": False} for name, text in texts.items() if text
        }
        answers = {"Answer.taskAnswers": json.dumps([radios])}
      rows.append(
        {"HITId": "h", "AssignmentId": "a", "WorkerId": f"A1{who}",
         "AssignmentStatus": "Approved", "WorkTimeInSeconds": "4", "Input.item": item,
         "Input.question": "any", **answers, "Approve": ""}
      )  # fmt: skip
    rows.append(rows[0] | {"AssignmentStatus": "Rejected"})
    return [write(folder / f"{shape}.csv", rows)]

  return make


FORMS = {
  "page": page,
  "sheets": sheets,
  "label_studio": label_studio,
  "mturk": mturk("plain"),
  "mturk_radio": mturk("radio"),
  "mturk_json": mturk("json"),
}


def told(rows):
  """What one rater says, as a set: no matter in which order, or who it is."""
  columns = [*KEY, "valid", "criterion", "correct", "flag", "weight"]
  values = rows[columns].astype(object).where(rows[columns].notna(), None)
  return frozenset(map(tuple, values.to_numpy()))


def expected(study, said, who):
  key = study.key()
  own = pd.DataFrame([said[who, item] for item in key["item"]])
  own.columns = ["valid", "criterion", "correct", "flag"]
  return told(pd.concat([key, own], axis=1))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_labels(study, tmp_path, form):
  said = opinions(study)
  found = kit.read_labels(study, FORMS[form](study, tmp_path, said))
  labels = found.labels
  got = {told(own) for _, own in labels.groupby("rater")}
  assert got == {expected(study, said, who) for who in ("ann", "bob")}
  assert len(got) == 2 and found.items == len(study.items)
  text = labels.to_csv()
  assert "ann" not in text and "bob" not in text and "A1" not in text
  skipped = {"label_studio": {"skipped": len(study.items)}}
  rejected = {"rejected": 1} if form.startswith("mturk") else {}
  assert found.left_out == skipped.get(form, rejected)
  again = kit.read_labels(study, FORMS[form](study, tmp_path, said))
  assert again.labels.equals(labels)  # the same person is the same pseudonym


def test_score_reads_what_is_imported(run, study, tmp_path):
  """People who are always right: their consensus is the truth."""
  truth = made.item_truth(study, run[1])
  said = {
    (who, item): (1, "", int(right), "") if valid else (0, "atomic", None, "")
    for who in ("ann", "bob")
    for item, (valid, right) in truth.items()
  }
  found = kit.read_labels(study, sheets(study, tmp_path, said))
  path = tmp_path / "labels.csv"
  path.write_bytes(found.labels.to_csv(index=False).encode())
  scored = trust.score(run[0], pd.read_csv(path, dtype={"image_id": str}))
  own = scored["judges"]["judge-of-the-study@1"]
  for step in ("valid", "correct"):
    for name in ("sensitivity", "specificity"):
      assert own[step][name]["value"] == 1.0
  assert scored["judges"]["v"]["valid"]["sensitivity"]["value"] == 0.0
  assert scored["raters"]["raters"] == 2


def test_an_answer_to_an_invalid_question_does_not_count(study, tmp_path):
  """Some forms ask both steps of everybody."""
  rows = [
    {"item": item.item, "valid": valid, "correct": 1}
    for item, valid in zip(study.items, (0, 1))
  ]
  labels = kit.read_labels(study, [write(tmp_path / "ann.csv", rows)]).labels
  assert labels.loc[labels["valid"] == 0, "correct"].isna().all()
  assert (labels.loc[labels["valid"] == 1, "correct"] == 1).all()


def test_what_cannot_be_read_is_named(study, tmp_path):
  item, other = study.items[0].item, study.items[1].item

  good = {"item": item, "rater": "a", "valid": 1, "correct": 1}
  worker = {"WorkerId": "A", "Input.item": item}
  for rows, message in (
    (
      [good, good | {"item": other, "valid": "maybe"}],
      "x.csv line 3: valid is 'maybe'; it can be 1, 0 or empty",
    ),
    ([good | {"correct": 2}], "line 2: correct is '2'"),
    ([good | {"item": "zzz"}], "x.csv line 2: 'zzz' is no item of this study"),
    ([good, good], "line 3: item .* was labelled by r.* before, in x.csv line 2"),
    ([{"item": item, "valid": 1}], "no column correct; it has: item, valid"),
    ([good | {"valid": "", "correct": 1}], "line 2: valid is empty"),
    ([good | {"valid": 0, "criterion": "ugly"}], "criterion is 'ugly'; it"),
    ([good | {"flag": "picture"}], "valid is '1' and flag 'picture'"),
    ([worker], "no column Answer.valid or"),
    ([{"WorkerId": "A", "Answer.valid": 1}], "no column Input.item"),
    ([worker | {"Answer.taskAnswers": "{"}], "line 2: Answer.taskAnswers is '{'"),
    ([good | {"valid": "", "correct": ""}], "there is no annotation"),
  ):
    path = write(tmp_path / "x.csv", rows)
    with pytest.raises(ValueError, match=message):
      kit.read_labels(study, [path])
  for text, message in (
    ("{", "x.json is no JSON"),
    ('[{"item": "a", "valid": "Valid"}]', "not JSON-MIN"),
    ('[{"data": {}}]', "x.json task 1: its data has no item"),
    (json.dumps([{"data": {"item": item}, "annotations": [{"id": 5, "result": [
      {"from_name": "valid", "value": {"choices": ["Perhaps"]}}]}]}]),
     "x.json task 1 annotation 5: valid is 'Perhaps'"),
  ):  # fmt: skip
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
      kit.read_labels(study, [tmp_path / "x.json"])
  with pytest.raises(ValueError, match="none of .jsonl, .json and .csv"):
    kit.read_labels(study, [tmp_path / "x.xlsx"])
  with pytest.raises(FileNotFoundError, match="--from"):
    kit.read_labels(study)
  with pytest.raises(FileNotFoundError, match="holds no study"):
    kit.open_study(tmp_path)
