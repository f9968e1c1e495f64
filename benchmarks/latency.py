"""Does a latency that was measured twice come out the same?

Twenty students of `mobile`, drawn uniformly, are measured in several runs, each in a process of its
own and in another order, batch 1, one thread: as the search does it, by the shortest call relative
to that of the teacher beside it, and by the plain median.

    python benchmarks/latency.py [--engine onnxruntime|torch|cuda]

Target: the same model's two figures within 5 % of each other, and the ranking of twenty models in
two runs agreeing by Kendall's tau of at least 0.95. To be run on an idle machine.
"""

from __future__ import annotations

import argparse
import random
from multiprocessing import get_context

from common import machine, markdown, met, open_setting, quartiles, write

from nasdistill.analysis.rank_correlation import kendall
from nasdistill.models.latency import ENGINES, measure_latencies
from nasdistill.space import SearchSpace

COUNT, SECONDS, SEED = 20, 0.2, 7
WAYS = ("as the search does it", "plain median")


def measure(engine: str, order_seed: int) -> dict[str, list[float]]:
    """Of each student, by its number: shortest call ÷ the teacher's, and median milliseconds."""
    setting = open_setting()
    space, rng = SearchSpace.load("mobile"), random.Random(SEED)
    drawn = [space.random(rng) for _ in range(COUNT)]
    models = [setting.setup.students(a, setting.data, 0)[0].eval() for a in drawn]
    figures = {way: [0.0] * COUNT for way in WAYS}
    for index in random.Random(order_seed).sample(range(COUNT), COUNT):
        measured = measure_latencies(
            {"student": models[index], "teacher": setting.teacher.module.eval()},
            {"student": setting.data.input, "teacher": setting.teacher.input},
            engine=engine,
            seconds=SECONDS,
        )
        student, teacher = measured["student"], measured["teacher"]
        figures["as the search does it"][index] = student.least_ms / teacher.least_ms
        figures["plain median"][index] = student.median_ms
    return figures


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="onnxruntime", choices=tuple(ENGINES))
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    runs = []
    for run in range(args.runs):
        with get_context("spawn").Pool(1) as pool:
            runs.append(pool.apply(measure, (args.engine, run)))
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    rows, figures = [], {}
    for way in WAYS:
        apart = sorted(
            abs(x - y) / min(x, y) for a, b in pairs for x, y in zip(a[way], b[way], strict=True)
        )
        taus = sorted(kendall(a[way], b[way]) or 0.0 for a, b in pairs)
        within = sum(share <= 0.05 for share in apart) / len(apart)
        figures[way] = {
            "apart": quartiles(apart),
            "worst": apart[-1],
            "within": within,
            "taus": taus,
        }
        rows.append(
            [
                way,
                f"{within:.0%}",
                f"{quartiles(apart)[1]:.1%}",
                f"{apart[-1]:.1%}",
                f"{quartiles(taus)[1]:.3f}",
                f"{taus[0]:.3f}",
            ]
        )
    ours = figures[WAYS[0]]
    text = (
        f"{COUNT} students, {args.runs} runs, every pair of runs held against each other, engine "
        f"{args.engine}. As the search does it: within 5 % in every comparison: "
        f"{met(ours['worst'] <= 0.05)}; ranking by τ of at least 0.95 at the median: "
        f"{met(quartiles(ours['taus'])[1] >= 0.95)}, in the worst pair: "
        f"{met(ours['taus'][0] >= 0.95)}.\n\n"
    )
    head = ["way", "within 5 %", "median difference", "worst", "median τ", "worst τ"]
    results = {"machine": machine(), "engine": args.engine, "runs": runs, **figures}
    write("latency", results, text + markdown(head, rows))


if __name__ == "__main__":
    main()
