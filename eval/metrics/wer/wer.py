"""Word error rate of transcripts."""

from eval.metrics._edits import ErrorRate


class WordErrorRate(ErrorRate):
    """Substituted, deleted and inserted words per word of the reference, over the whole corpus."""

    citation = "Levenshtein 1966; computed by jiwer."
    name_ = "wer"

    def _units(self, text: str) -> list[str]:
        return text.split()
