"""Character error rate of transcripts."""

from eval.metrics._edits import ErrorRate


class CharacterErrorRate(ErrorRate):
    """Substituted, deleted and inserted characters per character of the reference, runs of white space as one."""

    citation = "Levenshtein 1966; computed by jiwer."
    name_ = "cer"

    def _units(self, text: str) -> list[str]:
        return list(" ".join(text.split()))
