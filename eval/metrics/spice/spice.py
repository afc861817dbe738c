"""SPICE 1.0 through its own jar."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.json_text import read_json
from eval.errors import MetricError, MetricUnavailable
from eval.metrics._base import TextMetric, tokenize_pairs
from eval.metrics._captions import as_result
from eval.metrics._java import jar_folder, run_java

JAR = "spice-1.0.jar"


class Spice(TextMetric):
    """F-measure of scene-graph tuples (SPICE), as the COCO caption evaluation calls it.

    Absent without Java, the jar and CoreNLP, never approximated.
    """

    citation = "Anderson et al. 2016, SPICE: Semantic Propositional Image Caption Evaluation."

    def _compute(
        self, predictions: list[str], references: list[list[str]], jar_dir: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return `spice`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            jar_dir: Folder of the jar, with CoreNLP 3.6.0 and its models in `lib`; None looks at ALM_SPICE_DIR, then
                for pycocoevalcap.
            **options: None are known.

        Raises:
            MetricUnavailable: No Java, no jar, or no CoreNLP models beside it.
            MetricError: The program failed.
        """
        folder = jar_folder("spice", JAR, jar_dir, "ALM_SPICE_DIR")
        if not list((folder / "lib").glob("stanford-corenlp-3.6.0*models*.jar")):
            raise MetricUnavailable(
                f"{folder / 'lib'}: stanford-corenlp-3.6.0.jar and its models jar are missing; put both there "
                "(https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip)"
            )
        hypotheses, targets = tokenize_pairs(predictions, references, "ptb")
        asked = [
            {"image_id": index, "test": " ".join(words), "refs": [" ".join(tokens) for tokens in options_]}
            for index, (words, options_) in enumerate(zip(hypotheses, targets, strict=True))
        ]
        with tempfile.TemporaryDirectory() as scratch:
            given, made = Path(scratch) / "in.json", Path(scratch) / "out.json"
            given.write_text(json.dumps(asked), encoding="utf-8")
            run_java(["-Xmx8G", "-jar", JAR, str(given), "-out", str(made), "-subset", "-silent"], folder)
            scored = {row["image_id"]: row["scores"]["All"]["f"] for row in read_json(made, MetricError)}
        if set(scored) != set(range(len(asked))):
            raise MetricError(f"SPICE scored {len(scored)} of {len(asked)} captions")
        samples = np.array([float(scored[index]) for index in range(len(asked))])
        return as_result("spice", samples, "spice[java-1.0,corenlp-3.6.0,ptb=py]")
