"""Plays kubectl: takes what the real one takes.

$FAKE_CLOUD/kube.json: "items" (what was applied, kind/name -> manifest), "statuses" (of
the JobSet, one a look; the last one stays), "pods" (what `get pods` says).
$FAKE_CLOUD/logs is what the pods print. Every call is a line of $FAKE_CLOUD/calls.
"""

import json
import os
import pathlib
import sys

from tests.launch import grammar

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])


def fail(message):
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def main():
  arguments = sys.argv[2:]
  with open(CLOUD / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\n")
  try:
    verb, names, flags = grammar.kubectl(arguments)
  except grammar.UsageError as error:
    fail(error)
  path = CLOUD / "kube.json"
  cluster = json.loads(path.read_text())
  key = "/".join(names)
  if verb == "apply":
    for item in json.load(sys.stdin)["items"]:
      cluster["items"][f"{item['kind'].lower()}/{item['metadata']['name']}"] = item
      print(f"{item['kind'].lower()}/{item['metadata']['name']} created")
  elif verb == "logs":
    if not cluster["items"]:
      fail("no resources found")
    print((CLOUD / "logs").read_text(), end="")
  elif names[0] == "pods":
    print(json.dumps({"items": cluster["pods"]}))
  elif key not in cluster["items"]:
    if "--ignore-not-found" not in flags:
      fail(f'{names[0]} "{names[1]}" not found')
  elif verb == "delete":
    del cluster["items"][key]
  else:
    statuses = cluster["statuses"]
    status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
    print(json.dumps(cluster["items"][key] | {"status": status}))
  path.write_text(json.dumps(cluster))


if __name__ == "__main__":
  main()
