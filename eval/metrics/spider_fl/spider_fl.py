"""SPIDEr-FL: SPIDEr with FENSE's penalty for broken sentences."""

from eval.metrics._captions import FluencyPenalised


class SpiderFl(FluencyPenalised):
    """SPIDEr; times 0.1 if the error detector's probability of a broken caption is above 0.9."""

    citation = "DCASE 2023 challenge, task 6a; Zhou et al. 2022."
    name_ = "spider_fl"
    made_of = ("spider",)
