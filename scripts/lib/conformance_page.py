"""Lay the results of scripts/conformance out as Markdown, for docs/conformance.md.

Pure text. Knows nothing of how the results came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from conformance import FAR, VERDICTS, Gap, Result, Settings


def markdown(results: Iterable[Result], scenes: int, chance: Mapping[str, Sequence[str]]) -> str:
    """Give the counts of each setting and every scene that is not identical.

    ``scenes`` is how many there are; ``chance`` gives what a scene draws lots for.
    """
    ordered = sorted(results, key=lambda result: (_order(result.settings), result.scene))
    parts = [
        *_provenance(ordered),
        "",
        *_counts(ordered, scenes),
        "",
        *_different(ordered),
        *_noisy(ordered, chance),
        *_complaints(ordered, "alike", "Refused or failing alike, in POV-Ray's own words"),
        *_complaints(ordered, "too slow", "Not measured: too slow"),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _provenance(results: Sequence[Result]) -> Iterator[str]:
    povrays = sorted({result.povray for result in results if result.povray})
    commits = sorted({result.commit for result in results if result.commit})
    yield f"POV-Ray {', '.join(povrays) or 'unknown'}; ClusterRay at {', '.join(commits) or '?'}."


def _counts(results: Sequence[Result], scenes: int) -> Iterator[str]:
    heads = ["settings", *VERDICTS, "measured", "in two bands or more"]
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for settings in sorted({result.settings for result in results}, key=_order):
        own = [result for result in results if result.settings == settings]
        count = Counter(result.verdict for result in own)
        cut = sum(result.bands > 1 for result in own)
        cells = [str(count[verdict]) for verdict in VERDICTS]
        yield _row([str(settings), *cells, f"{len(own)} of {scenes}", str(cut)])


def _different(results: Sequence[Result]) -> Iterator[str]:
    found = [result for result in results if result.verdict == "different"]
    if not found:
        return
    yield "### Different"
    yield ""
    yield _row(["scene", "settings", "bands", "farm", "other plain runs", "pixels (x, y)", "words"])
    yield _row(["---"] * 7)
    for result in found:
        yield _row(
            [
                f"`{result.scene}`",
                str(result.settings),
                str(result.bands or ""),
                _gap(result.farm),
                _probes(result),
                " ".join(f"({x}, {y})" for x, y in result.places[:6])
                + (" ..." if len(result.places) > 6 else ""),
                _cell(result.message),
            ]
        )
    yield ""


def _noisy(results: Sequence[Result], chance: Mapping[str, Sequence[str]]) -> Iterator[str]:
    found = [result for result in results if result.verdict == "within noise"]
    if not found:
        return
    yield "### Within the noise of plain POV-Ray"
    yield ""
    yield "Pixels that differ from plain `+WT1`, the largest difference of 255, and what the"
    yield "scene's text, with all it includes, has of things POV-Ray draws random numbers for."
    yield ""
    names = list(dict.fromkeys(name for result in found for name in result.probes))
    yield _row(["scene", "settings", "bands", "farm", *(f"plain {name}" for name in names), "has"])
    yield _row(["---"] * (5 + len(names)))
    for result in found:
        probes = [_gap(result.probes[name]) if name in result.probes else "" for name in names]
        cells = [f"`{result.scene}`", str(result.settings), str(result.bands)]
        yield _row([*cells, _gap(result.farm), *probes, ", ".join(chance.get(result.scene, []))])
    yield ""
    far = [f"`{result.scene}` ({result.settings})" for result in found if result.is_far]
    yield (
        f"Of these {len(found)}, the farm is more than {FAR:g} times as far from plain `+WT1`, in "
        f"pixels or in the largest difference, as every other plain run in {len(far)}"
        f"{': ' + ', '.join(far) if far else ''}."
    )
    yield ""


def _complaints(results: Sequence[Result], verdict: str, title: str) -> Iterator[str]:
    found = [result for result in results if result.verdict == verdict]
    if not found:
        return
    yield f"### {title}"
    yield ""
    yield _row(["scene", "settings", "words"])
    yield _row(["---"] * 3)
    words: dict[tuple[str, str], list[str]] = {}
    for result in found:
        words.setdefault((result.scene, result.message), []).append(str(result.settings))
    for (scene, message), settings in words.items():
        yield _row([f"`{scene}`", ", ".join(settings), _cell(message)])
    yield ""


def _order(settings: Settings) -> tuple[bool, int, int, int]:
    area = settings.width * settings.height
    return settings.found_alone, area, settings.width, settings.antialias


def _gap(gap: Gap) -> str:
    return f"{gap.pixels} px, {gap.largest}" if gap.pixels else "0"


def _probes(result: Result) -> str:
    return "; ".join(f"{name}: {_gap(gap)}" for name, gap in result.probes.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
