"""An evaluation that goes on pays for what is missing only."""

from fmd_jax.records.verdicts import KeptVerdicts
from fmd_jax.types import Verdict

ROWS = [("image", "Is it red?", "yes"), ("image", "Is it big?", None)]


def test_only_what_is_missing_is_asked(tmp_path):
  asked = []

  def ask(status):
    def give(indices):
      asked.append(indices)
      return [Verdict(status if i else "ok", correct=True) for i in indices]

    return give

  judge = {"model": "a@1", "prompt": "1"}
  first = KeptVerdicts(tmp_path, judge).part(ROWS, ask("unscored"))
  assert [v.status for v in first] == ["ok", "unscored"]
  # A judge that failed is asked again, what it has said is kept.
  again = KeptVerdicts(tmp_path, judge)
  assert [v.status for v in again.part(ROWS, ask("ok"))] == ["ok", "ok"]
  assert again.part(ROWS, ask("ok")) == again.part(ROWS, ask("ok"))
  assert asked == [[0, 1], [1]]
  # Another judge, another answer: another verdict.
  other = KeptVerdicts(tmp_path, judge | {"model": "a@2"})
  other.part(ROWS, ask("ok"))
  other.part([("image", "Is it red?", "no")], ask("ok"))
  assert asked[2:] == [[0, 1], [0]]
  other.drop_others()
  assert len(list(tmp_path.iterdir())) == 2
