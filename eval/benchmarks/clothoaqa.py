"""ClothoAQA: `clotho_aqa_test.csv` (file_name, QuestionText, answer, confidence) and the folder `audio_files`.

Three annotators answered each question. A yes/no question counts as answered right where the answer is that of most;
a single-word question where it is that of any. The breakdown `unanimous` shows those on which all three agree.
"""

from collections import Counter
from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import SHORT_PROMPT, find, grouped, question_record, read_csv
from eval.parsing.normalise import normalise_answer


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, f"clotho_aqa_{split}.csv", f"csv/clotho_aqa_{split}.csv")
    audio = find(root, "audio_files", "audio", ".")
    rows = read_csv(table, ["file_name", "QuestionText", "answer", "confidence"])
    questions = grouped(((row["file_name"], row["QuestionText"]), (source, row)) for source, row in rows)
    records = []
    for number, ((name, question), given) in enumerate(questions.items()):
        answers = Counter(normalise_answer(row["answer"]) for _, row in given)
        yes_no = set(answers) <= {"yes", "no"}
        records.append(
            question_record(
                f"{number}:{name}",
                audio / name,
                SHORT_PROMPT,
                question,
                answers.most_common(1)[0][0],
                given[0][0],
                kind="yes_no" if yes_no else "single_word",
                answers=() if yes_no else list(answers),
                meta={"unanimous": "yes" if len(answers) == 1 else "no"},
            )
        )
    return records


BENCHMARK = Benchmark(
    name="clothoaqa",
    reader=_read,
    prompt=SHORT_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="normalised",
    citation="Lipping et al. 2022, Clotho-AQA: A Crowdsourced Dataset for Audio Question Answering.",
    splits=("test", "val"),
    groups=("unanimous",),
)
