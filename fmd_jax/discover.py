"""`discover(config, workdir)`: finds what one model gets wrong on one set of images.

manifest -> sidecar -> methods, one after another -> evaluation -> metrics
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import ml_collections
from absl import logging
from etils import epath

from fmd_jax import data, hosts, inference, prompts, records, rollout
from fmd_jax.evaluate import Remembering, evaluate, make_plan, measure
from fmd_jax.inference.engines import hf
from fmd_jax.methods import training
from fmd_jax.methods.checks import METHODS, check
from fmd_jax.methods.run import Run
from fmd_jax.records import mirror
from fmd_jax.records.files import is_remote
from fmd_jax.sidecar import process
from fmd_jax.stopping import Stop

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
  "evaluation.sample",
  "grpo.microbatch_tokens",
  *(f"monitor.{key}" for key in ("every", "rows", "window", "gap", "prefix")),
  *(f"monitor.{key}" for key in ("zero_variance", "stop")),
  "sampling.gather",
  "sharding.data",
  "sharding.fsdp",
  "sharding.tensor",
  "sidecar.address",
  "sidecar.threads",
  "sidecar.deadline",
  # Asked after the run, by launch.taxonomy.
  "roles.annotator",
  "roles.namer",
  "taxonomy.questions",
  "taxonomy.max_tokens",
  "taxonomy.near_duplicate",
  "taxonomy.min_topic_size",
  "taxonomy.stability_seeds",
  "taxonomy.label_duplicate",
  "watch.wandb",
)
ASKED = ("answerer", "verifier", "evaluator", "embedder")


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
  ledger = _ledger(config, workdir)
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
          cache_folder=_replies(config, workdir),
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


def _ledger(
  config: ml_collections.ConfigDict, workdir: epath.PathLike
) -> inference.Ledger:
  """What this process spends; several have equal parts of the budget."""
  name = f"spending-{hosts.index()}.json" if hosts.index() else "spending.json"
  # An odd call more is nobody's; at least one, because 0 is no limit.
  calls = max(config.budget.calls // hosts.count(), 1) if config.budget.calls else 0
  return inference.Ledger(
    epath.Path(workdir) / name,
    calls=calls,
    usd=config.budget.usd / hosts.count(),
    prices=config.budget.prices.to_dict(),
  )


def _replies(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> str:
  """Where this process keeps replies; "" keeps none: a database needs a local disk."""
  folder = config.cache.folder
  if not folder or (is_remote(workdir) and not os.path.isabs(folder)):
    return ""
  own = f"-{hosts.index()}" if hosts.index() else ""
  return os.path.join(os.fspath(workdir), folder + own)


def _log(stack: contextlib.ExitStack, workdir: epath.Path) -> str:
  """Where this process's sidecar writes its log: a file of this machine."""
  name = f"sidecar-{hosts.index()}.log" if hosts.index() else "sidecar.log"
  folder = os.fspath(workdir)
  if is_remote(workdir):
    folder = stack.enter_context(tempfile.TemporaryDirectory())
  return os.path.join(folder, name)


def _checkpoints(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Specs of the checkpoints that this process itself loads, by what they do."""
  specs = {"questioner": config.roles.questioner}
  if "conme" in config.methods and config.conme.questioner:
    specs["conme_questioner"] = config.conme.questioner
  return {name: spec for name, spec in specs.items() if spec.startswith("hf://")}


def _identities(models: dict, checkpoints: dict[str, str]) -> dict[str, str]:
  """The run's models by role, as the first process has them.

  The questioner is one of the models, or of the checkpoints.

  Raises:
    ValueError: another process has others.
  """
  own = {name: inference.identity(model) for name, model in models.items()}
  first, *others = hosts.together(lambda: own)
  for i, there in enumerate(others, 1):
    for name in there:
      if there[name] != first[name]:
        raise ValueError(
          f"the {name} of process {i} is {there[name]}, that of process 0 is "
          f"{first[name]}: start their sidecars with the same models"
        )
  # Only one of them reads all of a checkpoint.
  revisions = hosts.from_first(
    lambda: {
      name: hf.revision(inference.checkpoint_folder(spec))
      for name, spec in checkpoints.items()
    }
  )
  loaded = {name: f"{spec}@{revisions[name]}" for name, spec in checkpoints.items()}
  return {**loaded, **first}


def _remembering(config, workdir, judge) -> Remembering:
  """As it is asked after the run: what the monitor pays for is not paid for again."""
  limits = {"max_tokens": config.judge.max_tokens, "retries": config.judge.retries}
  return Remembering(workdir, judge, **limits)


def open_images(
  config: ml_collections.ConfigDict,
) -> tuple[dict[str, data.Source], dict[str, dict]]:
  """Opens the images to train on and the unseen ones, and says what was left out.

  Returns:
    "train" and "heldout" -> the source, and what the manifest says of it.

  Raises:
    ValueError: a spec can't work, or processes see different images: each would take
      its part of another order.
  """
  sources: dict[str, data.Source] = {}

  def open_all() -> dict[str, dict]:
    sources["train"] = data.open(config.data.train)
    sources["heldout"] = data.open(config.data.heldout)
    return {use: data.describe(source) for use, source in sources.items()}

  images, *others = hosts.together(open_all)
  for index, other in enumerate(others, 1):
    if other != images:
      raise ValueError(
        f"process {index} sees other images than process 0: {other} there, {images} "
        "here; give them all the same files"
      )
  for use, said in images.items():
    for line in said["skipped_named"]:
      logging.warning("%s images: skipped %s", use, line)
    logging.info("%(images)d images of %(source)s; %(skipped)d skipped", said)
  return sources, images


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
  sources, images = open_images(config)
  agent, asked, checkpoints = None, ASKED, _checkpoints(config)
  if "questioner" in checkpoints:
    folder = inference.checkpoint_folder(config.roles.questioner)
    agent = training.make_agent(config, folder)
  else:
    asked = (*ASKED, "questioner")

  workers = data.Workers(config.data.workers, config.data.cache_mb)
  # The first process alone evaluates.
  asked = tuple(name for name in asked if name != "evaluator" or not hosts.index())
  with workers, serve_roles(config, workdir, asked) as models:
    identities = _identities(models, checkpoints)
    if agent is None:
      agent = training.make_remote_agent(config, models["questioner"])
    manifest = hosts.from_first(
      lambda: records.write_manifest(
        workdir,
        config=config.to_dict(),
        seeds={"config.seed": config.seed},
        models=identities,
        prompts={role: prompts.version(role) for role in prompts.ROLES},
        data=images,
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
      sources["train"],
      sources["heldout"],
      workers,
      stop or Stop(),
      identities,
      _MAY_DIFFER,
      None if hosts.index() else _remembering(config, workdir, models["evaluator"]),
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
      make_plan(workdir, config.evaluation.sample, config.seed),
      max_tokens=config.judge.max_tokens,
      retries=config.judge.retries,
      price=config.budget.prices.evaluator,
    )
    return measure(workdir, models["embedder"], config.seed)


def table(metrics: dict) -> str:
  """The comparison as text, one line a method and protocol."""
  head = ("method", "protocol", "questions", "QVR", "FDR", "failures")
  head += ("SD", "LD", "SC", "skills")
  lines = [head]
  for method, protocols in metrics["methods"].items():
    for protocol, m in protocols.items():
      sd = m["sd"]["rarefied"] if m["sd"] else None
      ld = m["ld"]["rarefied"]
      skills = m["skills"] or {"coverage": None, "rarefied": None}
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
          "-" if skills["coverage"] is None else f"{skills['coverage']:.2f}",
          "-" if skills["rarefied"] is None else f"{skills['rarefied']:.0f}",
        )
      )
  text = [_aligned(lines)]
  for method, protocols in metrics["comparison"].items():
    for protocol, rates in protocols.items():
      ratio = rates["fdr"]["ratio"]
      if ratio["value"] is not None:
        bounds = _bounds(ratio)
        text.append(
          f"FDR of {method} / zero_shot, {protocol}: {ratio['value']:.2f}{bounds}"
        )
  return "\n".join([*text, *_calibration(metrics)])


def costs(workdir: epath.PathLike, metrics: dict) -> str:
  """What each method asked for while training, as text; "" where nobody counted."""
  spent = records.totals(workdir, "budget")
  names = ("questions", "questioner_tokens", "answerer_calls", "verifier_calls")
  head = ("while training", *(name.replace("_", " ") for name in names))
  lines = [(*head, "distinct failures", "per 1000 verifier calls")]
  for method in (name for name in metrics["methods"] if name in spent):
    own = spent[method]
    cells = [f"{own[name]:,.0f}" if name in own else "-" for name in names]
    during = metrics["methods"][method]["during"]
    found = during["failures"]["distinct"]
    rate = during["distinct_per_1000_verifier_calls"]
    rate = "-" if rate is None else f"{rate:.1f}"
    lines.append((method, *cells, f"{found:,}", rate))
  return _aligned(lines) if len(lines) > 1 else ""


def _aligned(lines: list[tuple[str, ...]]) -> str:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  rows = (
    "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
    for line in lines
  )
  return "\n".join(row.rstrip() for row in rows)


def _calibration(metrics: dict) -> list[str]:
  """The rates without the judge's errors, or that nobody has measured these."""
  lines, states = [], set()
  for method, protocols in metrics["methods"].items():
    for protocol, m in protocols.items():
      states.add(m["calibration"])
      if m["corrected"]:
        known = m["corrected"]
        found = f"QVR {_rate(known['qvr'])}, FDR {_rate(known['fdr'])}"
        lines.append(
          f"{method}, {protocol}, without the judge's errors: "
          + (known["reason"] or found)
        )
  if "uncalibrated" in states:
    lines.append("The rates are uncalibrated: nobody has measured the judge's errors.")
  return lines


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
