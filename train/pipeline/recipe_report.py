"""The report of a recipe, as Markdown and JSON: per stage its trainable parts, held-out losses and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.files import write_text_atomic
from alm.common.json_text import write_json
from alm.common.text import markdown_table
from eval.scoring.predictions import HEADLINE

_LOSSES = {
    "loss": "held-out loss",
    "loss_other_audio": "with other audio",
    "view_retrieval": "view retrieval",
}


def write_recipe_report(out: Path, results: Sequence[dict[str, Any]]) -> str:
    """Write `report.json` and `report.md`.

    Args:
        out: The recipe's directory.
        results: Per stage `name`, `stage`, `facts` of its marker, and `scores` where it was evaluated.

    Returns:
        The table, as Markdown.
    """
    write_json(out / "report.json", {"stages": list(results)})
    rows = [{"stage": f"{item['name']} ({item['stage']})", **_cells(item)} for item in results]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = "\n".join(markdown_table(columns, [[row.get(column, "") for column in columns] for row in rows]))
    details = []
    for item in results:
        if item["facts"].get("trainable"):
            details += [f"## {item['name']}", "", "```", *item["facts"]["trainable"], "```", ""]
    write_text_atomic(
        out / "report.md", "\n".join([f"# {out.name}", "", table, "", *details]).rstrip() + "\n"
    )
    return table


def _cells(item: dict[str, Any]) -> dict[str, str]:
    """One row of the table: column to cell."""
    facts = item["facts"]
    cells = {title: f"{facts[key]:.3f}" for key, title in _LOSSES.items() if key in facts}
    conditions = item.get("scores", {}).get("arms", {})
    heads = " / ".join("own audio" if name == HEADLINE else name.replace("_", " ") for name in conditions)
    for name in conditions.get(HEADLINE, {}).get("scores", {}):
        found = [
            f"{one['scores'][name]['value']:.3f}" for one in conditions.values() if name in one["scores"]
        ]
        cells[f"{name} ({heads})"] = " / ".join(found)
    if "seconds" in facts:
        cells["time"] = f"{facts['seconds']:.0f} s"
    return cells
