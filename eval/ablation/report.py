"""Writes the report of an ablation from its stored results alone: Markdown, HTML, CSV and charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

from alm.common.files import write_text_atomic
from alm.common.text import csv_text, markdown_cell
from eval.ablation.charts import pictures
from eval.ablation.claims import Comparison, Scored, compare, findings, rank_stability, score_arms, statements
from eval.ablation.grid import NATIVE
from eval.ablation.proxies import PROBE, Proxy, proxies
from eval.ablation.results import ArmResult, Results, read_results
from eval.reports.names import without_folders
from eval.reports.pages import html_page, markdown_page
from eval.reports.score_report import interval_cell
from eval.reports.score_table import format_p
from eval.reports.sections import Cell, Section, Table
from eval.scoring.stats import Interval

FOLDER = "report"
_CHARTS = "figures"
_HEAD = ("arm", "tokens/s", "score", "seeds (sd)", "difference", "p (Holm)", "no audio", "other clip")
_COST_HEAD = ("arm", "trainable", "parameters", "LLM tokens", "FLOPs", "wall s", "lr x")


def write_ablation_report(root: Path) -> Path:
    """Write the report of the ablation in `root`; returns its page.

    Raises:
        UserError: Nothing was run there, or runs were scored on different questions.
    """
    return write_results(root, read_results(root))


def write_results(root: Path, results: Results) -> Path:
    """Write the report of an ablation's results into its folder; returns the page."""
    scored, backends = score_arms(results)
    key = results.settings["scoring"]["score"]
    comparisons = compare(results, scored, key)
    shows = Section("What this shows", findings=findings(results.settings, comparisons, scored, key))
    folder = root / FOLDER
    (folder / _CHARTS).mkdir(parents=True, exist_ok=True)
    drawn = pictures(scored, key, comparisons)
    for name, picture in drawn.items():
        write_text_atomic(folder / _CHARTS / f"{name}.svg", picture.svg + "\n")
    sections = [shows, *_sections(results, scored, comparisons, key, backends)]
    write_text_atomic(folder / "arms.csv", csv_text(_score_rows(results, scored, comparisons)))
    write_text_atomic(folder / "runs.csv", csv_text(_run_rows(results, scored, key)))
    title = f"Ablation: {Path(results.settings['out']).name}"
    files = "".join(f"![{markdown_cell(p.title)}]({_CHARTS}/{n}.svg)\n\n" for n, p in drawn.items())
    write_text_atomic(folder / "report.md", f"{markdown_page(title, sections)}\n{files}".rstrip() + "\n")
    path = folder / "report.html"
    charts = Section("Charts", pictures=list(drawn.values()))
    write_text_atomic(path, html_page(title, [*sections[:2], charts, *sections[2:], _configs(results)]))
    return path


def _configs(results: Results) -> Section:
    """Every arm's config, with the hashes of its runs."""
    hashes = {arm.name: ", ".join(f"seed {run.seed}: {run.key}" for run in arm.runs) for arm in results.arms}
    return Section(
        "Configs",
        details={
            f"{arm.name} ({hashes[arm.name]})": json.dumps(
                without_folders(arm.config), indent=1, ensure_ascii=False
            )
            for arm in results.arms
        },
    )


def _sections(
    results: Results,
    scored: Sequence[Scored],
    comparisons: Sequence[Comparison],
    key: str,
    backends: Mapping[str, str],
) -> list[Section]:
    settings = results.settings
    supported = statements(comparisons, scored, key) or [
        "Nothing: no arm could be compared with the baseline."
    ]
    found = [Section("What the tests support", notes=supported)]
    for track in dict.fromkeys(arm.track for arm in results.arms):
        arms = [arm for arm in results.arms if arm.track == track]
        rows = [_arm_row(arm, settings, scored, comparisons, key) for arm in arms]
        rho, n = rank_stability(scored, key, track)
        notes = [f"{arm.name}: {arm.remark}" for arm in arms if arm.remark]
        if rho is not None:
            notes.append(
                f"Rank stability: the orders of {n} arms in two seeds correlate by {rho:.2f} (Spearman, mean)."
            )
        if len(settings["seeds"]) < 3:
            notes.append("Fewer than three seeds: too few to speak of stability over seeds.")
        name = "Arms at their native token rate" if track == NATIVE else "Arms at matched tokens per second"
        scores = Table(_HEAD, rows, "Scores of the arms")
        costs = Table(_COST_HEAD, [_cost_row(arm, scored) for arm in arms], "Costs of the arms")
        found.append(Section(name, tables=[scores, costs], notes=notes))
        mine = [one for one in scored if one.arm.track == track]
        ceilings = (settings["ceiling"], f"{settings['ceiling']} @{track}")
        oracle = next((one.arm.name for one in mine if one.arm.name in ceilings), "")
        found.append(
            _proxy_section(proxies(mine, key, settings["proxies"]["early_share"], oracle), oracle, track)
        )
    failed = [(arm.name, without_folders(error)) for arm in results.arms for error in arm.errors]
    if failed:
        notes = ["They have no score above."]
        found.append(Section("Failed or not run", tables=[Table(("arm", "why"), failed)], notes=notes))
    found.append(Section("How to read this", notes=_method(results, scored, key, backends)))
    return found


def _arm_row(
    arm: ArmResult,
    settings: Mapping[str, Any],
    scored: Sequence[Scored],
    comparisons: Sequence[Comparison],
    key: str,
) -> list[str | Cell]:
    roles = {settings["baseline"]: "baseline", settings["floor"]: "floor", settings["ceiling"]: "ceiling"}
    role = roles.get(arm.name.removesuffix(f" @{arm.track}"), "")
    name = f"{arm.name} ({role})" if role else arm.name
    one = next((one for one in scored if one.arm is arm), None)
    head = [name, f"{arm.tokens_per_s:.3g}"]
    if one is None:
        state = "not run" if not arm.error and all(run.not_run for run in arm.runs) else "failed"
        return [*head, state, f"0 of {len(settings['seeds'])}", *["–"] * 4]
    found = next((c for c in comparisons if c.arm == arm.name), None)
    compared: list[str | Cell] = ["–", "–"]
    if found is not None:
        compared = [_interval(found.difference, key, signed=True), format_p(found.p_holm)]
    controls = [
        _interval(one.controls[control][key].interval(0), key) if control in one.controls else "–"
        for control in ("no_audio", "other_clip")
    ]
    values = list(one.by_seed(key).values())
    scale = 100 if key.startswith("qa/") else 1
    spread = f" ({scale * stdev(values):.2g})" if len(values) > 1 else ""
    seeds = Cell(f"{len(values)} of {len(settings['seeds'])}", spread.strip())
    return [*head, _interval(one.interval(key), key), seeds, *compared, *controls]


def _cost_row(arm: ArmResult, scored: Sequence[Scored]) -> list[str | Cell]:
    cost = arm.cost
    priced = [f"{cost[k]:{form}}" if k in cost else "–" for k, form in
              (("trainable", ",.0f"), ("parameters", ",.0f"), ("tokens", ",.0f"), ("flops", ".3g"))]  # fmt: skip
    ran = any(one.arm is arm for one in scored)
    seconds = f"{sum(run.seconds for run in arm.scored) / len(arm.scored):.0f}" if ran else "–"
    return [arm.name, *priced, seconds, f"{arm.lr_scale:g}"]


def _interval(interval: Interval, key: str, signed: bool = False) -> Cell:
    return interval_cell(asdict(interval), key, signed=signed)


def _proxy_section(found: Sequence[Proxy], oracle: str, track: str) -> Section:
    head = ("proxy", "Spearman with the score", "p", "arms", "values")
    rows = [
        (
            proxy.name,
            "–" if proxy.rho is None else f"{proxy.rho:.2f}",
            format_p(proxy.p),
            str(len(proxy.values)),
            ", ".join(f"{arm} {value:.3f}" for arm, value in proxy.values.items()),
        )
        for proxy in found
    ]
    notes = ["A loss counts the lower the better. p is exact for up to seven arms."]
    probed = next((list(proxy.values.values()) for proxy in found if proxy.name == PROBE), [])
    if len(set(probed)) < len(probed):
        notes.append(
            "Arms with one encoder share its probe: there they count once, with the mean of their scores."
        )
    if oracle:
        notes.append(f"Without {oracle}: it is not a candidate, and any proxy ranks it right.")
    return Section(f"Cheap proxies ({track})", tables=[Table(head, rows)], notes=notes)


def _method(results: Results, scored: Sequence[Scored], key: str, backends: Mapping[str, str]) -> list[str]:
    settings = results.settings
    first = next(iter(scored), None)
    clips = first.pooled[key].clips if first is not None else []
    n = f" on {len(clips)} questions about {len(set(clips))} clips" if clips else ""
    budget = settings["budget"]
    amounts = ", ".join(f"{stage} {amount:g}" for stage, amount in budget["amount"].items())
    return [
        f"Score: {key}{n}, the mean over seeds {settings['seeds']}; its 95 % interval comes from resampling clips. "
        "Beside it: the standard deviation over seeds.",
        "Difference: arm minus baseline on the same questions, averaged over seeds. p: paired permutation test that "
        "swaps whole clips, corrected by Holm over all comparisons in this report. An order is stated only where "
        "p < 0.05 and every seed shows it.",
        "Arms of one seed see the same samples in the same order. "
        + ("Encoders are pretrained once per seed." if settings["pretrain_per_seed"] else
           "An encoder is pretrained once per arm: seeds vary alignment and tuning, not the pretraining."),
        f"Learning rates: factors {settings['lr_scales']}, the best validation loss of seed {settings['seeds'][0]}.",
        f"Budget in {budget['unit']}: {amounts or 'as the stages say'}.",
        f"No audio, other clip: the same model, over {settings['scoring']['control_seeds']} seed(s).",
        "FLOPs and LLM tokens: of the tuned stages, measured on a few steps, the encoder's forward pass included; wall "
        "time: tuned stages and scoring of a seed, as it was on the machine at that time.",
        f"Computed by {', '.join(sorted(set(backends.values()))) or 'nothing'}.",
    ]  # fmt: skip


def _score_rows(
    results: Results, scored: Sequence[Scored], comparisons: Sequence[Comparison]
) -> list[list[Any]]:
    """One row per arm and score; failed arms have a row without."""
    key = results.settings["scoring"]["score"]
    rows: list[list[Any]] = [
        ["arm", "track", "score", "value", "low", "high", "n", "clips", "seeds", "difference", "p", "p_holm",
         "tokens_per_s", "trainable", "llm_tokens", "flops", "lr_scale", "error"]
    ]  # fmt: skip
    for arm in results.arms:
        one = next((one for one in scored if one.arm is arm), None)
        cost = [arm.cost.get(name, "") for name in ("trainable", "tokens", "flops")]
        last = [arm.tokens_per_s, *cost, arm.lr_scale, "; ".join(arm.errors)]
        if one is None:
            rows.append([arm.name, arm.track, *[""] * 10, *last])
            continue
        for name in one.pooled:
            found = next((c for c in comparisons if c.arm == arm.name and name == key), None)
            tested = ["", "", ""] if found is None else [found.difference.value, found.p, found.p_holm]
            spot = one.interval(name)
            score = [spot.value, spot.low, spot.high, spot.n, spot.n_clips, len(one.seeds)]
            rows.append([arm.name, arm.track, name, *score, *tested, *last])
    return rows


def _run_rows(results: Results, scored: Sequence[Scored], key: str) -> list[list[Any]]:
    """One row per arm and seed."""
    rows: list[list[Any]] = [["arm", "seed", "hash", key, "validation_loss", "wall_s", "error"]]
    for arm in results.arms:
        one = next((one for one in scored if one.arm is arm), None)
        for run in arm.runs:
            value = one.by_seed(key).get(run.seed, "") if one is not None else ""
            loss = "" if run.validation_loss is None else run.validation_loss
            rows.append([arm.name, run.seed, run.key, value, loss, run.seconds, run.error])
    return rows
