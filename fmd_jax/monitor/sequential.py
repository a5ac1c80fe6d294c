"""An interval for the gap between two judges that may be looked at again and again."""

import math

_BETS = tuple(k / 16 for k in range(1, 16))
_HALVINGS = 30


def gap_interval(more: int, same: int, less: int, tail: float) -> tuple[float, float]:
  """Both ends of the mean of differences that are 1, 0 or -1.

  Each end is where a gambler who bets that the mean lies beyond it has multiplied their
  money by 1 / tail (Waudby-Smith and Ramdas, https://doi.org/10.1093/jrsssb/qkad009;
  here the average of 15 gamblers who stake fixed shares). The rows may be drawn without
  replacement from several steps whose means differ: by Maclaurin's inequality, and that
  of the means, the money is still no more than 1 on average, so that each end fails
  with a probability of at most `tail`, of any number of rows. Ends that are looked at
  n times with tail / n each all hold together.

  Args:
    more, same, less: how many differences are 1, 0 and -1.
    tail: of one end.

  Returns:
    Low and high, in [-1, 1]; -1 and 1 where there are no rows.
  """
  return _lower(more, same, less, tail), -_lower(less, same, more, tail)


def _lower(more: int, same: int, less: int, tail: float) -> float:
  """The least mean that the gamblers leave standing; their money falls as it grows."""
  goal, low, high = -math.log(tail), -1.0, 1.0
  if not more + same:
    return low
  for _ in range(_HALVINGS):
    middle = (low + high) / 2
    if _money(more, same, less, middle) >= goal:
      low = middle
    else:
      high = middle
  return low


def _money(more: int, same: int, less: int, mean: float) -> float:
  """log of the gamblers' average money against "the mean is at most this"."""
  logs = []
  for bet in _BETS:
    share = bet / (1 + mean) if mean > -1 else math.inf
    if not math.isfinite(share):
      return math.inf
    logs.append(
      more * math.log1p(share * (1 - mean))
      + same * math.log1p(-share * mean)
      + less * math.log1p(-bet)
    )
  top = max(logs)
  return top + math.log(sum(math.exp(x - top) for x in logs) / len(logs))
