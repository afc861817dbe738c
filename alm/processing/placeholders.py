"""Generation from prompts that hold audio placeholders, whose id may lie outside the LLM's vocabulary.

Axis letters: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation.candidate_generator import CandidateGenerator, PromptLookupCandidateGenerator


class PlaceholderAware(LogitsProcessorList):
    """Logits processors that read prompts whose placeholder may have an id outside the vocabulary."""

    def __init__(self, audio_token_id: int, processors: LogitsProcessorList) -> None:
        super().__init__(processors)
        self.audio_token_id = audio_token_id

    def __call__(self, input_ids: torch.LongTensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Process scores (B, V), temporarily widened so that every id of the prompts (B, L) has a column."""
        missing = self.audio_token_id + 1 - scores.shape[-1]
        if missing <= 0:
            return super().__call__(input_ids, cast(torch.FloatTensor, scores), **kwargs)
        for processor in self:
            if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):  # compares two outputs
                scores = processor(input_ids, scores)
            else:
                wide = nn.functional.pad(scores, (0, missing), value=-torch.inf)
                one = LogitsProcessorList([processor])
                scores = one(input_ids, cast(torch.FloatTensor, wide), **kwargs)[:, :-missing]
        return scores


class WordsOnly(CandidateGenerator):
    """Prompt-lookup candidates without audio: each is cut before the first placeholder."""

    def __init__(self, audio_token_id: int, lookup: PromptLookupCandidateGenerator) -> None:
        self.audio_token_id, self.lookup = audio_token_id, lookup
        # The lookup asks the logits processors whether an id is forbidden: each id of a prompt needs a column.
        lookup.vocab_size = max(lookup.vocab_size or 0, audio_token_id + 1)

    def get_candidates(self, input_ids: torch.LongTensor, **kwargs: Any) -> tuple[Any, Any]:
        """The text so far (1, L) and the candidate tokens behind it, cut before the first placeholder."""
        ids, _ = self.lookup.get_candidates(input_ids, **kwargs)
        is_audio = ids[0, input_ids.shape[1] :] == self.audio_token_id
        return ids[:, : ids.shape[1] - int(is_audio.cumsum(dim=0).bool().sum())], None

    def update_candidate_strategy(self, *args: Any, **kwargs: Any) -> None:
        """See the base class."""
        self.lookup.update_candidate_strategy(*args, **kwargs)
