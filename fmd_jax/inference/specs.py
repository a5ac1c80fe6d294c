"""Model specs: one string names one model.

grpc://host:port/role       a role of a running sidecar; of several that serve the
                            same: grpc://a:1,b:1/role. ?ca= &cert= &key= PEM files, for
                            TLS; &tls=1 TLS by the system's authorities. The bearer
                            token is in the environment (FMD_JAX_TOKEN).
hf:///path or hf:///org/id  a Hugging Face checkpoint, by transformers on torch;
                            ?threads= &batch= &device= &dtype=
hf://testbed/answerer       the same, a checkpoint of this package's testbed; a member
                            of its family but the first: hf://testbed/answerer_small
vllm:///path or /org/id     the same by vLLM (GPUs; AsyncLLM): ?tensor= &data= parallel,
                            &ray=1 its Ray executor, &dtype= &length= &sequences=
                            &memory=0.9 &kv_mb= &images= &eager=1
openai://model@base_url     any endpoint of OpenAI's chat completions, base_url as in
                            http://host:8000/v1; without it OpenAI's own
gemini://model              a Gemini model
                            both: the key from the environment only; ?key_env= its
                            variable (OPENAI_API_KEY, GEMINI_API_KEY), &concurrency=16
                            calls at once, &attempts=6, &timeout=120 seconds without a
                            byte, &omit=temperature,seed parameters it refuses; openai:
                            &thinks=1 its replies begin inside <think>, &limit= what it
                            calls max_tokens
oracle://                   the exact judge of the testbed's world
oracle://?se=0.8&sp=0.8     the same with a known error; ?se= the probability that a
                            fault (invalid question, wrong answer) is called one,
                            ?sp= that none is called none, each .5 to 1 (the default);
                            &by=difficulty errs less on easy questions, more on hard
                            ones; &seed= (`engines.oracle.Noise` has the definition)
scripted://file.py:function a Python function, or a JSON file of replies
minilm://                   the embedder all-MiniLM-L6-v2; ?threads=
"""

import importlib.util
import math
import pathlib
import urllib.parse
from collections.abc import Callable
from typing import Any

from fmd_jax.inference.protocol import Embedder, Generator, SpecError


def resolve(
  spec: str,
  *,
  deadline: float = 600.0,
  while_waiting: Callable[[], None] | None = None,
) -> Generator:
  """Turns a model spec into a Generator.

  Args:
    spec: see the module's docstring.
    deadline: seconds that one call to a sidecar may take, waiting for a sidecar
      that does not answer included.
    while_waiting: called now and then while a sidecar does not answer; what it
      raises ends the wait (`sidecar.process.Sidecar.check` fits).

  Raises:
    SpecError: the spec names nothing that generates text.
  """
  scheme, rest, query = split(spec)
  if scheme == "grpc":
    from fmd_jax.inference import client

    connection, role = _connect(
      spec, rest, query, deadline=deadline, while_waiting=while_waiting
    )
    return client.RemoteGenerator(connection, role)
  engine = load_engine(spec)
  if not hasattr(engine, "generate"):
    raise SpecError(f"{spec!r} embeds, it does not generate text")
  return engine


def resolve_embedder(
  spec: str,
  *,
  deadline: float = 600.0,
  while_waiting: Callable[[], None] | None = None,
) -> Embedder:
  """Turns a model spec into an Embedder; arguments and errors as in `resolve`."""
  scheme, rest, query = split(spec)
  if scheme == "grpc":
    from fmd_jax.inference import client

    connection, role = _connect(
      spec, rest, query, deadline=deadline, while_waiting=while_waiting
    )
    return client.RemoteEmbedder(connection, role)
  engine = load_engine(spec)
  if not hasattr(engine, "embed"):
    raise SpecError(f"{spec!r} does not embed; one that does is minilm://")
  return engine


def needs_sidecar(spec: str) -> bool:
  """Whether a spec's engine must not live in a process that runs jax."""
  return split(spec)[0] in ("hf", "minilm", "vllm", "openai", "gemini")


def is_remote(spec: str) -> bool:
  """Whether a spec names a sidecar that runs already."""
  return split(spec)[0] == "grpc"


def load_engine(spec: str) -> Any:
  """Loads the engine of a spec in this process.

  Returns:
    A Generator, an Embedder, or (scripted) both.

  Raises:
    SpecError: an unknown scheme, an unknown option, a path that is not there.
  """
  scheme, rest, query = split(spec)
  if scheme not in _ENGINES:
    raise SpecError(
      f"{spec!r}: no engine {scheme!r}; one of "
      + ", ".join(f"{name}://" for name in ("grpc", *_ENGINES))
    )
  return _ENGINES[scheme](spec, rest, query)


def split(spec: str) -> tuple[str, str, dict[str, str]]:
  """Splits `scheme://rest?key=value` into its three parts."""
  scheme, found, rest = spec.partition("://")
  if not found or not scheme:
    raise SpecError(f"{spec!r} is not a model spec: it has no scheme like hf://")
  rest, _, query = rest.partition("?")
  return scheme, rest, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


def at_sidecar(address: str, role: str) -> str:
  """The spec of a role of the sidecar at `host:port[,host:port][?ca=…]`."""
  hosts, _, query = address.partition("?")
  return f"grpc://{hosts}/{role}" + (f"?{query}" if query else "")


def connect(spec: str, **options: Any) -> Any:
  """The connection to the sidecars of a grpc:// spec; `options` as in `resolve`."""
  return _connect(spec, *split(spec)[1:], **options)[0]


def _connect(spec: str, rest: str, query: dict[str, str], **options: Any) -> tuple:
  """The connection and the role of a grpc:// spec."""
  from fmd_jax.inference import channel, client

  _known(spec, query, ("ca", "cert", "key", "tls"))
  addresses, _, role = rest.partition("/")
  for address in addresses.split(","):
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not role or "/" in role:
      raise SpecError(f"{spec!r} is not grpc://host:port/role")
  if query.get("tls", "1") != "1":
    raise SpecError(f"{spec!r}: tls can only be 1")
  if ("cert" in query) != ("key" in query):
    raise SpecError(f"{spec!r}: cert and key go together")
  tls = None
  if query:
    files = (query.get(name, "") for name in ("ca", "cert", "key"))
    tls = channel.Tls(*files)
  return client.Connection(addresses, tls=tls, **options), role


def _known(spec: str, query: dict[str, str], names: tuple[str, ...]) -> None:
  for key in query:
    if key not in names:
      known = f"; it has {', '.join(names)}" if names else ""
      raise SpecError(f"{spec!r}: no option {key!r}{known}")


def _whole(spec: str, query: dict[str, str], key: str, least: int = 1) -> int | None:
  if key not in query:
    return None
  if not query[key].isdecimal() or int(query[key]) < least:
    raise SpecError(f"{spec!r}: {key} must be a whole number from {least}")
  return int(query[key])


def _probability(spec: str, query: dict[str, str], key: str) -> float:
  try:
    value = float(query.get(key, "1"))
  except ValueError:
    value = math.nan
  if not 0.5 <= value <= 1:
    raise SpecError(
      f"{spec!r}: {key} must be a number from 0.5 (a coin) to 1 (no error), "
      f"not {query[key]!r}"
    )
  return value


def checkpoint_folder(spec: str) -> str:
  """The folder, or the hub id, that an `hf://` or `vllm://` spec names.

  Raises:
    SpecError: it is neither, or there is no such folder.
  """
  scheme, rest, _ = split(spec)
  if scheme not in ("hf", "vllm"):
    raise SpecError(f"{spec!r} names no checkpoint folder; hf:///path/to/folder does")
  if rest.startswith("testbed/"):
    package = importlib.util.find_spec("fmd_jax").submodule_search_locations[0]
    assets, name = pathlib.Path(package) / "testbed" / "assets", rest[len("testbed/") :]
    shipped = sorted(path.parent.name for path in assets.glob("*/config.json"))
    if name not in shipped:
      raise SpecError(
        f"{spec!r}: the testbed has no checkpoint {name!r}; it has {', '.join(shipped)}"
      )
    return str(assets / name)
  if not rest.startswith("/") or rest == "/":
    raise SpecError(
      f"{spec!r}: {scheme}:// takes an absolute path ({scheme}:///path), a hub id "
      f"({scheme}:///org/name) or {scheme}://testbed/answerer"
    )
  if pathlib.Path(rest).is_dir():
    return rest
  hub_id = rest.strip("/")
  if hub_id.count("/") != 1:
    raise SpecError(f"{spec!r}: there is no folder {rest}")
  return hub_id


def _hf(spec: str, rest: str, query: dict[str, str]) -> Generator:
  from fmd_jax.inference.engines import hf

  _known(spec, query, ("threads", "batch", "device", "dtype"))
  options: dict[str, Any] = {
    "threads": _whole(spec, query, "threads"),
    "batch": _whole(spec, query, "batch") or hf.BATCH,
    "device": query.pop("device", None),
    "dtype": query.pop("dtype", "float32"),
  }
  if options["dtype"] not in ("float32", "bfloat16", "float16"):
    raise SpecError(f"{spec!r}: dtype is one of float32, bfloat16, float16")
  folder = checkpoint_folder(spec)
  return hf.HFEngine(folder, name=_folder_name(folder, rest), **options)


def _vllm(spec: str, rest: str, query: dict[str, str]) -> Generator:
  from fmd_jax.inference.engines import vllm

  whole = ("tensor", "data", "length", "sequences", "kv_mb", "images")
  _known(spec, query, (*whole, "ray", "eager", "dtype", "memory"))
  options: dict[str, Any] = {
    name: value for name in whole if (value := _whole(spec, query, name)) is not None
  }
  for name in ("ray", "eager"):
    if query.get(name, "0") not in ("0", "1"):
      raise SpecError(f"{spec!r}: {name} is 0 or 1")
    options[name] = query.get(name) == "1"
  if "dtype" in query:
    options["dtype"] = query["dtype"]
  if "memory" in query:
    options["memory"] = _share(spec, query["memory"])
  folder = checkpoint_folder(spec)
  return vllm.VLLMEngine(folder, name=_folder_name(folder, rest), **options)


def _share(spec: str, text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 < value <= 1:
    raise SpecError(f"{spec!r}: memory is a share of the device's, from 0 to 1")
  return value


def _folder_name(folder: str, rest: str) -> str:
  """The name in records: a hub id, testbed/answerer, or the last part of a path."""
  if not pathlib.Path(folder).is_dir():
    return folder
  return rest if rest.startswith("testbed/") else rest.strip("/").split("/")[-1]


def _oracle(spec: str, rest: str, query: dict[str, str]) -> Generator:
  from fmd_jax.inference.engines import oracle

  _known(spec, query, ("se", "sp", "by", "seed"))
  if rest:
    raise SpecError(f"{spec!r}: oracle:// takes no path")
  if query.get("by", "difficulty") != "difficulty":
    raise SpecError(
      f"{spec!r}: by must be difficulty, not {query['by']!r}; "
      "without it the error is the same for all questions"
    )
  if not query:
    return oracle.OracleEngine()
  noise = oracle.Noise(
    se=_probability(spec, query, "se"),
    sp=_probability(spec, query, "sp"),
    by_difficulty="by" in query,
    seed=_whole(spec, query, "seed", 0) or 0,
  )
  return oracle.OracleEngine(noise)


def _scripted(spec: str, rest: str, query: dict[str, str]) -> Any:
  from fmd_jax.inference.engines import scripted

  _known(spec, query, ())
  return scripted.load(rest)


def _minilm(spec: str, rest: str, query: dict[str, str]) -> Embedder:
  from fmd_jax.inference.engines import minilm

  _known(spec, query, ("threads",))
  if rest:
    raise SpecError(f"{spec!r}: minilm:// takes no path")
  return minilm.MiniLMEngine(threads=_whole(spec, query, "threads"))


def _openai(spec: str, rest: str, query: dict[str, str]) -> Generator:
  from fmd_jax.inference.engines import openai

  model, _, base_url = rest.rpartition("@") if "@" in rest else (rest, "", "")
  limit, thinks = query.pop("limit", ""), query.pop("thinks", "0")
  if thinks not in ("0", "1"):
    raise SpecError("openai://: thinks is 0 or 1")
  options = _api_options("openai", model, query)
  return openai.connect(model, base_url, limit=limit, thinks=thinks == "1", **options)


def _gemini(spec: str, rest: str, query: dict[str, str]) -> Generator:
  from fmd_jax.inference.engines import gemini

  model, _, base_url = rest.partition("@")
  return gemini.connect(model, base_url, **_api_options("gemini", model, query))


def _api_options(scheme: str, model: str, query: dict[str, str]) -> dict[str, Any]:
  """Options that engines behind a web API share; no message repeats a value, which may
  be a key."""
  whole = ("concurrency", "attempts", "timeout")
  unknown = sorted(set(query) - {"key_env", "omit", *whole})
  if unknown:
    cure = "; a key belongs into the environment" if "key" in str(unknown) else ""
    raise SpecError(f"{scheme}://: unknown option {', '.join(unknown)}{cure}")
  if not model:
    raise SpecError(f"{scheme}:// names no model")
  options: dict[str, Any] = {
    name: value
    for name in whole
    if (value := _whole(f"{scheme}://{model}", query, name)) is not None
  }
  if "key_env" in query:
    options["key_env"] = query["key_env"]
  if "omit" in query:
    options["omit"] = tuple(query["omit"].split(","))
  return options


_ENGINES = {
  "hf": _hf,
  "vllm": _vllm,
  "openai": _openai,
  "gemini": _gemini,
  "oracle": _oracle,
  "scripted": _scripted,
  "minilm": _minilm,
}
