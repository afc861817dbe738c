"""How long the caption metrics take on a set of the size of Clotho's evaluation split: 1,045 clips, 5 captions each.

`python benchmarks/metrics.py` prints the median seconds of each metric that needs no Java and no model, and their
sum; `--captions test.csv` takes AudioCaps captions in place of made-up ones. The tokeniser's cache is emptied first.
"""

import argparse
import csv
import random
import statistics
import time

from eval.metrics import _ptb as ptb
from eval.metrics import load_metric

METRICS = ("bleu", "rouge_l", "cider_d", "token_f1", "exact_match")
N_CLIPS, N_REFERENCES = 1045, 5


def captions(path, n):
    """Distinct captions: those of a CSV, then made-up ones."""
    found = []
    if path:
        with open(path, encoding="utf-8", newline="") as file:
            found = [row["caption"] for row in csv.DictReader(file)]
    rng = random.Random(0)
    words = [
        a + b
        for a in "bdfgklmnprst"
        for b in ("ird", "arn", "ock", "ell", "ine", "oad", "ush", "ane", "it", "um")
    ]
    while len(found) < n:
        found.append(" ".join(rng.choices(words, k=rng.randint(6, 16))) + ".")
    return found[:n]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", help="a CSV with a column 'caption'")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = captions(arguments.captions, N_CLIPS * (N_REFERENCES + 1))
    said = texts[:N_CLIPS]
    wanted = [texts[i : i + N_REFERENCES] for i in range(N_CLIPS, len(texts), N_REFERENCES)]
    metrics = {name: load_metric(name) for name in METRICS}
    times = {name: [] for name in METRICS}
    alone, totals = [], []
    for _ in range(arguments.repeats):
        ptb._tokenize.cache_clear()
        start = time.perf_counter()
        metrics["cider_d"].compute(predictions=said, references=wanted)
        alone.append(time.perf_counter() - start)
        ptb._tokenize.cache_clear()
        whole = time.perf_counter()
        for name, metric in metrics.items():
            start = time.perf_counter()
            metric.compute(predictions=said, references=wanted)
            times[name].append(time.perf_counter() - start)
        totals.append(time.perf_counter() - whole)
    for name, values in times.items():
        print(f"{name:12s} {statistics.median(values):.3f} s")
    print(f"cider_d with nothing tokenised yet: {statistics.median(alone):.3f} s (bound 1 s)")
    print(f"all together: {statistics.median(totals):.3f} s (bound 3 s)")


if __name__ == "__main__":
    main()
