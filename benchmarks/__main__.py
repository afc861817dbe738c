"""Run every bench and write benchmarks/RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import cuda, frontend, gradcache, loader, train_step
from benchmarks.measure import arguments, machine, table

RESULTS = Path(__file__).parent / "RESULTS.md"
BENCHES = {
    "loader": loader,
    "frontend": frontend,
    "train_step": train_step,
    "gradcache": gradcache,
    "cuda": cuda,
}
_HEAD = """# Speed

Written by `python -m benchmarks`. Both sides run in one process in alternating order; figures are medians with their
range [lowest, highest] over the rounds, ratios are the reference's median over ours with the range of each round's.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benches, print their rows, write them down."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--out", type=Path, help=f"where to write (default {RESULTS.name} beside the benches)"
    )
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES), help="run these alone")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    about = machine()  # before the benches load the machine themselves
    rows = []
    for name in options.only:
        part = BENCHES[name].run(options.quick)
        print(table(part), flush=True)
        rows += part
    quick = ["**Quick mode: these figures mean nothing.**"] if options.quick else []
    out = options.out or (None if options.quick or len(options.only) < len(BENCHES) else RESULTS)
    if out is None:
        print("nothing written: RESULTS.md takes a full run of all benches (or give --out)")
    else:
        out.write_text("\n".join([_HEAD, *(f"- {line}" for line in about), "", *quick, "", table(rows), ""]))
        print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
