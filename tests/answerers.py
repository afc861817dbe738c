"""A function in place of a model, for tests of what is around it."""

from eval.models.base import Answer, Answerer


class Rule(Answerer):
    """Calls a function, which takes what `alm.generation.generate_answers` takes but model and processor."""

    def __init__(self, generate, model_id="m", max_new_tokens=64, differs=None, rank=None):
        self._generate, self._rank = generate, rank
        self.model_id, self.max_new_tokens, self.differs, self.decoding = (
            model_id,
            max_new_tokens,
            differs or {},
            {},
        )

    def generate(self, prompts, batch_size):
        found = self._generate(
            [prompt.messages for prompt in prompts], [prompt.clips() for prompt in prompts],
            max_new_tokens=self.max_new_tokens, batch_size=batch_size,
        )  # fmt: skip
        for index, text in found:
            yield index, Answer(text)

    def rank(self, prompts, batch_size, normalise):
        for index, choice, scores in self._rank([prompt.choices for prompt in prompts]):
            yield index, Answer(choice, scores)
