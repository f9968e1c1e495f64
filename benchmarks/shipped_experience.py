"""The full runs that the package brings: the tables of `full_runs.py`, as a study keeps them.

    python benchmarks/shipped_experience.py

Writes `nasdistill/assets/experience/FINGERPRINT.jsonl` for each space with a table: architecture,
costs, figures of the untrained student, and accuracy on the audit half after 12 epochs, the mean
over the seeds there are. No test image had a part in it.
"""

from __future__ import annotations

from pathlib import Path

from common import CACHE, open_setting
from full_runs import EPOCHS, SPACES, total
from replay import Table

from nasdistill.results.experience import SHIPPED, EarlierRun, lines_of
from nasdistill.space import SearchSpace
from nasdistill.study.experience import setting_of


def main() -> None:
    """Writes the files."""
    setting = open_setting(cache=CACHE)
    data, weights = setting.data.fingerprint, setting.teacher.weights_hash
    name = setting_of(setting.recipe, data, weights, total(setting, 1.0))
    SHIPPED.mkdir(exist_ok=True)
    for space in SPACES:
        table = Table.read(space)
        runs = [
            EarlierRun(
                table.untrained(place),
                round(accuracy, 4),
                name,
                f"benchmarks/full_runs_{space}.jsonl, architecture {table.numbers[place]}, "
                f"{EPOCHS} epochs of fashion-mnist-mini",
            )
            for place, accuracy in enumerate(table.truth("audit"))
        ]
        fingerprint = SearchSpace.load(space).fingerprint
        path: Path = SHIPPED / f"{fingerprint}.jsonl"
        path.write_text("\n".join(lines_of(runs, fingerprint)) + "\n")
        print(f"{path.name}: {len(runs)} full runs on {space}")


if __name__ == "__main__":
    main()
