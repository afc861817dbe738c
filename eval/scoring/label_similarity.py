"""Closed-ended classification of free text: picks the label whose text embedding is nearest to that of the answer.

LTU's protocol (Gong et al. 2024, section 4.1) with a local sentence embedding model in place of a paid service:
the cosine similarities of an answer with all labels rank them, which gives accuracy and, over classes, mAP.
"""

from collections.abc import Sequence

import numpy as np

LABEL_EMBEDDING = "label_embedding"
"""Name of the score, for the metrics of a benchmark and for `--require`."""


def label_similarities(
    answers: Sequence[str | None], labels: Sequence[str], source: str | None = None
) -> tuple[np.ndarray, str]:
    """Similarity of each answer with each label.

    Args:
        answers: The answers; None and empty answers are similar to no label.
        labels: Names of the classes.
        source: Directory or hub id of a sentence embedding model; None looks at ALM_SBERT_MODEL.

    Returns:
        (n, C) cosine similarities, with rows of -1 where nothing was said; and the name of the embedding model.

    Raises:
        MetricUnavailable: No model is given, or it cannot be loaded.
    """
    from eval.metrics._encoder import model_source, sentence_embeddings  # torch, only when a model is wanted

    source = model_source(source, "ALM_SBERT_MODEL", "a sentence embedding model")
    said = [index for index, answer in enumerate(answers) if answer and answer.strip()]
    distinct = list(dict.fromkeys(str(answers[index]).strip() for index in said))
    embedded = sentence_embeddings(source, [*labels, *distinct])
    names, texts = embedded[: len(labels)], embedded[len(labels) :]
    row_of = {text: row for row, text in enumerate(distinct)}
    similarities = np.full((len(answers), len(labels)), -1.0)
    if said:
        found = (texts @ names.T).double().numpy()  # (distinct answers, C)
        similarities[said] = found[[row_of[str(answers[index]).strip()] for index in said]]
    return similarities, f"{LABEL_EMBEDDING}[{source}]"


def nearest(similarities: np.ndarray) -> list[int | None]:
    """The nearest label of each row (C,); None if several are equally near, for example for an empty answer."""
    best = similarities.max(axis=1, keepdims=True)
    tied = np.isclose(similarities, best, rtol=0.0, atol=1e-9)
    return [int(row.argmax()) if row.sum() == 1 else None for row in tied]
