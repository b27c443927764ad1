"""The sets to reconstruct: full scenes and bags, which are small subsets of them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

OWN_CAMERAS = ("sacre_coeur",)
"""Scenes whose photographs come from a camera each; all images of the others share one."""

SIZES = ("full", "bag3", "bag5", "bag10")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One set of photographs.

    Attributes:
        scene: its name.
        bag: ``full``, or the bag's name, as ``bag5-2``.
        images: folder of the photographs.
        truth: file of their cameras.
        names: the photographs that are given to a method.
    """

    scene: str
    bag: str
    images: Path
    truth: Path
    names: tuple[str, ...]

    @property
    def size(self) -> str:
        """One of ``SIZES``."""
        return self.bag.split("-")[0]

    @property
    def number(self) -> int:
        """Of the bag among those of its size."""
        return int(self.bag.split("-")[1])

    @property
    def shared_camera(self) -> bool:
        """Whether all images are of one camera."""
        return self.scene not in OWN_CAMERAS


def read_items(bench: Path) -> list[Item]:
    """Everything ``bags.json`` lists, full scenes first."""
    listed = json.loads((bench / "bags.json").read_text())["scenes"]
    items = [
        Item(
            scene=scene,
            bag=bag,
            images=bench / "data" / scene / "images",
            truth=bench / "data" / scene / "gt.json",
            names=tuple(names),
        )
        for scene, bags in listed.items()
        for bag, names in bags.items()
    ]
    return sorted(items, key=lambda item: SIZES.index(item.size))


def choose(items: Sequence[Item], scenes: Collection[str] | None, bags: Collection[str] | None) -> list[Item]:
    """Those of some scenes, and of some bags: ``full``, a size as ``bag5`` or ``5``, or a bag as ``bag5-2``.

    Raises:
        ValueError: a name that is not there.
    """
    wanted = None if bags is None else {f"bag{bag}" if bag[:1].isdigit() else bag for bag in bags}
    known_bags = {item.bag for item in items} | {item.size for item in items}
    for kind, names, known in (("scene", scenes, {item.scene for item in items}), ("bag", wanted, known_bags)):
        if missing := sorted(set(names or ()) - known):
            raise ValueError(f"No {kind} {missing[0]!r}; there are {', '.join(sorted(known))}.")
    return [
        item
        for item in items
        if (scenes is None or item.scene in scenes) and (wanted is None or {item.bag, item.size} & wanted)
    ]
