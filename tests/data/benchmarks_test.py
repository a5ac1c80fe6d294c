"""The seven published sets, each on a tiny copy of its schema; and what is asked."""

import csv
import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from fmd_jax import data
from fmd_jax.data.corpora.published import PUBLISHED
from fmd_jax.data.corpora.questions import LONGEST, free_question

TEXT = datasets.Value("string")
IMAGE = datasets.Image()
NUMBER = datasets.Value("int32")


def jpeg(value):
  buffer = io.BytesIO()
  Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
  return buffer.getvalue()


def cell(value):
  return {"bytes": jpeg(value), "path": None}


def parquet(path, features, *rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  columns = {name: [row.get(name) for row in rows] for name in features}
  datasets.Dataset.from_dict(columns, datasets.Features(features)).to_parquet(path)


def table(path, *rows):
  with path.open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)


def pictures(folder, *names):
  for value, name in enumerate(names):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(jpeg(value))


def blink(folder):
  images = {f"image_{i}": IMAGE for i in (1, 2, 3, 4)}
  features = {"idx": TEXT, "question": TEXT, "sub_task": TEXT, **images}
  features |= {"choices": [TEXT], "answer": TEXT, "prompt": TEXT, "explanation": TEXT}
  parquet(
    folder / "Counting" / "val-00000-of-00001.parquet",
    features,
    {"question": "How many cups are there?", "image_1": cell(1), "answer": "(A)"},
    {"question": "Which one is alike?", "image_1": cell(2), "image_2": cell(3)},
  )
  parquet(
    folder / "Spatial_Relation" / "test-00000-of-00001.parquet",
    features,
    {"question": "Is the cup left of the dog?", "image_1": cell(4), "answer": "hidden"},
    {"question": "How big is the cup?", "image_1": cell(1)},
  )
  return {("How many cups are there?", "How big is the cup?"): 1,
          ("Is the cup left of the dog?",): 4}, 1  # fmt: skip


def vstar(folder):
  pictures(folder, "direct_attributes/sa_1.jpg", "relative_position/sa_2.jpg")
  rows = [
    {"image": "direct_attributes/sa_1.jpg", "label": "A", "question_id": 0,
     "category": "direct_attributes",
     "text": "What is the color of the glove?\n(A) red\n(B) blue\n"
     "Answer with the option's letter from the given choices directly."},
    {"image": "relative_position/sa_2.jpg", "label": "B", "question_id": 1,
     "category": "relative_position",
     "text": "Is the dog left of the car?\n(A) left\n(B) right"},
    {"image": "gone.jpg", "text": "What is gone?"},
  ]  # fmt: skip
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "test_questions.jsonl").write_text(text)
  return {
    ("What is the color of the glove?",): 0,
    ("Is the dog left of the car?",): 1,
  }, 1


def corecognition(folder):
  pictures(folder / "media", "a1.png", "a2.png", "a3.png")
  head = ["id", "concept", "stage", "type", "question", "images", "videos"]
  head += ["answer", "choices"]
  mark = "<image-placeholder: a1.png> "
  table(
    folder / "CoreCognition.csv",
    head,
    ["1", "c", "s", "MC", mark + "Which line is longer?", "a1.png", "", "A", "{}"],
    ["2", "c", "s", "MC", "What happens next?", "", "v.mp4", "B", "{}"],
    ["3", "c", "s", "TF", "Are they alike?", "a2.png;a3.png", "", "YES", "{}"],
    ["4", "c", "s", "TF", "Will the ball fall?", "a3.png", "", "YES", "{}"],
  )
  return {("Which line is longer?",): 0, ("Will the ball fall?",): 2}, 2


def mmvp(folder):
  pictures(folder / "MMVP Images", *(f"{i}.jpg" for i in range(13)))
  rows = [[i, f"Is it number {i}?", "(a) Yes (b) No", "(a)"] for i in range(1, 13)]
  head = ["Index", "Question", "Options", "Correct Answer"]
  table(folder / "Questions.csv", head, *rows)
  # Wrong: the pictures sorted by name, 1, 10, 11, 12, 2: row 2 gets the tenth.
  return {(f"Is it number {i}?",): i for i in range(1, 13)}, 0


def mmmu_pro(folder):
  images = {f"image_{i}": IMAGE for i in range(1, 8)}
  features = {"id": TEXT, "question": TEXT, "options": TEXT, "explanation": TEXT}
  features |= images | {"img_type": TEXT, "answer": TEXT, "subject": TEXT}
  parquet(
    folder / "standard (10 options)" / "test-00000-of-00002.parquet",
    features,
    {"question": "<image 1> What style is this painting?", "image_1": cell(1)},
    {"question": "Which of the following is true of <image 1>?", "image_1": cell(2)},
    {"question": "How do <image 1> and <image 2> differ?", "image_1": cell(3),
     "image_2": cell(4)},
  )  # fmt: skip
  # The same rows with other options: read too, every question would come twice.
  parquet(
    folder / "standard (4 options)" / "test-00000-of-00001.parquet",
    features,
    {"question": "<image 1> What is this?", "image_1": cell(9)},
  )
  return {("What style is this painting?",): 1}, 2


def ocrbench_v2(folder):
  features = {"id": NUMBER, "dataset_name": TEXT, "question": TEXT, "type": TEXT}
  features |= {"answers": [TEXT], "image": IMAGE, "eval": TEXT, "bbox": [NUMBER]}
  parquet(
    folder / "data" / "test-00000-of-00001.parquet",
    features,
    {"question": "What is the total? Answer with a number only.",
     "type": "cognition VQA en", "image": cell(1)},
    {"question": "图中的标题是什么?", "type": "cognition VQA cn", "image": cell(2)},
    {"question": "Where is the word?", "type": "text spotting en", "image": cell(3)},
  )  # fmt: skip
  return {("What is the total?",): 1}, 2


def chartqapro(folder):
  features = {"Question": [TEXT], "Answer": [TEXT], "Question Type": TEXT}
  features |= {"image": datasets.Value("binary"), "Year": [TEXT], "Paragraph": TEXT}
  parquet(
    folder / "data" / "test-00000-of-00001.parquet",
    features,
    {"Question": ["How tall is the bar of 2020?"], "Question Type": "Factoid",
     "image": jpeg(1), "Paragraph": ""},
    {"Question": ["Which year is highest?", "And the one before it?"],
     "Question Type": "Conversational", "image": jpeg(2), "Paragraph": ""},
    {"Question": ["What does the text say of 2020?"], "Question Type": "Factoid",
     "image": jpeg(3), "Paragraph": "Sales rose."},
    {"Question": ["Sales rose in 2020."], "Question Type": "Fact Checking",
     "image": jpeg(4), "Paragraph": ""},
  )  # fmt: skip
  return {("How tall is the bar of 2020?",): 1, ("Which year is highest?",): 2}, 2


FIXTURES = (blink, vstar, corecognition, mmvp, mmmu_pro, ocrbench_v2, chartqapro)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = str(tmp_path_factory.mktemp("cache"))
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


def test_all_seven_have_a_fixture():
  assert {fixture.__name__ for fixture in FIXTURES} == set(PUBLISHED)
  assert len(PUBLISHED) == 7


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda f: f.__name__)
def test_questions_stand_beside_their_own_pictures(tmp_path, fixture):
  wanted, skipped = fixture(tmp_path)
  spec = f"{fixture.__name__}://{tmp_path}"
  corpus = data.open_corpus(spec, allow_noncommercial=True)
  got = {}
  for image, asked in (corpus[i] for i in range(len(corpus))):
    pixels = np.asarray(Image.open(io.BytesIO(image.png)))
    got[asked] = int(pixels[0, 0, 0])
    assert image.image_id.isascii() and "/" not in image.image_id
  assert got == wanted
  assert len(corpus.skipped) == skipped
  assert all(s.path and s.reason for s in corpus.skipped)
  (origin,) = corpus.origins
  assert origin.licence and origin.revision and origin.repository
  assert len(data.open_corpus(spec + "?limit=1", allow_noncommercial=True)) == 1


@pytest.mark.parametrize("kind", ["vstar", "ocrbench_v2"])
def test_sets_without_commercial_use_need_the_flag(tmp_path, kind):
  with pytest.raises(ValueError, match="set allow_noncommercial"):
    data.open_corpus(f"{kind}://{tmp_path}")


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_what_is_not_there_gets_the_command_that_brings_it(tmp_path, kind):
  spec = f"{kind}://{tmp_path}/none"
  for folder in (tmp_path / "none", tmp_path):
    spec = f"{kind}://{folder}"
    with pytest.raises(FileNotFoundError) as error:
      data.open_corpus(spec, allow_noncommercial=True)
    message = str(error.value)
    assert f"hf download {PUBLISHED[kind].origin.repository}" in message
    assert f"--local-dir {folder}" in message and "\n" not in message


def test_another_schema_is_named(tmp_path):
  parquet(tmp_path / "x" / "val-0.parquet", {"text": TEXT}, {"text": "How many?"})
  with pytest.raises(ValueError, match="no column 'image_1'|no column 'question'"):
    data.open_corpus(f"blink://{tmp_path}")


def test_without_a_folder_the_pinned_revision_is_downloaded(tmp_path, monkeypatch):
  import huggingface_hub

  wanted, _ = mmvp(tmp_path)
  asked = {}

  def download(repository, **options):
    asked.update(options, repository=repository)
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  assert len(data.open_corpus("mmvp://")) == len(wanted)
  origin = PUBLISHED["mmvp"].origin
  assert asked["repository"] == origin.repository and asked["repo_type"] == "dataset"
  assert asked["revision"] == origin.revision
  with pytest.raises(ValueError, match="unzip"):
    data.open_corpus("corecognition://")


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("What is it?", "What is it?"),
    ("<image 1>\nWhat is  it?\nOptions:\nA. a cat\nB. a dog", "What is it?"),
    ("Is it open? (a) Yes? (b) No?", "Is it open?"),
    ("There is a cup. Is it (A) full?", "There is a cup. Is it (A) full?"),
    ("How many? Answer with a number.", "How many?"),
    ("What does Ω mean here?", "What does Ω mean here?"),
    ("Describe the picture.", "ends in a question mark"),
    ("Which of the following is true?", "its options"),
    ("Select the best of these. Which is it?", "its options"),
    ("这是什么东西?", "English"),
    ("Which picture matches the second image?", "more than one image"),
    (f"{'very ' * LONGEST}long?", "longer"),
  ],
)
def test_what_is_left_of_a_question(text, wanted):
  # Wrong: options stay, and the questioner learns to write "(A) … (B) …".
  question, why_not = free_question(text)
  assert bool(question) != bool(why_not)
  assert question == wanted if question else wanted in why_not
