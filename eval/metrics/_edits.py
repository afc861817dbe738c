"""Word and character error rates: edits over the length of the reference, summed over the corpus."""

from abc import abstractmethod
from importlib.metadata import version
from typing import Any

from eval.metrics._base import TextMetric


class ErrorRate(TextMetric):
    """Edits per unit of the reference; of several references the one that gives the lowest rate counts."""

    name_: str
    rule = "lower+punctuation"
    """How texts are normalised, for the backend."""

    def _normalise(self, text: str) -> str:
        """Normalise a text: remove differences that do not count as edits."""
        return _plain(text)

    @abstractmethod
    def _units(self, text: str) -> list[str]:
        """Cut a normalised text into the units that are compared."""

    def _compute(
        self, predictions: list[str], references: list[list[str]], normalise: bool = True, **options: Any
    ) -> dict[str, Any]:
        """Return the corpus rate, `per_sample` rates, `counts` (edits, reference length) and `backend`."""
        counts = []
        for prediction, targets in zip(predictions, references, strict=True):
            said = self._units(self._normalise(prediction) if normalise else prediction)
            options_ = [self._units(self._normalise(target) if normalise else target) for target in targets]
            counts.append(
                min((_edits(said, wanted) for wanted in options_), key=lambda c: c[0] / max(1, c[1]))
            )
        edits, length = (sum(column) for column in zip(*counts, strict=True))
        rule = self.rule if normalise else "none"
        return {
            self.name_: edits / max(1, length),
            "per_sample": [edit / max(1, units) for edit, units in counts],
            "counts": counts,
            "backend": f"{self.name_}[jiwer={version('jiwer')},normalise={rule}]",
        }


def _edits(said: list[str], wanted: list[str]) -> tuple[int, int]:
    """Edits from the prediction to the reference, and the reference's length; jiwer refuses an empty reference."""
    import jiwer

    if not wanted:
        return len(said), 0
    # One symbol per unit: every unit becomes a word that holds no white space.
    numbers: dict[str, str] = {}
    coded = [
        " ".join(numbers.setdefault(unit, f"u{len(numbers)}") for unit in units) for units in (wanted, said)
    ]
    found = jiwer.process_words(coded[0], coded[1])
    return found.substitutions + found.deletions + found.insertions, len(wanted)


def _plain(text: str) -> str:
    import jiwer

    remove: Any = jiwer.RemovePunctuation
    return str(remove()(text.lower()))
