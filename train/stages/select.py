"""Stage `select`: write a manifest of those records whose `kind` is in a list."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.files import write_text_atomic
from alm.common.json_text import parse_json
from alm.data.manifest import read_manifest
from train.stage import Stage, StageSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectSettings(StageSettings):
    """The config of stage `select`.

    Attributes:
        data: The manifest.
        kinds: The kinds of records to keep.
    """

    data: str
    kinds: tuple[str, ...]


class SelectStage(Stage[SelectSettings]):
    """Write the records that are kept, with absolute paths of their audio."""

    settings = SelectSettings
    artifact = "data"

    def inputs(self, settings: SelectSettings) -> list[str]:
        """The manifest."""
        return [settings.data]

    def run(self, settings: SelectSettings, folder: Path) -> dict[str, Any]:
        """Write `data/train.jsonl`."""
        path, out = Path(settings.data), folder / self.artifact
        kept = {record.source: record for record in read_manifest(path) if record.kind in settings.kinds}
        if not kept:
            raise ConfigError(f"{path}: holds no records of the kinds {', '.join(settings.kinds)}")
        lines = []
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            record = kept.get(f"{path}:{number}")
            if record is None:
                continue
            audio = [
                {k: str(v.resolve()) if k == "path" else v for k, v in dataclasses.asdict(ref).items()}
                for ref in record.audio
            ]
            values = parse_json(line, record.source) | {"audio": audio, "clip": record.clip}
            lines.append(json.dumps(values, ensure_ascii=False) + "\n")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        write_text_atomic(out / "train.jsonl", "".join(lines))
        return {"records": len(lines)}


STAGE = SelectStage()
