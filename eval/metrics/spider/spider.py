"""SPIDEr: the mean of CIDEr-D and SPICE."""

from typing import Any

from eval.metrics._base import TextMetric
from eval.metrics._captions import as_result, parts_of


class Spider(TextMetric):
    """(CIDEr-D + SPICE) / 2; absent where SPICE is."""

    citation = "Liu et al. 2017, Improved Image Captioning via Policy Gradient Optimization of SPIDEr."
    made_of = ("cider_d", "spice")

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `spider`, `per_sample` and `backend`."""
        (cider, spice), backend = parts_of(self.made_of, predictions, references, **options)
        return as_result("spider", (cider + spice) / 2, f"spider[{backend}]")
