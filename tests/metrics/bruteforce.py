"""The metrics once more, by loops over rows: slow, plain, and written apart."""

import math


def judged(rows):
  """Counts of scored, valid and wrong; (image, question) of each valid row."""
  scored = [r for r in rows if r["status"] != "unscored"]
  valid = [r for r in scored if r["status"] == "ok" and r["valid"]]
  return scored, valid, [r for r in valid if not r["correct"]]


def qvr(rows):
  scored, valid, _ = judged(rows)
  return len(valid) / len(scored) if scored else None


def fdr(rows):
  _, valid, wrong = judged(rows)
  return len(wrong) / len(valid) if valid else None


def distinct(rows):
  return len({(r["image_id"], r["question"]) for r in judged(rows)[2]})


def curve(rows, stops):
  """FDR so far, FDR since the last stop, distinct failures, at each stop."""
  out, last = [], 0
  for stop in stops:
    first = [r for r in rows if r["place"] < stop]
    since = [r for r in rows if last <= r["place"] < stop]
    out.append((fdr(first), fdr(since), distinct(first)))
    last = stop
  return out


def known(rows):
  return [r for r in judged(rows)[1] if r["skills"] is not None]


def coverage(rows):
  sizes = [len(set(r["skills"])) for r in known(rows)]
  return sum(sizes) / len(sizes) if sizes else None


def per_skill(rows):
  """skill -> (failures, questions)."""
  out = {}
  for r in known(rows):
    for skill in set(r["skills"]):
      failures, n = out.get(skill, (0, 0))
      out[skill] = failures + (not r["correct"]), n + 1
  return out


def combinations(rows):
  return len({tuple(sorted(set(r["skills"]))) for r in known(rows) if r["skills"]})


def sizes(rows):
  out = {}
  for r in known(rows):
    k = len(set(r["skills"]))
    out[k] = out.get(k, 0) + 1
  return out


def clustered_error(a, b, skill):
  """Standard error of fdr(a) - fdr(b) in a skill, from residuals summed by image."""
  terms = {}
  for sign, rows in ((1, a), (-1, b)):
    own = [r for r in known(rows) if skill in r["skills"]]
    rate = sum(not r["correct"] for r in own) / len(own)
    for r in own:
      x = sign * ((not r["correct"]) - rate) / len(own)
      terms[r["image_id"]] = terms.get(r["image_id"], 0.0) + x
  n = len(terms)
  return math.sqrt(sum(x * x for x in terms.values()) * n / (n - 1)), n


def adjusted(p):
  """Benjamini and Hochberg by their definition: the least q at which p is rejected."""
  out = []
  for own in p:
    levels = []
    for rank, other in enumerate(sorted(p), 1):
      if other >= own:
        levels.append(other * len(p) / rank)
    out.append(min(1.0, min(levels)))
  return out
