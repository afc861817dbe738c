"""AudioCaps captioning: `test.csv` (audiocap_id, youtube_id, start_time, caption) and a folder of recordings.

Five captions per clip. Clips vanish from YouTube, so sets differ between papers: `missing_audio: leave_out` scores
those that are there, says how many are gone, and the hash of the ids in the scores tells whether two sets are the same.
"""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import CAPTION_METRICS, Benchmark
from eval.benchmarks._readers import CAPTION_PROMPT, audio_at, caption_record, find, grouped, read_csv


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, f"{split}.csv", f"dataset/{split}.csv", f"csv/{split}.csv")
    folders = [root / name for name in (f"audio/{split}", f"audio/{split}_wav", split, "audio", ".")]
    rows = read_csv(table, ["audiocap_id", "youtube_id", "start_time", "caption"])
    clips = grouped(
        ((row["youtube_id"], row["start_time"]), (source, row["caption"])) for source, row in rows
    )
    records = []
    for (youtube, start), captions in clips.items():
        name = f"{youtube}_{start}"
        second = round(float(start))
        path = audio_at(
            folders, name, f"Y{name}", youtube, f"Y{youtube}", f"{youtube}_{second}_{second + 10}",
            f"{youtube}_{second * 1000}_{(second + 10) * 1000}", f"Y{youtube}_{second:.3f}_{second + 10:.3f}",
        )  # fmt: skip
        records.append(caption_record(name, path, [text for _, text in captions], captions[0][0]))
    return records


BENCHMARK = Benchmark(
    name="audiocaps",
    reader=_read,
    prompt=CAPTION_PROMPT,
    prompt_version="1",
    metrics=CAPTION_METRICS,
    parser="none",
    citation="Kim et al. 2019, AudioCaps: Generating Captions for Audios in the Wild.",
    splits=("test", "val"),
)
