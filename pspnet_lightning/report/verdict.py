"""What a sweep's numbers allow to say: the recommended setting, and which differences are within noise."""

from __future__ import annotations

from pspnet_lightning.report.content import Content
from pspnet_lightning.runs import Difference, Group, paired_differences


def headline(content: Content) -> str:
    """The outcome in one line."""
    best = content.best
    if best is None:
        return "No job has finished: nothing can be said yet."
    score = f"{content.metric_name.removesuffix(', %')} {shown(content, best.mean)}"
    if content.single:
        return score
    spread = "" if best.std is None else f" ± {shown(content, best.std)}"
    runs = "one run" if best.n == 1 else f"{best.n} runs"
    return f"Best: {content.name(best)}, {score}{spread} ({runs})."


def verdict(content: Content) -> list[str]:
    """Sentences that end a report: the recommendation, and how far it can be trusted."""
    best = content.best
    if best is None:
        return ["No job has finished: nothing can be recommended."]
    if len(content.groups) < 2:
        return [
            f"Only one setting was run ({content.name(best)}): nothing is compared. A sweep of the bins: "
            f"python train.py sweep=bins"
        ]
    what = "bins" if content.keys == ["model.bins"] else "setting"
    lines = [
        f"Recommended {what}: {content.name(best)}, with the {'lowest' if content.mode == 'min' else 'highest'} mean "
        f"{content.metric_name.removesuffix(', %')}: {shown(content, best.mean)}."
    ]
    if best.n == 1:
        lines.append(
            "Each setting was run once: a difference may be chance, and nothing here can tell. Sweep seeds too "
            "(seed=0,1,2), or folds (data.folds=5 data.fold=0,1,2,3,4)."
        )
    else:
        lines += _noise(content, best)
    fewer = [content.name(group) for group in content.groups if 0 < group.n < best.n]
    if fewer:
        lines.append(
            f"Not considered, as some of their runs are missing: {'; '.join(fewer)}. What is missing may be what is "
            f"hard."
        )
    if content.lost:
        lines.append(f"{len(content.lost)} of {len(content.jobs)} jobs have no score and count in no mean.")
    return lines


def _noise(content: Content, best: Group) -> list[str]:
    others = paired_differences(content.groups, best)
    if not others:
        return [
            "No other setting has finished the same seeds and folds: differences from it cannot be told from chance."
        ]
    lines = []
    paper = next((item for item in content.to_paper if item.group is best), None)
    if paper is not None and paper.p is None:
        lines.append(
            f"Its difference to {content.reference}, {difference(content, paper)}, is of one pair of runs: it may be "
            f"chance."
        )
    elif paper is not None:
        told = "within the noise" if paper.within_noise else "larger than the noise"
        lines.append(
            f"Its difference to {content.reference} is {difference(content, paper)} over {paper.n} pairs of runs: "
            f"{told}." + (" Nothing here speaks against keeping them." if paper.within_noise else "")
        )
    close = [content.name(item.group) for item in others if item.within_noise]
    clear = [content.name(item.group) for item in others if item.low is not None and not item.within_noise]
    if close:
        lines.append(f"Within the noise of the best (95 %, paired): {'; '.join(close)}.")
    if clear:
        lines.append(f"Told from the best by more than the noise: {'; '.join(clear)}.")
    return lines


def shown(content: Content, value: float | None) -> str:
    """A value of the metric with the digits that matter: 85.83, or 0.1234."""
    scaled = content.scaled(value)
    if scaled is None:
        return ""
    return f"{scaled:.2f}" if scaled != value else f"{scaled:.4f}"


def difference(content: Content, item: Difference) -> str:
    """+1.23 [+0.40, +2.06]: the mean difference and its 95 % interval, if there is one."""
    signed = [_signed(content, value) for value in (item.mean, item.low, item.high) if value is not None]
    return signed[0] if len(signed) == 1 else f"{signed[0]} [{signed[1]}, {signed[2]}]"


def _signed(content: Content, value: float) -> str:
    text = shown(content, value)
    return text if text.startswith("-") else f"+{text}"
