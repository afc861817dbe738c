"""SPIDEr-FL: SPIDEr with FENSE's penalty for broken sentences."""

from eval.metrics._captions import FluencyPenalised


class SpiderFl(FluencyPenalised):
    """SPIDEr times 0.1 where the error detector is surer than 0.9 that the caption is broken."""

    citation = "DCASE 2023 challenge, task 6a; Zhou et al. 2022."
    name_ = "spider_fl"
    made_of = ("spider",)
