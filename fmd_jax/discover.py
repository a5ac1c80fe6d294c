"""`discover(config, workdir)`: finds what one model gets wrong on one set of images.

manifest -> sidecar -> methods, one after another -> evaluation -> metrics
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator

import ml_collections
from absl import logging
from etils import epath

from fmd_jax import data, hosts, inference, prompts, records, rl, rollout, sharding
from fmd_jax.evaluate import evaluate, measure
from fmd_jax.inference.engines import hf
from fmd_jax.methods import grpo, training, zero_shot
from fmd_jax.methods.run import Run
from fmd_jax.models.layers import REMAT
from fmd_jax.questioner.agent import Agent
from fmd_jax.records import mirror
from fmd_jax.records.files import is_remote
from fmd_jax.sidecar import process
from fmd_jax.stopping import Stop

METHODS = {module.NAME: module.run for module in (zero_shot, grpo)}
PRICED = ("questioner", "answerer", "verifier", "evaluator", "annotator", "namer")
# What a resumed run may change: it goes on, so it may go further.
_MAY_DIFFER = (
  "budget.calls",
  "budget.usd",
  *(f"budget.prices.{role}" for role in PRICED),
  "cache.folder",
  "cache.gb",
  "checkpoint.every",
  "checkpoint.keep",
  "data.workers",
  "data.cache_mb",
  "grpo.microbatch_tokens",
  "sampling.gather",
  "sharding.data",
  "sharding.fsdp",
  "sharding.tensor",
  "sidecar.address",
  "sidecar.threads",
  "sidecar.deadline",
  "watch.wandb",
)
_PRECISIONS = ("float32", "bfloat16")
# Keys whose values are names of something.
_NAMED = {
  "advantage.credit": grpo.CREDIT,
  "advantage.scale": rl.SCALES,
  "grpo.kl": rl.KL,
  "grpo.loss": rl.LOSSES,
  "model.remat": REMAT,
  "precision.compute": _PRECISIONS,
  "precision.frozen": _PRECISIONS,
}
ASKED = ("answerer", "verifier", "evaluator", "embedder")


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what can't work, before anything is started.

  Raises:
    ValueError: names the key, the bad value and the cure.
  """
  mirror.check(config.watch.wandb)
  unknown = [m for m in config.methods if m not in METHODS]
  if unknown or not config.methods:
    raise ValueError(
      f"config.methods has {unknown or 'nothing'}; available: {', '.join(METHODS)}"
    )
  if config.sampling.temperature != 1.0 and "grpo" in config.methods:
    raise ValueError(
      f"config.sampling.temperature is {config.sampling.temperature}; GRPO trains the "
      "distribution that it samples from: set it to 1.0"
    )
  for key, known in _NAMED.items():
    if config[key] not in known:
      raise ValueError(
        f"config.{key} is {config[key]!r}; available: {', '.join(known)}"
      )
  if config.grpo.loss == "dr_grpo" and config.advantage.scale != "none":
    raise ValueError(
      "config.grpo.loss is dr_grpo, whose advantages are not divided by the std: set "
      "config.advantage.scale to 'none'"
    )
  if config.grpo.loss == "cispo" and config.grpo.clip_high < 1:
    raise ValueError(
      f"config.grpo.clip_high is {config.grpo.clip_high}; cispo bounds the ratio "
      "itself by it: set it above 1, to 5.0 for one"
    )
  if config.lora.rank and not config.lora.targets:
    raise ValueError("config.lora.rank is set and config.lora.targets is empty")
  for key in ("data.workers", "data.cache_mb"):
    if config[key] < 0:
      raise ValueError(f"config.{key} is {config[key]}; it must be at least 0")
  if config.rollout.staleness not in (0, 1):
    raise ValueError(
      f"config.rollout.staleness is {config.rollout.staleness}; it can be 0 or 1"
    )
  if config.images_per_step % hosts.count():
    raise ValueError(
      f"config.images_per_step is {config.images_per_step}, which does not split over "
      f"{hosts.count()} processes"
    )
  for key in ("steps", "images_per_step", "group_size", "questions_per_image"):
    if config[key] < 1:
      raise ValueError(f"config.{key} is {config[key]}; it must be at least 1")


@contextlib.contextmanager
def serve_roles(
  config: ml_collections.ConfigDict, workdir: epath.PathLike, names: tuple[str, ...]
) -> Iterator[dict]:
  """Gives the models of some roles, all but remote ones behind one sidecar.

  The sidecar is the one at `config.sidecar.address`, or one that lives as long as this
  context.
  """
  specs = {name: config.roles[name] for name in names}
  local = {name: s for name, s in specs.items() if not inference.is_remote(s)}
  threads = config.sidecar.threads or os.cpu_count()
  ledger = inference.Ledger(
    workdir / "spending.json",
    calls=config.budget.calls,
    usd=config.budget.usd,
    prices=config.budget.prices.to_dict(),
  )
  kept = str(workdir / config.cache.folder) if config.cache.folder else ""
  with contextlib.ExitStack() as stack:
    check_alive = None
    if config.sidecar.address:
      specs |= {
        name: inference.at_sidecar(config.sidecar.address, name) for name in local
      }
    elif local:
      sidecar = stack.enter_context(
        process.start(
          local,
          log=_log(stack, workdir),
          threads=threads,
          cache_folder=kept,
          cache_gb=config.cache.gb,
        )
      )
      specs |= {name: sidecar.spec(name) for name in local}
      check_alive = sidecar.check
    options = {"deadline": config.sidecar.deadline, "while_waiting": check_alive}
    yield {
      name: (
        inference.resolve_embedder(spec, **options)
        if name == "embedder"
        else inference.BudgetedGenerator(
          inference.resolve(spec, **options), name, ledger
        )
      )
      for name, spec in specs.items()
    }


def _log(stack: contextlib.ExitStack, workdir: epath.Path) -> str:
  """Where this process's sidecar writes its log: a file of this machine."""
  name = f"sidecar-{hosts.index()}.log" if hosts.index() else "sidecar.log"
  folder = os.fspath(workdir)
  if is_remote(workdir):
    folder = stack.enter_context(tempfile.TemporaryDirectory())
  return os.path.join(folder, name)


def questioner_folder(spec: str) -> str:
  """The checkpoint folder of a trainable questioner.

  Raises:
    ValueError: the spec doesn't name a folder.
  """
  if not spec.startswith("hf://"):
    raise ValueError(
      f"config.roles.questioner is {spec!r}: a questioner that is trained must be a "
      "checkpoint folder, hf:///path/to/folder"
    )
  return inference.checkpoint_folder(spec)


def discover(
  config: ml_collections.ConfigDict, workdir: epath.PathLike, stop: Stop | None = None
) -> dict | None:
  """Runs a config's methods in a workdir and evaluates what they asked.

  Called again with the same config and workdir it goes on where it stopped. Several
  processes (`hosts.initialize`) call it together, with one workdir for all.

  Args:
    config: see `configs/base.py`.
    workdir: made if missing; local, or gs://.
    stop: who is asked whether to stop.

  Returns:
    What `metrics.json` holds; None on all processes but the first, which evaluates.

  Raises:
    ValueError: the config can't work, or the workdir is another config's.
    Stopped: the run was asked to stop; what it has done is kept.
  """
  check(config)
  workdir = epath.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  hosts.from_first(lambda: records.check_config(workdir, config.to_dict(), _MAY_DIFFER))

  # ---- images and questioner -------------------------------------------------------
  train, heldout = data.open(config.data.train), data.open(config.data.heldout)
  for source in (train, heldout):
    for skipped in source.skipped:
      logging.warning("skipped %s: %s", skipped.path, skipped.reason)
  folder = questioner_folder(config.roles.questioner)
  agent = Agent(
    folder,
    questions=config.questions_per_image,
    group_size=config.group_size,
    max_new_tokens=config.sampling.max_new_tokens,
    temperature=config.sampling.temperature,
    mesh=sharding.make_mesh(**config.sharding),
    gather=config.sampling.gather,
    adapt=functools.partial(training.adapted, config),
  )

  workers = data.Workers(config.data.workers, config.data.cache_mb)
  with workers, serve_roles(config, workdir, ASKED) as models:
    questioner = hosts.from_first(lambda: hf.revision(folder))
    identities = {
      "questioner": f"{config.roles.questioner}@{questioner}",
      **{name: inference.identity(model) for name, model in models.items()},
    }
    manifest = hosts.from_first(
      lambda: records.write_manifest(
        workdir,
        config=config.to_dict(),
        seeds={"config.seed": config.seed},
        models=identities,
        prompts={role: prompts.version(role) for role in prompts.ROLES},
        may_differ=_MAY_DIFFER,
      )
    )
    roles = rollout.Roles(models["answerer"], models["verifier"], models["embedder"])
    run = Run(
      config,
      workdir,
      manifest["run_id"],
      agent,
      roles,
      train,
      heldout,
      workers,
      stop or Stop(),
      identities,
      _MAY_DIFFER,
    )

    # ---- the methods ---------------------------------------------------------------
    project = "" if hosts.index() else config.watch.wandb
    with mirror.wandb_mirror(workdir, project, run.run_id):
      for method in config.methods:
        METHODS[method](run)

    # ---- what they found -----------------------------------------------------------
    hosts.part()
    if hosts.index():
      return None
    evaluate(
      workdir,
      models["evaluator"],
      max_tokens=config.judge.max_tokens,
      retries=config.judge.retries,
    )
    return measure(workdir, models["embedder"], config.seed)


def table(metrics: dict) -> str:
  """The comparison as text, one line a method and protocol."""
  head = ("method", "protocol", "questions", "QVR", "FDR", "failures", "SD", "LD")
  lines = [head]
  for method, protocols in metrics["methods"].items():
    for protocol, m in protocols.items():
      sd = m["sd"]["rarefied"] if m["sd"] else None
      ld = m["ld"]["rarefied"]
      lines.append(
        (
          method,
          protocol,
          str(m["questions"]),
          _rate(m["qvr"]),
          _rate(m["fdr"]),
          str(m["failures"]["distinct"]),
          "-" if sd is None else f"{sd:.2f}",
          "-" if ld is None else f"{ld:.3f}",
        )
      )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = [
    "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
    for line in lines
  ]
  for method, protocols in metrics["comparison"].items():
    for protocol, rates in protocols.items():
      ratio = rates["fdr"]["ratio"]
      if ratio["value"] is not None:
        bounds = _bounds(ratio)
        text.append(
          f"FDR of {method} / zero_shot, {protocol}: {ratio['value']:.2f}{bounds}"
        )
  return "\n".join(line.rstrip() for line in text)


def _bounds(estimate: dict) -> str:
  """The interval of a ratio; an unbounded end, as small runs have it, is a dash."""
  ends = [estimate[end] for end in ("low", "high")]
  if ends == [None, None]:
    return ""
  low, high = ("-" if end is None else f"{end:.2f}" for end in ends)
  return f" [{low}, {high}]"


def _rate(estimate: dict) -> str:
  if estimate["value"] is None:
    return "-"
  low, high = estimate["low"], estimate["high"]
  return f"{estimate['value']:.3f}" + (
    "" if low is None else f" [{low:.3f}, {high:.3f}]"
  )
