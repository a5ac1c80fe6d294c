"""What sidecars do now, as a table."""

from collections.abc import Mapping

from fmd_jax.inference import sidecar_pb2 as pb

_HEAD = (
  "role", "model", "queued", "in flight", "answered", "errors", "cache hits",
  "tokens", "tokens/s",
)  # fmt: skip


def table(told: Mapping[str, pb.StatusResponse | str]) -> str:
  """The table of each sidecar, by address; a text is why there is none."""
  lines = []
  for address, answer in told.items():
    if isinstance(answer, str):
      lines += [f"{address}: {answer}", ""]
      continue
    lines.append(
      f"{address}: fmd_jax {answer.version}, up {answer.uptime:.0f} s, "
      f"{answer.images} images ({answer.image_bytes / 2**20:.1f} MiB), "
      f"{answer.rejected} calls refused"
    )
    rows = [_HEAD]
    for role in answer.roles:
      model = f"{role.name}@{role.revision}" if role.revision else role.name
      numbers = (
        role.queued, role.in_flight, role.requests, role.errors, role.cache_hits,
        role.tokens,
      )  # fmt: skip
      rate = f"{role.tokens_per_second:.1f}"
      rows.append((role.role, model, *map(str, numbers), rate))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
      cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
      lines.append("  " + "  ".join(cells).rstrip())
    lines.append("")
  return "\n".join(lines)
