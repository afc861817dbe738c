"""Build wheel and sdist, install the wheel beside the installed dependencies, and use it without the checkout.

Run by `make check-wheel`; takes some minutes. Only the build backend is downloaded. The commands, those of the first
tutorial included, run in a folder that holds a user's own
`train.py`, `eval.py`, `configs/`, `encoders/` and files with names of dependencies, none of which may be imported, also
not under torchrun.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TRAP = "raise SystemExit('a file of the working directory was imported')\n"
_SHORT = (
    "compose.n_train=24", "compose.n_validation=4", "compose.n_test=6", "text_llm.steps=8", "text_llm.n_test_scenes=2",
    "pretrain.optim.steps=2", "pretrain.optim.batch_size=4", "align.optim.steps=2", "align.optim.batch_size=4",
    "instruct.optim.steps=2", "instruct.optim.batch_size=4", "evaluate.limit=30", "evaluate.max_new_tokens=4",
    "arms={}",
)  # fmt: skip


def build(folder: Path) -> tuple[Path, Path]:
    """Build sdist and wheel of a copy of what git tracks."""
    source = folder / "source"
    source.mkdir()
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    code = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, "--target", str(folder / "backend"), *backend], check=True, stderr=subprocess.DEVNULL
    )
    environment = {**os.environ, "PYTHONPATH": str(folder / "backend")}
    build = [sys.executable, "-c", code, str(folder)]
    subprocess.run(build, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def check_content(wheel: Path, sdist: Path) -> None:
    """The wheel holds packages and configs alone; the sdist what the wheel is built from."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "alm", "encoders", "projectors", "train", "eval", "configs"
    }, top  # fmt: skip
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.*")}
    assert configs <= set(names), sorted(configs - set(names))
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "alm/cli.py"} | configs <= inside


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment with the wheel, and the dependencies of this one; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(
        subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    shutil.copy(
        site / "bin" / "alm", folder / "bin" / "alm"
    )  # with --target, commands lie beside the packages
    # Only the folder of the dependencies, not its own .pth files: those lead to the checkout.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def user_folder(folder: Path) -> Path:
    """A working directory with files that have the names of our packages, and a plug-in encoder."""
    for name in (
        "train.py",
        "eval.py",
        "configs/__init__.py",
        "encoders/__init__.py",
        "projectors.py",
        "datasets.py",
        "evaluate.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_TRAP)
    page = (ROOT / "docs" / "tutorials" / "encoder.md").read_text(encoding="utf-8")
    code = re.search(r"```python[^\n]*bands\.py[^\n]*\n(.*?)```", page, re.S)
    assert code is not None
    (folder / "my-encoders").mkdir()
    (folder / "my-encoders" / "bands.py").write_text(code[1])
    return folder


def tutorial(work: Path) -> list[list[str]]:
    """The commands of the first tutorial, with two steps each, on clips of the quickstart in place of recordings.

    The LLM is the quickstart's, so the tutorial's own short quickstart is not among them.
    """
    clips = sorted((work / "quickstart" / "data" / "audio").glob("*.wav"))
    names = ("train/dog/a", "train/dog/b", "train/rain/a", "train/rain/b", "test/dog/c", "test/rain/c")
    for name, clip in zip(names, clips, strict=False):
        (work / "recordings" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, work / "recordings" / f"{name}.wav")
    (work / "start").symlink_to(work / "quickstart")
    page = (ROOT / "docs" / "tutorials" / "recordings.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)).replace("\\\n", " ")
    short = {"optim.steps": "2", "optim.batch_size": "2"}
    commands = []
    for line in blocks.splitlines():
        words = [re.sub(r"=.*", f"={short[key]}", word) if (key := word.partition("=")[0]) in short else word
                 for word in shlex.split(line)[1:]]  # fmt: skip
        if words[0] == "init":
            (work / f"{words[1]}.yaml").unlink(missing_ok=True)  # it does not overwrite
        if words[0] != "quickstart":
            commands.append(words)
    assert [words[0] for words in commands] == ["init", "config", "train", "init", "train", "ask", "eval"]
    return commands


def main() -> None:
    """Run the whole check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        check_content(wheel, sdist)
        python = install(wheel, folder / "venv")
        work = user_folder(folder / "work")
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ALM_"))
        }
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        script = [str(python), "-P", "-c", "import sys; from alm.cli import main; sys.exit(main())"]
        module = [str(python), "-m", "alm"]

        def run(*words: str, by: list[str] = module) -> str:
            print("alm", *words, flush=True)
            done = subprocess.run([*by, *words], cwd=work, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
            return done.stdout

        where = subprocess.run(
            [*script[:2], "-c", "import alm; print(alm.__file__)"],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        ).stdout
        assert where.startswith(str(folder)), f"not the wheel: {where}"
        assert "audiomosaic" in run("list", "encoders")
        assert "recipes/ltu-tiny" in run("config", "list", by=script)
        assert "bands" in run("list", "encoders", "--plugins", "my-encoders")
        run("config", "check", "recipes/ltu-tiny", "ablation/encoders-tiny", "eval/mmau")
        run("init", "align")
        run("config", "check", "align.yaml")
        run("encoders", "check", "my-encoders/bands.py", "--plugins", "my-encoders")
        assert "stage4" in run("train", "recipes/ltu-tiny", "--dry-run")
        run("quickstart", *_SHORT)
        assert (work / "quickstart" / "report.html").is_file()
        run(
            "ask",
            "quickstart/instruct/model",
            str(next((work / "quickstart/data/audio").glob("*.wav"))),
            "What?",
        )
        tutorial_commands = tutorial(work)
        for words in tutorial_commands:
            run(*words)
        assert (work / "runs/align/model/eval/manifest/report.html").is_file()
        launcher = [str(python), "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "alm"]
        (align,) = [words for words in tutorial_commands if words[:2] == ["train", "align.yaml"]]
        run(*align, "out=runs/two", by=launcher)
        assert (work / "runs/two/model/config.json").is_file()
        (work / "alm.py").write_text(_TRAP)  # `python -m alm` is that file; the installed command is not
        command = python.parent.parent / "bin" / "alm"
        assert "audiomosaic" in run("list", "encoders", by=[str(python), str(command)])
    print("the wheel works without the checkout")


if __name__ == "__main__":
    main()
