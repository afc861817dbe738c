"""Shared parts of the text metrics: the evaluate interface, input checks and caption tokenisation."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from alm.common.errors import UserError
from alm.common.fields import refuse_unknown
from eval.errors import MetricError
from eval.metrics import _ptb as ptb

Tokens = list[str]


class TextMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """A metric of predicted strings against one or more reference strings each.

    Abstract, because `evaluate.load` takes the first concrete metric class that it finds in a file.
    """

    citation: str
    made_of: ClassVar[tuple[str, ...]] = ()  # metrics that it is made of; it takes their options too

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Value("string"),
            "references": datasets.Sequence(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=self.citation,
            inputs_description="predictions: list of strings; references: list of lists of strings.",
            features=datasets.Features(features),
        )

    def compute(
        self, *, predictions: Any = None, references: Any = None, **options: Any
    ) -> dict[str, Any] | None:
        """Score predictions against references.

        Args:
            predictions: One string per sample.
            references: One list of reference strings per sample (a bare string counts as a list of one).
            **options: Options of the metric, for example `tokenizer="none"` of the caption metrics.

        Returns:
            The corpus score under the metric's name, `per_sample` and `backend`. None on processes other than the
            first of a multi-process `evaluate` run.

        Raises:
            MetricError: The numbers of predictions and references differ, there are none, a sample has no
                reference, a value is not a string, or the metric has no such option.
        """
        check_options(self, options)
        if predictions is not None or references is not None:
            references = check_inputs(predictions, references)
        result: dict[str, Any] | None = super().compute(
            predictions=predictions, references=references, **options
        )
        return result

    @abstractmethod
    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Score checked inputs."""


def options_of(metric: Any) -> set[str]:
    """Names of the options that a metric takes, with those of the metrics it is made of."""
    from eval.metrics import load_metric

    own = set(inspect.signature(metric._compute).parameters) - {"predictions", "references", "options"}
    return own.union(*(options_of(load_metric(part)) for part in getattr(metric, "made_of", ())))


def check_options(metric: Any, options: dict[str, Any]) -> None:
    """Refuse options that a metric would ignore.

    Raises:
        MetricError: Names the first of them.
    """
    if options:
        try:
            refuse_unknown(type(metric).__name__, options, options_of(metric))
        except UserError as error:
            raise MetricError(str(error)) from error


def check_inputs(predictions: Any, references: Any) -> list[list[str]]:
    """Check what a metric was given; return the references with bare strings made lists of one."""
    if predictions is None or references is None:
        raise MetricError("got only one of predictions and references; a metric needs both.")
    if isinstance(predictions, str) or isinstance(references, str):
        raise MetricError("got one string; predictions and references are lists with one entry per sample.")
    if len(predictions) != len(references):
        raise MetricError(
            f"got {len(predictions)} predictions and {len(references)} references; give one entry of each per sample."
        )
    if not len(predictions):
        raise MetricError("got no predictions; a corpus score needs at least one sample.")
    checked = []
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        options = [reference] if isinstance(reference, str) else reference
        _check_text(prediction, f"prediction {index}")
        if options is None or not len(options):
            raise MetricError(f"sample {index} has no reference; give at least one string.")
        for option in options:
            _check_text(option, f"a reference of sample {index}")
        checked.append(list(options))
    return checked


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise MetricError(f"{where} is {type(text).__name__} {text!r}, expected a string.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MetricError(
            f"{where} is not valid Unicode text ({error.reason}); decode it as UTF-8 first."
        ) from error


def tokenize(texts: Sequence[str], tokenizer: str) -> list[Tokens]:
    """Cut captions into words with the named tokenizer: `ptb`, or `none` for a plain split at white space."""
    if tokenizer == "ptb":
        return [ptb.tokenize(text) for text in texts]
    if tokenizer == "none":
        return [text.split() for text in texts]
    raise MetricError(f"unknown tokenizer {tokenizer!r}; expected 'ptb' or 'none'.")


def tokenize_pairs(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> tuple[list[Tokens], list[list[Tokens]]]:
    """Tokenise predictions and references with one tokenizer."""
    return tokenize(predictions, tokenizer), [tokenize(options, tokenizer) for options in references]


def mean_result(name: str, samples: list[float], backend: str) -> dict[str, Any]:
    """A metric's result: the mean of its per-sample scores, and these."""
    return {name: sum(samples) / len(samples), "per_sample": samples, "backend": backend}


def caption_backend(name: str, tokenizer: str) -> str:
    """Label that says how a caption metric was computed, for example `cider_d[ptb=py]`."""
    return f"{name}[ptb={'py' if tokenizer == 'ptb' else tokenizer}]"
