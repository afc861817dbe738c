"""METEOR 1.5 through its own jar."""

from typing import Any

import numpy as np

from eval.metrics._base import TextMetric, tokenize_pairs
from eval.metrics._java import JavaDialogue, jar_folder

JAR = "meteor-1.5.jar"


class Meteor(TextMetric):
    """METEOR 1.5 (exact, stem, synonym and paraphrase matches) as the COCO caption evaluation calls it.

    Absent without Java and the jar, never approximated.
    """

    citation = "Denkowski and Lavie 2014, Meteor Universal."

    def _compute(
        self, predictions: list[str], references: list[list[str]], jar_dir: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Return `meteor`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            jar_dir: Folder of the jar and its data; None looks at ALM_METEOR_DIR, then for pycocoevalcap.
            **options: None are known.

        Raises:
            MetricUnavailable: No Java, or no jar.
            MetricError: The program failed.
        """
        folder = jar_folder("meteor", JAR, jar_dir, "ALM_METEOR_DIR")
        command = ["-Xmx2G", "-XX:+UseSerialGC", "-jar", JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        hypotheses, targets = tokenize_pairs(predictions, references, "ptb")
        # Tokens hold no line breaks, and each bar is a token of its own: no text ends a field.
        lines = [
            " ||| ".join(["SCORE", *(" ".join(tokens) for tokens in [*options_, words])])
            for words, options_ in zip(hypotheses, targets, strict=True)
        ]
        with JavaDialogue(command, folder) as scorer:
            stats = [scorer.ask(line)[0] for line in lines]
            # A score per caption, then that of the corpus.
            replies = scorer.ask(" ||| ".join(["EVAL", *stats]), len(lines) + 1)
        scores = np.array([float(value) for value in replies])
        return {
            "meteor": float(scores[-1]),
            "per_sample": scores[:-1].tolist(),
            "backend": "meteor[java-1.5,ptb=py]",
        }
