"""What a sidecar tells of itself."""

from fmd_jax import inference
from fmd_jax.inference import Request
from fmd_jax.sidecar import status


def test_the_table_counts_what_was_done(running, script):
  roles = {"answerer": script("echo"), "shouter": script("shout")}
  with running(roles) as address:
    model = inference.resolve(f"grpc://{address}/answerer")
    model.generate([Request([], fields={"question": q}) for q in ("a", "bad", "b")])
    told = inference.connect(f"grpc://{address},127.0.0.1:9/any").status()
  (role, other) = told[address].roles
  assert (role.requests, role.errors, role.queued, role.in_flight) == (3, 1, 0, 0)
  assert other.requests == 0
  text = status.table(told)
  lines = text.splitlines()
  assert lines[0].startswith(f"{address}: fmd_jax ")
  head, answerer, shouter = (line.split("  ") for line in lines[1:4])
  cells = [cell.strip() for cell in answerer if cell.strip()]
  assert cells[0] == "answerer"
  assert cells[2:7] == ["0", "0", "3", "1", "0"]
  # One that is not there is named, and the other one's table is shown all the same.
  assert "127.0.0.1:9: UNAVAILABLE" in text
