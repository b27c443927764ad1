"""This tool beside the strongest peer, whichever that is: methods measured in the same run, and recorded figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pose_bench.peers import AREAS
from pose_bench.tables import Row, table

OURS = "vggsfm"
SIFT, FREED = "sift", "sift + principal point"
NAMES = {SIFT: "SIFT", FREED: "SIFT, principal point freed"}
FEATURES = {"sift": "SIFT", "aliked": "ALIKED", "xfeat": "XFeat"}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another method on the same images, with ``digits`` decimals of its figures known."""

    name: str
    figures: Row
    digits: int

    def shown(self, area: str) -> str:
        return f"{self.figures[area]:.{self.digits}f}"


def measured(method: str, figures: Row) -> Peer:
    """A method that ran on the same machine."""
    return Peer(name=NAMES.get(method, method), figures=figures, digits=1)


def recorded(row: Row, digits: int) -> Peer:
    """A row of the recorded figures."""
    feature, mapper = row["peer"].split("+")
    return Peer(name=f"{FEATURES.get(feature, feature)}, {mapper} mapping", figures=row, digits=digits)


def peers_on_scene(rows: Sequence[Row], peers: Row, scene: str) -> list[Peer]:
    """All other methods on a full scene without known intrinsics."""
    own = [row for row in rows if (row["scene"], row["bag"]) == (scene, "full") and not row["method"].startswith(OURS)]
    others = [row for row in peers["full"] if (row["scene"], row["K"]) == (scene, "unknown")]
    return [*(measured(row["method"], row["score"]) for row in own), *(recorded(row, 0) for row in others)]


def peers_on_sets(means: Row, peers: Row, size: str) -> list[Peer]:
    """All other methods on the sets of a size."""
    own = [(method, figures) for method, figures in means[size].items() if not method.startswith(OURS)]
    others = [row for row in peers["means"] if row["size"] == size]
    return [*(measured(*pair) for pair in own), *(recorded(row, 1) for row in others)]


def best(peers: Iterable[Peer], area: str) -> Peer:
    """The strongest at one threshold."""
    return max(peers, key=lambda peer: peer.figures[area])


def beside(figures: Row, peers: Sequence[Peer]) -> list[str]:
    """Cells: this tool, the strongest peer at each threshold, and the names of those that this takes."""
    strongest = [best(peers, area) for area in AREAS]
    ours = " / ".join(f"{figures[area]:.1f}" for area in AREAS)
    theirs = " / ".join(peer.shown(area) for peer, area in zip(strongest, AREAS, strict=True))
    return [ours, theirs, "; ".join(dict.fromkeys(peer.name for peer in strongest))]


def scenes_table(document: Row, peers: Row) -> str:
    """Every full scene."""
    rows = document["results"]
    seconds = {(row["scene"], row["method"]): row["seconds"] for row in rows if row["bag"] == "full"}
    lines = []
    for scene, row in _full(rows, OURS).items():
        score = row["score"]
        registered = f"{score['registered']}/{score['images']}"
        sift = seconds.get((scene, SIFT))
        spent = [f"{row['seconds']:.0f}", "" if sift is None else f"{sift:.0f}", str(row["peak_memory_mb"])]
        lines.append([scene, registered, *beside(score, peers_on_scene(rows, peers, scene)), *spent])
    head = (
        "scene | registered | AUC@1 / 3 / 5 / 10 | strongest peer at each threshold | which peer | seconds "
        "| seconds, SIFT | memory MB"
    )
    return table(head, lines)


def sets_table(document: Row, peers: Row) -> str:
    """Means over small sets."""
    lines = []
    for size, methods in document["means"].items():
        ours = methods[OURS]
        name = f"{ours['bags']} sets of {size.removeprefix('bag')} images"
        lines.append([name, *beside(ours, peers_on_sets(document["means"], peers, size))])
    return table("mean over small sets | AUC@1 / 3 / 5 / 10 | strongest peer at each threshold | which peer", lines)


def verdict(document: Row, peers: Row) -> str:
    """Sentences: where this tool is ahead, where it is behind, and where the lead comes from."""
    return " ".join([*_ahead_and_behind(document, peers), *_principal_point(document), *_small_sets(document, peers)])


def _ahead_and_behind(document: Row, peers: Row) -> list[str]:
    rows = document["results"]
    leads = {
        scene: row["score"]["AUC@1"] - best(peers_on_scene(rows, peers, scene), "AUC@1").figures["AUC@1"]
        for scene, row in _full(rows, OURS).items()
    }
    ahead = [f"{scene} ({lead:.1f})" for scene, lead in leads.items() if lead > 0]
    behind = [f"{scene} ({-lead:.1f})" for scene, lead in leads.items() if lead <= 0]
    said = []
    if ahead:
        said.append(f"At 1 degree this tool is ahead of every peer on {listed(ahead)}; points of AUC in parentheses.")
    if behind:
        said.append(f"It loses to the strongest peer on {listed(behind)}.")
    return said


def _principal_point(document: Row) -> list[str]:
    """How much of the lead over SIFT is what SIFT gains by freeing the principal point."""
    ours, pinned, freed = (_full(document["results"], method) for method in (OURS, SIFT, FREED))
    gains = {
        scene: freed[scene]["score"]["AUC@1"] - pinned[scene]["score"]["AUC@1"]
        for scene in ours
        if scene in pinned and scene in freed
    }
    helped = [scene for scene, gain in gains.items() if gain > 0]
    if not helped:
        return []
    gain = sum(gains[scene] for scene in helped) / len(helped)
    lead = sum(ours[scene]["score"]["AUC@1"] - pinned[scene]["score"]["AUC@1"] for scene in helped) / len(helped)
    share = "all" if gain >= lead else "most" if gain >= lead / 2 else "part"
    return [
        f"Freeing the principal point alone brings SIFT {gain:.1f} points on average on {listed(helped)}. This tool "
        f"leads SIFT with a fixed principal point by {lead:.1f} there, so {share} of that lead comes from the "
        "principal point."
    ]


def _small_sets(document: Row, peers: Row) -> list[str]:
    leads = {
        size.removeprefix("bag"): methods[OURS]["AUC@5"]
        - best(peers_on_sets(document["means"], peers, size), "AUC@5").figures["AUC@5"]
        for size, methods in document["means"].items()
    }
    ahead = [f"{size} ({lead:.1f})" for size, lead in leads.items() if lead > 0]
    behind = [f"{size} ({-lead:.1f})" for size, lead in leads.items() if lead <= 0]
    said = []
    if ahead:
        said.append(
            f"At 5 degrees it is ahead of every peer on small sets of {listed(ahead)} images, where the search over "
            "focal lengths adds most ([log](benchmarks/accuracy.md))."
        )
    if behind:
        said.append(f"At 5 degrees it loses to the strongest peer on small sets of {listed(behind)} images.")
    return said


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _full(rows: Iterable[Row], method: str) -> dict[str, Any]:
    """Rows of the full scenes of a method, by scene."""
    return {row["scene"]: row for row in rows if row["bag"] == "full" and row["method"] == method}
