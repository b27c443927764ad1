"""The results as Markdown, with the recorded figures of the peers beside them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pose_bench.peers import AREAS, BAG_SIZES, Bag, common_bags, mean_over_scenes

Row = Mapping[str, Any]

HEAD = "AUC@1 | @3 | @5 | @10"


def to_markdown(rows: Sequence[Row], peers: Row, machine: Row) -> str:
    """Full scenes, how far ours is from the best, means over bags, bags scene by scene."""
    note = (
        f"Focal length and principal point unknown, no EXIF; {machine['threads']} threads on {machine['cores']} cores "
        f"({machine['processor']}), no GPU. AUC in percent of all image pairs, by the larger of the errors of rotation "
        "and of direction of translation; an image that is missing is wrong. Seconds of the whole command. *Recorded* "
        "figures were measured once by the maker of the bench and are rounded; all others are of this run. "
        "`sift` is COLMAP through pycolmap (8192 SIFT features, all pairs, incremental mapping), `sift + principal "
        "point` the same with one more adjustment that frees the principal point.\n\n"
        "Written by `python benchmarks/run.py`."
    )
    parts = ["# Real scenes", note]
    if any(row["bag"] == "full" for row in rows):
        parts += ["## Full scenes", full_scenes(rows, peers)]
        parts += ["## Full scenes, beside the best", best_beside(rows, peers)]
    if any(row["bag"] != "full" for row in rows):
        parts += ["## Bags, means", means_note(peers), means(rows, peers)]
        parts += ["## Bags, scene by scene", "Means over the bags that are named.", bags_by_scene(rows, peers)]
    return "\n\n".join(parts) + "\n"


def full_scenes(rows: Sequence[Row], peers: Row) -> str:
    """A row for each method and each recorded peer of each scene."""
    lines = []
    full = [row for row in rows if row["bag"] == "full"]
    for scene in _in_order(row["scene"] for row in full):
        for row in full:
            if row["scene"] == scene:
                score = row["score"]
                registered = f"{score['registered']}/{score['images']}"
                spent = [f"{row['seconds']:.1f}", str(row["peak_memory_mb"])]
                lines.append([scene, row["method"], registered, *_areas(score, 1), *spent])
        for peer in _unknown(peers, scene):
            registered = f"{peer['registered']}/{peer['images']}"
            lines.append([scene, f"*{peer['peer']}, recorded*", registered, *_areas(peer, 0), "", ""])
    return table(f"scene | method | registered | {HEAD} | seconds | MB", lines)


def best_beside(rows: Sequence[Row], peers: Row) -> str:
    """Ours minus the best recorded peer, and minus SIFT with the principal point free, in points of AUC."""
    lines = []
    full = {(row["scene"], row["method"]): row["score"] for row in rows if row["bag"] == "full"}
    for (scene, method), score in full.items():
        if not method.startswith("vggsfm"):
            continue
        recorded = _unknown(peers, scene)
        if recorded:
            best = {area: max(peer[area] for peer in recorded) for area in AREAS}
            most = max(peer["registered"] for peer in recorded)
            lines.append([scene, method, "best recorded", str(score["registered"] - most), *_differences(score, best)])
        for name in ("sift", "sift + principal point"):
            if other := full.get((scene, name)):
                more = str(score["registered"] - other["registered"])
                lines.append([scene, method, name, more, *_differences(score, other)])
    return table(f"scene | method | minus | registered | {HEAD}", lines)


def means_note(peers: Row) -> str:
    """What the means are taken over."""
    common = common_bags(peers)
    counts = ", ".join(f"{sum(bag[1] == size for bag in common)} of {size.removeprefix('bag')}" for size in BAG_SIZES)
    return (
        f"Only bags that every recorded peer was run on ({counts}); over a scene's bags, then over scenes. Where some "
        "of these bags were not run, the mean is over the others."
    )


def means(rows: Sequence[Row], peers: Row) -> str:
    """The mean of each method beside those of the recorded peers."""
    lines = []
    for size, figures in means_by_method(rows, peers).items():
        for method, (count, of, values) in figures.items():
            lines.append([size, method, f"{count} of {of}", *_areas(values, 1)])
        lines += [
            [size, f"*{row['peer']}, recorded*", str(row["bags"]), *_areas(row, 1)]
            for row in peers["means"]
            if row["size"] == size
        ]
    return table(f"bags of | method | bags | {HEAD}", lines)


def means_by_method(rows: Sequence[Row], peers: Row) -> dict[str, dict[str, tuple[int, int, dict[str, float]]]]:
    """By size and method: how many of how many common bags were run, and the mean areas over these."""
    common = common_bags(peers)
    result: dict[str, dict[str, tuple[int, int, dict[str, float]]]] = {}
    for size in BAG_SIZES:
        asked = {bag for bag in common if bag[1] == size}
        result[size] = {}
        for method in _in_order(row["method"] for row in rows):
            scores = {bag: row["score"] for row in rows if row["method"] == method and (bag := bag_of(row)) in asked}
            if scores:
                values = {}
                for area in AREAS:
                    mean = mean_over_scenes({bag: score[area] for bag, score in scores.items()}, size)
                    assert mean is not None
                    values[area] = mean
                result[size][method] = (len(scores), len(asked), values)
    return result


def bag_of(row: Row) -> Bag | None:
    """Scene, size and number of a row; None for full scenes."""
    size, _, number = row["bag"].partition("-")
    return (row["scene"], size, int(number)) if number else None


def bags_by_scene(rows: Sequence[Row], peers: Row) -> str:
    """Ours over all bags that were run and over those that all peers were run on; the peers over theirs."""
    common, lines = common_bags(peers), []
    by_scene: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in rows:
        if bag := bag_of(row):
            by_scene.setdefault(bag[:2], {}).setdefault(row["method"], {})[bag[2]] = row["score"]
    for (scene, size), methods in by_scene.items():
        for method, scores in methods.items():
            numbers = sorted(scores)
            shared = [number for number in numbers if (scene, size, number) in common]
            for chosen in (numbers, shared) if shared not in (numbers, []) else (numbers,):
                lines.append([scene, size, method, *_mean([scores[number] for number in chosen], chosen)])
        for row in peers["bags"]:
            if (row["scene"], row["size"]) == (scene, size):
                who, registered = f"*{row['peer']}, recorded*", f"{row['registered']:.1f}"
                lines.append([scene, size, who, _numbers(row["bags"]), registered, *_areas(row, 0)])
    return table(f"scene | size | method | bags | registered | {HEAD}", lines)


def _mean(scores: Sequence[Row], numbers: Sequence[int]) -> list[str]:
    mean = {key: sum(score[key] for score in scores) / len(scores) for key in (*AREAS, "registered")}
    return [_numbers(numbers), f"{mean['registered']:.1f}", *_areas(mean, 1)]


def _numbers(numbers: Iterable[int]) -> str:
    return ",".join(str(number) for number in numbers)


def _unknown(peers: Row, scene: str) -> list[Row]:
    return [row for row in peers["full"] if row["scene"] == scene and row["K"] == "unknown"]


def _areas(values: Row, digits: int) -> list[str]:
    return [f"{values[area]:.{digits}f}" for area in AREAS]


def _differences(score: Row, other: Row) -> list[str]:
    return [f"{score[area] - other[area]:+.1f}" for area in AREAS]


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def table(head: str, lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        [f"| {head} |", "| --- " * (head.count("|") + 1) + "|", *(f"| {' | '.join(row)} |" for row in lines)]
    )
