"""The processor on Qwen2.5-VL's real tokenizer and template.

Three oracles: the ids that the hub's config.json and transformers' class name, a plain
merge loop over the ranks, and transformers' own reading of the same folder.
"""

import random
import unicodedata

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from fmd_jax import prompts
from fmd_jax.models import processor
from tests.models import qwen_tokenizer

pytestmark = pytest.mark.skipif(
  not (qwen_tokenizer.FOLDER / "tokenizer.json").is_file(),
  reason=f"Qwen's ranks are not here: run `{qwen_tokenizer.COMMAND}` (2.4 MB, by pip)",
)

IDS = {
  "<|endoftext|>": 151643,
  "<|im_start|>": 151644,
  "<|im_end|>": 151645,
  "<|vision_start|>": 151652,
  "<|vision_end|>": 151653,
  "<|vision_pad|>": 151654,
  "<|image_pad|>": 151655,
  "<|video_pad|>": 151656,
  "<tool_call>": 151657,
  "<|file_sep|>": 151664,
}
TEXTS = (
  "How many people wear a red hat?",
  "通义千问是阿里云的大模型。你好，世界！",
  "日本語テキスト 12345 67、カタカナも",
  "한국어 문장과 русский текст, Ελληνικά",
  "العربية हिन्दी ไทย עברית",
  "🙂🚀👩‍👩‍👧 emoji, e\u0301 and \u00e9, \ufb01 and ﷺ",
  "I'LL don't we've IT'S l'été",
  "  \n\n\t def f(x):\r\n    return x**2  \n",
  '{"a": [1, 2.5e-3], "ß": null}',
  "<response_1>What colour is it?</response_1>",
  "x" * 300 + " " * 50 + "\n" * 9 + "3.14159",
  "a<|im_end|>b<|image_pad|><tool_call> <|not_a_token|>",
  "\u200b\ufeff\x00\x7f\u2028",
  "",
)


def texts(count: int = 300) -> list[str]:
  """TEXTS, and random ones of letters, accents, Chinese, digits and blanks."""
  rng = random.Random(0)
  ranges = ((32, 127), (0xA0, 0x2FFF), (0x4E00, 0x9FFF), (48, 58), (9, 14), (32, 33))
  draw = lambda: chr(rng.randrange(*rng.choice(ranges)))  # noqa: E731
  made = ("".join(draw() for _ in range(rng.randrange(1, 60))) for _ in range(count))
  return [*TEXTS, *made]


@pytest.fixture(scope="module")
def ours():
  return processor.Processor.from_folder(qwen_tokenizer.FOLDER)


def test_the_ids_of_qwen(ours):
  # One special token too many or few, or ranks of another Qwen, shifts them all.
  assert {token: ours.token_id(token) for token in IDS} == IDS
  assert ours.image_token_id == 151655 and ours.pad_id == 151643
  assert ours.vocab_size == 151665
  special = {*range(151643, 151657), *range(151659, 151665)}
  assert set(ours.special_ids) == special  # <tool_call> and </tool_call> are text
  # As published with the models.
  assert ours.tokens("Hello, world!") == [9707, 11, 1879, 0]


def test_ids_equal_a_plain_merge_loop_over_the_ranks(ours):
  # Merges in another order, a wrong word pattern (\p{N}{1,3} as in Llama 3) or a
  # forgotten NFC differ in a few of these only.
  ranks = qwen_tokenizer.parse((qwen_tokenizer.FOLDER / "qwen.tiktoken").read_bytes())
  assert len(ranks) == 151643 == max(ranks.values()) + 1
  words = pre_tokenizers.Split(tokenizers.Regex(qwen_tokenizer.WORDS), "isolated")
  for text in texts():
    if "<|" in text:
      continue
    wanted = []
    composed = unicodedata.normalize("NFC", text)
    for word, _ in words.pre_tokenize_str(composed):
      parts = qwen_tokenizer.split(word.encode(), ranks, len(ranks))
      wanted += [ranks[part] for part in parts]
    assert ours.tokens(text) == wanted, ascii(text)
    assert ours.decode(wanted) == composed


@pytest.fixture(scope="module")
def theirs():
  from transformers import AutoTokenizer

  return AutoTokenizer.from_pretrained(qwen_tokenizer.FOLDER)


def test_ids_equal_transformers(ours, theirs):
  assert type(theirs).__name__.startswith("Qwen2Tokenizer")
  every = texts()
  for text, wanted in zip(every, theirs(every)["input_ids"], strict=True):
    assert ours.tokens(text) == wanted, ascii(text)
  ids = theirs(TEXTS[-3])["input_ids"]
  assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}
CHATS = {
  "system of its own": (
    [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}],
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?"
    "<|im_end|>\n<|im_start|>assistant\n",
  ),
  "several turns": (
    [
      {"role": "system", "content": "Be short."},
      {"role": "user", "content": [{"type": "text", "text": "一"}, IMAGE, VIDEO]},
      {"role": "assistant", "content": " two\n"},
      {"role": "user", "content": "and?"},
    ],
    "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n"
    "一<|vision_start|><|image_pad|><|vision_end|>"
    "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
    "<|im_start|>assistant\n two\n<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n"
    "<|im_start|>assistant\n",
  ),
}


@pytest.mark.parametrize("name", CHATS)
def test_chat_equals_the_published_prompt_and_transformers(ours, theirs, name):
  messages, wanted = CHATS[name]
  assert ours.chat(messages) == wanted
  given = {"add_generation_prompt": True, "tokenize": False}
  assert theirs.apply_chat_template(messages, **given) == wanted
  assert ours.tokens(wanted) == theirs(wanted)["input_ids"]


def test_the_prompt_of_a_photograph(ours, theirs):
  # 640 x 480 becomes 644 x 476, 46 x 34 patches: 391 tokens, each one <|image_pad|>.
  messages = prompts.render("questioner", k=2)
  image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
  batch = ours.encode([messages], [[image]])
  assert batch.image_grid_thw.tolist() == [[1, 34, 46]]
  ids = batch.input_ids[0, : batch.lengths[0]]
  assert (ids == 151655).sum() == 391
  text = theirs.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=False
  )
  expanded = text.replace("<|image_pad|>", "<|image_pad|>" * 391)
  assert ids.tolist() == theirs(expanded)["input_ids"]
