"""FENSE: sentence similarity with a penalty for broken sentences."""

from eval.metrics._captions import FluencyPenalised


class Fense(FluencyPenalised):
    """SBERT similarity; times 0.1 if the error detector's probability of a broken caption is above 0.9."""

    citation = "Zhou et al. 2022, Can audio captions be evaluated with image caption metrics?"
    name_ = "fense"
    made_of = ("sbert_sim",)
