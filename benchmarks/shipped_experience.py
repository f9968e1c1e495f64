"""The full runs that the package brings: the tables of `full_runs.py`, as a study keeps them.

    python benchmarks/shipped_experience.py

Writes `nasdistill/assets/experience/FINGERPRINT.jsonl` for each space with a table: architecture,
costs, figures of the untrained student, and accuracy on the audit half after 12 epochs, the mean
over the seeds there are. No test image had a part in it. Of a table whose data or teacher are not
at hand (`cifar10_small.py`), the lines that are there stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import cifar10_small
from common import CACHE, open_setting
from full_runs import EPOCHS, TABLES, Source, runs_file, total
from replay import Table

from nasdistill.results.experience import SHIPPED, EarlierRun, lines_of, shipped_runs
from nasdistill.space import SearchSpace
from nasdistill.study.experience import setting_of

DATA = {
    "fashion-mnist-mini": "fashion-mnist-mini",
    cifar10_small.DATA: "10,000 pictures of CIFAR-10",
}
"""In words."""
JUDGES = ("mobile_more",)
"""Tables that teach nobody: searches and guesses are judged by them."""


def runs_of(name: str, source: Source) -> list[EarlierRun]:
    """The full runs of a table."""
    setting = open_setting(cache=CACHE, spec=source.data, teacher=source.teacher)
    data, weights = setting.data.fingerprint, setting.teacher.weights_hash
    own = setting_of(setting.recipe, data, weights, total(setting, 1.0))
    table, words = Table.read(name), DATA[source.data]
    return [
        EarlierRun(
            table.untrained(place),
            round(accuracy, 4),
            own,
            f"{table_of(name)}, architecture {table.numbers[place]}, {EPOCHS} epochs of {words}",
        )
        for place, accuracy in enumerate(table.truth("audit"))
    ]


def table_of(name: str) -> str:
    """A table, as the source of a run names it."""
    return f"benchmarks/{runs_file(name).name}"


def is_at_hand(source: Source) -> bool:
    """Whether a table's data and teacher are there."""
    return source.data != cifar10_small.DATA or (cifar10_small.FOLDER / "teacher").is_dir()


def main() -> None:
    """Writes the files."""
    SHIPPED.mkdir(exist_ok=True)
    runs: dict[str, list[EarlierRun]] = {}
    for name, source in TABLES.items():
        if name in JUDGES:
            continue
        fingerprint = SearchSpace.load(source.space).fingerprint
        if is_at_hand(source) and runs_file(name).exists():
            of_table = runs_of(name, source)
        else:
            shipped = shipped_runs(fingerprint)
            of_table = [run for run in shipped if run.source.startswith(f"{table_of(name)},")]
        runs.setdefault(fingerprint, []).extend(of_table)
        print(f"{fingerprint}: {len(of_table)} full runs of the table {name}")
    for fingerprint, of_space in runs.items():
        path: Path = SHIPPED / f"{fingerprint}.jsonl"
        path.write_text("\n".join(lines_of(of_space, fingerprint)) + "\n")


if __name__ == "__main__":
    main()
