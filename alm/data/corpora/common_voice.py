"""Common Voice (Ardila et al. 2020): `train.tsv`, `dev.tsv`, `test.tsv` of one language, and `clips/`.

Columns `client_id, path, sentence` and more; `client_id` is the speaker. `root` is the folder of the language.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, csv_rows, transcribed

_COLUMNS = ("client_id", "path", "sentence")
_ABOUT = ("locale", "age", "gender", "accents", "accent", "variant")


class CommonVoice(Corpus):
    """Common Voice; a request to transcribe each sentence."""

    splits = ("train", "dev", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for table in self.tables(f"{part}.tsv" for part in self.chosen(split)):
            for row in csv_rows(table, _COLUMNS, delimiter="\t", quoted=False):
                clip = audio.clip(row.text("path"), inside=("clips",))
                about = {key: row.get(key) for key in _ABOUT if row.get(key)}
                yield transcribed(row, clip, row.text("sentence"), table.stem, row.text("client_id"), about)


CORPUS = CommonVoice
