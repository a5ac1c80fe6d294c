"""Any Qwen2.5-VL or Qwen3-VL checkpoint, by Hugging Face transformers on torch.

One call is one batch. The rows that show one image share everything up to and
including it: the vision tower runs once per image, the prompt's head once per
head, and its keys and values are copied to the rows. What is left of a prompt is
padded on the left, so that every row's next token is the last column.
"""

import dataclasses
import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from fmd_jax.inference.engines import chat
from fmd_jax.inference.engines.folders import CLASSES, eos_ids, model_type, revision
from fmd_jax.inference.protocol import Reply, Request, SpecError, draw_seed

BATCH = 256
_PIXEL_CACHE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class _Row:
  """One prompt: its token ids cut after the last image, and how to go on."""

  head: tuple[int, ...]
  tail: tuple[int, ...]
  images: tuple[str, ...]
  max_tokens: int
  temperature: float
  seed: int
  thinks: bool


class HFEngine:
  """A Qwen-VL model that answers batches of requests.

  Args:
    folder: a checkpoint folder, or a hub id that transformers can find.
    name: the model's name in records.
    threads: torch threads; None leaves torch's own choice.
    batch: the most rows computed at once; a larger call is cut in order.
    device: a torch device; None is the GPU where there is one.
    dtype: the weights' type, by torch's name.

  Raises:
    SpecError: the folder is not a Qwen-VL checkpoint with a chat template.
  """

  def __init__(
    self,
    folder: str,
    *,
    name: str,
    threads: int | None = None,
    batch: int = BATCH,
    device: str | None = None,
    dtype: str = "float32",
  ):
    try:
      import torch
      import transformers
      from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil
    except ImportError as error:
      raise ImportError(
        "hf:// needs torch and transformers: pip install torch 'transformers>=5.16'"
      ) from error
    transformers.utils.logging.disable_progress_bar()
    kind = model_type(folder, transformers)
    if threads:
      torch.set_num_threads(threads)
    if device is None:
      device = "cuda" if torch.cuda.is_available() else "cpu"
    self._torch, self._transformers = torch, transformers
    self._batch, self._device = batch, device
    # Not AutoProcessor: it wants torchvision for videos, which nobody shows here.
    try:
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
      self._processor = pil.Qwen2VLImageProcessorPil.from_pretrained(folder)
      model = getattr(transformers, CLASSES[kind]).from_pretrained(
        folder, dtype=getattr(torch, dtype)
      )
    except (OSError, ValueError) as error:
      raise SpecError(f"{folder} cannot be loaded: {error}") from error
    if not self._tokenizer.chat_template:
      raise SpecError(f"{folder} has no chat template (chat_template.jinja)")
    self._model = model.eval().to(device)
    self._image_id = model.config.image_token_id
    self._image_token = self._tokenizer.convert_ids_to_tokens(self._image_id)
    self._eos = eos_ids(model.generation_config, model.config, self._tokenizer)
    self._pad_id = self._tokenizer.pad_token_id or 0
    self._pixels: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
    self._pixel_bytes = 0
    self.name, self.revision, self.settings = name, revision(folder), dtype

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Index and reply of each request as its row ends."""
    rows, failed, pixels = self._prepare(requests)
    yield from failed.items()
    good = [index for index, row in enumerate(rows) if row is not None]
    for start in range(0, len(good), self._batch):
      part = good[start : start + self._batch]
      for place, reply in self._run([rows[index] for index in part], pixels):
        yield part[place], reply

  def _prepare(
    self, requests: Sequence[Request]
  ) -> tuple[list[_Row | None], dict[int, Reply], dict]:
    """Renders, tokenises and cuts prompts; a bad request fails alone.

    Returns:
      The rows (None where a request failed), the replies to failed requests by
      index, and the pixels and grid of every image by content hash.
    """
    digests = {
      image: hashlib.sha256(image).hexdigest()
      for image in {image for request in requests for image in request.images}
    }
    texts, failed, pixels = {}, {}, {}
    for index, request in enumerate(requests):
      try:
        texts[index] = self._text(request, digests, pixels)
      except (OSError, SyntaxError, TypeError, ValueError) as error:
        failed[index] = Reply("", error=str(error) or repr(error))
    if not texts:
      return [None] * len(requests), failed, pixels
    encoded = self._tokenizer(list(texts.values()), add_special_tokens=False)
    rows: list[_Row | None] = [None] * len(requests)
    limit = self._model.config.text_config.max_position_embeddings
    for index, ids in zip(texts, encoded["input_ids"], strict=True):
      request = requests[index]
      if len(ids) + request.max_tokens > limit:
        failed[index] = Reply(
          "", error=f"{len(ids)} prompt tokens + {request.max_tokens} > {limit}"
        )
        continue
      cut = len(ids) - ids[::-1].index(self._image_id) if self._image_id in ids else 1
      rows[index] = _Row(
        head=tuple(ids[:cut]),
        tail=tuple(ids[cut:]),
        images=tuple(digests[image] for image in request.images),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=draw_seed(request),
        # A template that opens the reasoning itself leaves the tag out of the reply.
        thinks=texts[index].rstrip().endswith("<think>"),
      )
    return rows, failed, pixels

  def _text(self, request: Request, digests: dict[bytes, str], pixels: dict) -> str:
    """The prompt with its image slots expanded; adds its images to `pixels`."""
    if request.max_tokens < 1:
      raise ValueError(f"max_tokens is {request.max_tokens}; it starts at 1")
    text = self._tokenizer.apply_chat_template(
      chat.without_control_tokens(request.messages),
      add_generation_prompt=True,
      tokenize=False,
    )
    merge = self._processor.merge_size**2
    counts = []
    for image in request.images:
      digest = digests[image]
      if digest not in pixels:
        pixels[digest] = self._image(digest, image)
      counts.append(int(pixels[digest][1].prod()) // merge)
    return chat.expand_images(text, self._image_token, counts)

  def _image(self, digest: str, image: bytes) -> tuple[Any, Any]:
    """Processed pixels [N, patch] and grid [1, 3] of an image, kept by content."""
    if digest in self._pixels:
      self._pixels.move_to_end(digest)
      return self._pixels[digest]
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
      picture = opened.convert("RGB")
    out = self._processor(images=[picture], return_tensors="pt")
    self._pixels[digest] = out["pixel_values"], out["image_grid_thw"]
    self._pixel_bytes += out["pixel_values"].nbytes
    while self._pixel_bytes > _PIXEL_CACHE_BYTES:
      _, (old, _) = self._pixels.popitem(last=False)
      self._pixel_bytes -= old.nbytes
    return out["pixel_values"], out["image_grid_thw"]

  def _run(self, rows: list[_Row], pixels: dict) -> Iterator[tuple[int, Reply]]:
    """Computes R rows: index and reply of each as it ends."""
    torch = self._torch
    # Entered anew for each piece of work: a caller may do other things in between, and
    # the mode is the thread's.
    with torch.inference_mode():
      decoding = self._start(rows, pixels)
    while True:
      with torch.inference_mode():
        ended = next(decoding, None)
      if ended is None:
        return
      yield from ended

  def _start(self, rows: list[_Row], pixels: dict) -> Iterator[list[tuple[int, Reply]]]:
    """Reads the prompts of R rows; what follows decodes them."""
    torch = self._torch
    heads = list(dict.fromkeys((row.head, row.images) for row in rows))
    cache, head_mask, next_position = self._prefill_heads(heads, pixels)
    index = {head: i for i, head in enumerate(heads)}
    of_row = torch.tensor(
      [index[row.head, row.images] for row in rows], device=self._device
    )
    cache.reorder_cache(of_row)

    width = max(len(row.tail) for row in rows)
    ids = torch.full((len(rows), width), self._pad_id, dtype=torch.long)
    tail_mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
      ids[i, width - len(row.tail) :] = torch.tensor(row.tail)
      tail_mask[i, width - len(row.tail) :] = 1
    ids, tail_mask = ids.to(self._device), tail_mask.to(self._device)
    # After its images a prompt is text: all three axes of M-RoPE count on alike.
    offsets = (tail_mask.cumsum(-1) - 1).clamp(min=0)
    positions = next_position[of_row, None] + offsets
    mask = torch.cat([head_mask[of_row], tail_mask], dim=-1)
    logits = self._forward(self._embed(ids), positions, mask, cache)
    return self._decode(rows, logits, positions[:, -1] + 1, mask, cache)

  def _prefill_heads(self, heads: list[tuple], images: dict) -> tuple[Any, Any, Any]:
    """Runs the U different heads, padded on the right.

    Returns:
      The cache of keys and values, the heads' mask [U, P], and the position that
      follows each head [U].
    """
    torch = self._torch
    width = max(len(ids) for ids, _ in heads)
    ids = torch.full((len(heads), width), self._pad_id, dtype=torch.long)
    mask = torch.zeros((len(heads), width), dtype=torch.long)
    for i, (tokens, _) in enumerate(heads):
      ids[i, : len(tokens)] = torch.tensor(tokens)
      mask[i, : len(tokens)] = 1
    ids, mask = ids.to(self._device), mask.to(self._device)
    x, grids, deepstack = self._embed(ids), None, {}
    digests = [digest for _, shown in heads for digest in shown]
    if digests:
      features, grid_of = self._features(list(dict.fromkeys(digests)), images)
      grids = torch.cat([grid_of[digest] for digest in digests])
      shown = torch.cat([features[digest] for digest in digests]).to(x.dtype)
      is_image = (ids == self._image_id) & (mask == 1)
      shown, *added = shown.split(x.shape[-1], dim=-1)
      x = x.masked_scatter(is_image[..., None], shown)
      if added:
        deepstack = {"visual_pos_masks": is_image, "deepstack_visual_embeds": added}
    positions, deltas = self._model.model.get_rope_index(
      ids,
      mm_token_type_ids=(ids == self._image_id).int(),
      image_grid_thw=grids,
      attention_mask=mask,
    )
    next_position = mask.sum(-1) + deltas.reshape(-1)
    cache = self._transformers.DynamicCache(config=self._model.config.text_config)
    self._language(x, positions, mask, cache, **deepstack)
    return cache, mask, next_position

  def _features(self, digests: list[str], images: dict) -> tuple[dict, dict]:
    """Visual tokens [M, F] and grid [1, 3] of each image.

    F is the model's width, or, as in `models.vision`, more with what deepstack adds.
    """
    torch = self._torch
    pixels, grids = zip(*(images[digest] for digest in digests), strict=True)
    out = self._model.model.get_image_features(
      torch.cat(pixels).to(self._device), torch.cat(grids).to(self._device)
    )
    parts = [out.pooler_output, *getattr(out, "deepstack_features", ())]
    whole = [torch.cat(own, dim=-1) for own in zip(*parts, strict=True)]
    return (
      dict(zip(digests, whole, strict=True)),
      dict(zip(digests, (grid.to(self._device) for grid in grids), strict=True)),
    )

  def _embed(self, ids: Any) -> Any:
    return self._model.get_input_embeddings()(ids)

  def _language(
    self, x: Any, positions: Any, mask: Any, cache: Any, **deepstack
  ) -> Any:
    """Hidden states [R, T, D]; positions [3, R, T]."""
    # Not through the whole model: it takes deepstack's part from pixels only.
    return self._model.model.language_model(
      inputs_embeds=x,
      position_ids=positions,
      attention_mask=mask,
      past_key_values=cache,
      use_cache=True,
      **deepstack,
    ).last_hidden_state

  def _forward(self, x: Any, positions: Any, mask: Any, cache: Any) -> Any:
    """Next-token logits [R, V] of the last column; positions [R, T]."""
    hidden = self._language(x, positions.expand(3, *positions.shape), mask, cache)
    return self._model.lm_head(hidden[:, -1]).float()

  def _decode(
    self, rows: list[_Row], logits: Any, positions: Any, mask: Any, cache: Any
  ) -> Iterator[list[tuple[int, Reply]]]:
    """Decodes until every row has ended; rows that have ended leave the batch.

    Yields the rows that ended together, with their replies.
    """
    torch = self._torch
    tokens: list[list[int]] = [[] for _ in rows]
    finish = ["length"] * len(rows)
    generators = {
      i: torch.Generator().manual_seed(row.seed)
      for i, row in enumerate(rows)
      if row.temperature > 0
    }
    live = list(range(len(rows)))
    while True:
      chosen = logits.argmax(-1).tolist()
      keep = []
      for slot, row in enumerate(live):
        if row in generators:
          p = torch.softmax(logits[slot].cpu() / rows[row].temperature, -1)
          chosen[slot] = int(torch.multinomial(p, 1, generator=generators[row]))
        if chosen[slot] in self._eos:
          finish[row] = "stop"
          continue
        tokens[row].append(chosen[slot])
        if len(tokens[row]) < rows[row].max_tokens:
          keep.append(slot)
      if len(keep) < len(live):
        staying = {live[slot] for slot in keep}
        yield self._replies(
          {row: tokens[row] for row in live if row not in staying}, rows, finish
        )
      if not keep:
        return
      if len(keep) < len(live):
        kept = torch.tensor(keep, device=self._device)
        cache.reorder_cache(kept)
        positions, mask = positions[kept], mask[kept]
        chosen, live = [chosen[s] for s in keep], [live[s] for s in keep]
      mask = torch.cat([mask, mask.new_ones((len(live), 1))], dim=-1)
      ids = torch.tensor(chosen, device=self._device)[:, None]
      logits = self._forward(self._embed(ids), positions[:, None], mask, cache)
      positions = positions + 1

  def _replies(
    self, ended: dict[int, list[int]], rows: list[_Row], finish: list[str]
  ) -> list[tuple[int, Reply]]:
    texts = self._tokenizer.batch_decode(list(ended.values()), skip_special_tokens=True)
    replies = []
    for (index, tokens), text in zip(ended.items(), texts, strict=True):
      row = rows[index]
      reply = Reply(
        "<think>" * row.thinks + text,
        finish=finish[index],
        prompt_tokens=len(row.head) + len(row.tail),
        tokens=len(tokens),
      )
      replies.append((index, reply))
    return replies
