"""What a sweep's numbers allow to say: the recommended setting, and which differences are shown.

Whether a difference is shown is decided by ``runs.compare`` alone; here are the words, the same for the tables, the
sentences and the terminal.
"""

from __future__ import annotations

from pspnet_lightning.report.content import Content
from pspnet_lightning.runs import Comparison, Difference

# Settings with a sentence of their own; the table has all.
_SENTENCES = 12


def headline(content: Content) -> str:
    """The outcome in one line."""
    best = content.best
    if best is None:
        return "No job has finished: nothing can be said yet."
    score = f"{content.metric_name.removesuffix(', %')} {as_score(content, best.mean)}"
    if content.single:
        return score
    spread = "" if best.std is None else f" ± {as_score(content, best.std)}"
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
        f"{content.metric_name.removesuffix(', %')}: {as_score(content, best.mean)}."
    ]
    if best.n == 1:
        lines.append(
            "Each setting was run once: a difference may be chance, and nothing here can tell. Sweep seeds too "
            "(seed=0,1,2), or folds (data.folds=5 data.fold=0,1,2,3,4)."
        )
        if any(item.difference.units for item in content.comparisons.values()):
            lines += _differences(content)
    elif not content.comparisons:
        lines.append(
            "No other setting has finished the same seeds and folds: differences from it cannot be told from chance."
        )
    else:
        lines += _differences(content)
    fewer = [content.name(group) for group in content.groups if 0 < group.n < best.n]
    if fewer:
        lines.append(
            f"Not considered, as some of their runs are missing: {'; '.join(fewer)}. What is missing may be what is "
            f"hard."
        )
    if content.lost:
        lines.append(f"{len(content.lost)} of {len(content.jobs)} jobs have no score and count in no mean.")
    return lines


def _differences(content: Content) -> list[str]:
    found = [content.comparisons[id(group)] for group in content.groups if id(group) in content.comparisons]
    lines = [sentence(content, item) for item in found[:_SENTENCES]]
    if len(found) > _SENTENCES:
        lines.append(f"{len(found) - _SENTENCES} further settings are in the table.")
    own = content.comparisons.get(id(content.best))
    if content.to_paper and own is not None and not own.shown:
        lines.append(f"That it is better than {content.reference} is not shown: nothing speaks against keeping them.")
    return lines


def sentence(content: Content, item: Comparison) -> str:
    """ "[1]: 2.14 points worse than the best setting [-4.10, -0.18], better in 0 of 3 pairs, p 0.041: shown." """
    own = item.difference
    size = as_score(content, abs(own.mean)) + (" points" if content.in_percent else "")
    direction = f"{size} {'better' if item.better else 'worse'} than" if own.mean else "the same as"
    interval = "" if own.low is None or own.high is None else f" {_interval(content, own.low, own.high)}"
    pairs = f"better in {own.wins(content.mode)} of {own.n} {'pair' if own.n == 1 else 'pairs'}"
    p = "" if item.adjusted is None else f", p {p_value(item.adjusted)}"
    name = content.name(own.group)
    return f"{name}: {direction} {content.reference}{interval}, {pairs}{p}: {status(item)}."


def status(item: Comparison) -> str:
    """Whether a difference is shown, and if not, about how many pairs of runs would show it."""
    n = item.difference.n
    if item.shown:
        return "shown"
    if item.adjusted is None and item.difference.units:
        return f"one pair of runs shows nothing; the interval is over its {item.difference.units} images alone"
    if item.adjusted is None:
        return "one pair of runs shows nothing"
    pairs, images = item.pairs_needed, item.images_needed
    ways = [f"{max(pairs, n + 1)} pairs"] if pairs is not None else []
    ways += [f"{images} images"] if images is not None else []
    more = f"about {' or '.join(ways)} would" if ways else "more of this kind would hardly show it"
    over = f" over {item.difference.units} images" if item.difference.units else ""
    return f"not shown with {n} pairs{over}; {more}"


def method(content: Content) -> str:
    """How differences are computed and what "shown" means, for below a table."""
    comparisons = next((item.comparisons for item in content.comparisons.values()), 0)
    family = "" if content.to_paper else ", all pairs of settings, as the best one is chosen by its score"
    images = (
        " and the choice of the validation images (bootstrap), jointly after Howe"
        if any(item.difference.units for item in content.comparisons.values())
        else ""
    )
    unread = "".join(f" {message}." for message in content.images.unread)
    return (
        f"Differences are to {content.reference}, paired over the seeds and folds that both finished, with their 95 % "
        f"intervals by Student's t over the pairs{images}, between folds with the correction of Nadeau & Bengio (2003) "
        f"for their common training images. A difference is shown where p is at most 0.05 after Holm's adjustment for "
        f"{comparisons} {'comparison' if comparisons == 1 else 'comparisons'}{family}. The number of pairs that would "
        f"show it holds in four of five cases, if mean and spread stay as they are.{unread}"
    )


def as_score(content: Content, value: float | None) -> str:
    """A value of the metric with the digits that matter: 85.83, or 0.1234."""
    scaled = content.scaled(value)
    if scaled is None:
        return ""
    return f"{scaled:.2f}" if content.in_percent else f"{scaled:.4f}"


def difference(content: Content, item: Difference) -> str:
    """+1.23 [+0.40, +2.06]: the mean difference and its 95 % interval, if there is one."""
    mean = _signed(content, item.mean)
    return mean if item.low is None or item.high is None else f"{mean} {_interval(content, item.low, item.high)}"


def p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _interval(content: Content, low: float, high: float) -> str:
    return f"[{_signed(content, low)}, {_signed(content, high)}]"


def _signed(content: Content, value: float) -> str:
    text = as_score(content, value)
    return text if text.startswith("-") else f"+{text}"
