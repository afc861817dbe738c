"""AIR-Bench chat: open questions on speech, sound, music and mixtures, whose answers a judge rates from 1 to 10.

The judge is the language model that `ALM_JUDGE` names, `http://host/v1#model`; without it the ratings are absent.
Published ratings come from a particular GPT-4, and are not comparable with those of another judge.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import corpus_reader

BENCHMARK = Benchmark(
    reader=corpus_reader("airbench_chat"),
    prompt="{question}",
    metrics=("judge_score",),
    max_new_tokens=256,
    citation="Yang et al. 2024, AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension.",
    splits=("chat",),
    groups=("task_name",),
)
