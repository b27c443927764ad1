"""From what a user calls a model to its weights: which, why, and under which licence."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vggsfm_cli.checkpoints.convert import LAYOUTS, SOURCE_FILE, convert, layout_of
from vggsfm_cli.checkpoints.files import CONFIG_FILE, WEIGHTS_FILE, bundled_folder, classical_model, read_folder
from vggsfm_cli.checkpoints.registry import CLASSICAL, REGISTRY, SMALL, V2, HubFile, PublishedModel
from vggsfm_cli.errors import UsageError, WeightsUnavailable
from vggsfm_cli.model import VGGSfM
from vggsfm_cli.scene import ProgressCallback, silent

AUTO = "auto"
HUB_PREFIX = "hf:"
UNKNOWN_LICENCE = "not stated"

Notice = Callable[[str], None]
"""Is told one line before anything is downloaded: what it is, and under which licence."""


def unheard(text: str) -> None:
    """The notice that nobody reads."""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """Weights that were found.

    Attributes:
        name: of the model: a name of the registry, ``hf:REPO`` or a folder.
        reason: why it is this one.
        licence: of the weights.
        licence_note: what the licence means for a user; empty if it allows everything or is not known.
        hint: how to get what was not chosen; may be empty.
        folder: with ``config.json`` and ``model.safetensors``; None for ``classical``.
        source: JSON types: where the weights are from and their SHA-256, as far as they were downloaded.
    """

    name: str
    reason: str
    licence: str
    licence_note: str = ""
    hint: str = ""
    folder: Path | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def load(self, device: torch.device | str = "cpu") -> VGGSfM:
        """The model, ready for inference.

        Raises:
            WeightsUnavailable: its files are damaged.
        """
        model = classical_model() if self.folder is None else read_folder(self.folder)
        return model.eval().requires_grad_(False).to(device)

    def sentence(self) -> str:
        """One line: which model, why, and the licence of its weights."""
        return f"Model {self.name}: {self.reason}. Weights: {licence_text(self.licence, self.licence_note)}."

    def as_dict(self) -> dict[str, Any]:
        """JSON types, for ``report.json``."""
        return {
            "name": self.name,
            "reason": self.reason,
            "licence": self.licence,
            "licence_note": self.licence_note,
            **self.source,
        }


def licence_text(licence: str, note: str) -> str:
    """A licence and what it means, in one breath."""
    return f"{licence} ({note})" if note else licence


def load_model(name: str = SMALL, device: torch.device | str = "cpu") -> VGGSfM:
    """A model ready for inference; ``resolve_model`` says which names there are, and what is raised."""
    return resolve_model(name, device).load(device)


def resolve_model(
    name: str,
    device: torch.device | str = "cpu",
    *,
    offline: bool = False,
    revision: str | None = None,
    notice: Notice = unheard,
    progress: ProgressCallback = silent,
) -> ResolvedModel:
    """Find the weights of a model, downloading and converting them where that is what the name asks for.

    Args:
        name: ``small``, the bundled model, which needs no network; ``v2``, the published weights of VGGSfM v2, which
            are downloaded when first used; ``auto``, that is ``v2`` on CUDA if its file is already cached, otherwise
            ``small``; ``classical``, small's stages without anything trained here; ``hf:REPO`` or ``hf:REPO@REVISION``,
            a repository of the Hugging Face Hub; or a folder with ``config.json`` and ``model.safetensors``.
        device: where it will run.
        offline: never use the network.
        revision: branch, tag or commit on the Hub; None for the one of the registry.
        notice: told of the licence before a download.
        progress: told how a download goes.

    Raises:
        UsageError: no such model, or a revision of something that is not on the Hub.
        WeightsUnavailable: files are missing, damaged or cannot be downloaded.
    """
    fetching = _Fetching(offline=offline, notice=notice, progress=progress)
    if name == V2:
        return fetching.published(REGISTRY[V2], revision)
    if name.startswith(HUB_PREFIX):
        return fetching.repository(name, revision)
    if revision is not None:
        raise UsageError(f"--revision makes no sense for the model {name!r}.", "It is for models from the Hub.")
    if name == AUTO:
        return _automatic(torch.device(device).type == "cuda", fetching)
    if name == SMALL:
        return _bundled("it comes with the package")
    if name == CLASSICAL:
        return ResolvedModel(name=name, reason="asked for", licence=REGISTRY[name].licence)
    if Path(name).is_dir():
        return _folder(Path(name))
    raise UsageError(
        f"There is no model {name!r}.",
        f"Models: {', '.join((AUTO, *REGISTRY))}, {HUB_PREFIX}REPO@REVISION, or a folder.",
    )


def _automatic(on_cuda: bool, fetching: "_Fetching") -> ResolvedModel:
    published = REGISTRY[V2]
    licence = licence_text(published.licence, published.licence_note)
    if not on_cuda:
        return _bundled("there is no CUDA device", f"--model {V2} takes the published weights, {licence}.")
    if V2 in LAYOUTS and fetching.is_here(published):
        found = fetching.published(published, None)
        return dataclasses.replace(found, reason="on CUDA, and its weights are here")
    return _bundled(
        f"the weights of {V2} have not been downloaded",
        f"`vggsfm weights download {V2}` gets them, {licence}.",
    )


def _bundled(reason: str, hint: str = "") -> ResolvedModel:
    known = REGISTRY[SMALL]
    return ResolvedModel(name=SMALL, reason=reason, licence=known.licence, hint=hint, folder=bundled_folder(SMALL))


def _folder(folder: Path) -> ResolvedModel:
    source = read_source(folder)
    return ResolvedModel(
        name=str(folder),
        reason="the folder that was named",
        licence=str(source.get("licence", UNKNOWN_LICENCE)),
        licence_note=str(source.get("licence_note", "")),
        folder=folder,
        source=source,
    )


def read_source(folder: Path) -> dict[str, Any]:
    """What ``source.json`` in a model folder says; nothing if there is none, or it cannot be understood."""
    try:
        source = json.loads((folder / SOURCE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return source if isinstance(source, dict) else {}


@dataclass(frozen=True, kw_only=True)
class _Fetching:
    """How files are fetched from the Hub; that room is entered here only, and imports its library only then."""

    offline: bool
    notice: Notice
    progress: ProgressCallback

    def is_here(self, model: PublishedModel) -> bool:
        """Whether a published file is on this disk, converted or as it was published."""
        from vggsfm_cli.checkpoints.hub import find_cached

        assert model.hub is not None
        return find_converted(model.hub) is not None or find_cached(model.hub) is not None

    def published(self, model: PublishedModel, revision: str | None) -> ResolvedModel:
        """A published file, converted once."""
        from vggsfm_cli.checkpoints.hub import converted_root, fetch, find_cached, sha256_of

        assert model.hub is not None
        source = model.hub if revision is None else dataclasses.replace(model.hub, revision=revision)
        layout = layout_of(model.name)
        folder = find_converted(source)
        if folder is None:
            if not self.offline and find_cached(source) is None:
                self.notice(_download_notice(model.name, model.licence, model.licence_note, source))
            file = fetch(source, offline=self.offline, progress=self.progress)
            record = _record(source, file.commit, sha256_of(file.path), model.licence, model.licence_note)
            folder = convert(file.path, layout, converted_root(source) / file.commit, record)
        return ResolvedModel(
            name=model.name,
            reason="asked for",
            licence=model.licence,
            licence_note=model.licence_note,
            folder=folder,
            source=read_source(folder),
        )

    def repository(self, name: str, revision: str | None) -> ResolvedModel:
        """A model folder of ours on the Hub, or the repository of a published file."""
        from vggsfm_cli.checkpoints.hub import fetch, find_cached, sha256_of

        repo, _, own_revision = name.removeprefix(HUB_PREFIX).partition("@")
        if own_revision and revision not in (None, own_revision):
            raise UsageError(f"{name!r} and --revision {revision} contradict each other.", "Give one of them.")
        revision = own_revision or revision
        for model in REGISTRY.values():
            if model.hub is not None and model.hub.repo == repo:
                return self.published(model, revision)
        config = HubFile(repo=repo, file=CONFIG_FILE, revision=revision or "main")
        if not self.offline and find_cached(config) is None:
            self.notice(_download_notice(name, UNKNOWN_LICENCE, "", config))
        described = fetch(config, offline=self.offline, progress=self.progress)
        weights = HubFile(repo=repo, file=WEIGHTS_FILE, revision=described.commit)
        file = fetch(weights, offline=self.offline, progress=self.progress)
        return ResolvedModel(
            name=name,
            reason="asked for",
            licence=UNKNOWN_LICENCE,
            licence_note=f"see {config.page}",
            folder=described.path.parent,
            source=_record(
                dataclasses.replace(weights, revision=config.revision),
                file.commit,
                sha256_of(file.path),
                UNKNOWN_LICENCE,
                f"see {config.page}",
            ),
        )


def _download_notice(name: str, licence: str, note: str, source: HubFile) -> str:
    terms = licence_text(licence, note)
    return f"Downloading {name} from {source.page}, revision {source.revision}. Licence of the weights: {terms}."


def _record(source: HubFile, commit: str, sha256: str, licence: str, note: str) -> dict[str, Any]:
    return {
        "repo": source.repo,
        "file": source.file,
        "revision": source.revision,
        "commit": commit,
        "sha256": sha256,
        "licence": licence,
        "licence_note": note,
    }


def find_converted(source: HubFile) -> Path | None:
    """The folder that a published file was converted to, the newest where several fit; never touches the network."""
    from vggsfm_cli.checkpoints.hub import converted_root

    fitting = []
    for folder in converted_root(source).glob("*/"):
        record = read_source(folder)
        is_it = record.get("file") == source.file and source.revision in (record.get("revision"), record.get("commit"))
        if is_it and all((folder / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE)):
            fitting.append(folder)
    return max(fitting, key=lambda folder: (folder / SOURCE_FILE).stat().st_mtime, default=None)


def convert_file(name: str, file: Path, out: Path) -> Path:
    """Convert a published file of a named model that a user has, to a folder of the user's choice.

    Raises:
        UsageError: the model is not one that was published as a file, or ``out`` is there already.
        WeightsUnavailable: the file is wrong, or cannot be read.
    """
    model = REGISTRY.get(name)
    if model is None or model.hub is None:
        known = ", ".join(known.name for known in REGISTRY.values() if known.hub is not None)
        raise UsageError(f"{name!r} is no model that was published as a file.", f"Those are: {known}.")
    if out.exists():
        raise UsageError(f"{str(out)!r} is there already.", "Name a new folder.")
    layout = layout_of(name)
    if not file.is_file():
        raise WeightsUnavailable(f"There is no file {str(file)!r}.", f"Name the file {model.hub.file!r}.")
    from vggsfm_cli.checkpoints.hub import sha256_of

    record = {
        "file": file.name,
        "sha256": sha256_of(file),
        "licence": model.licence,
        "licence_note": model.licence_note,
    }
    return convert(file, layout, out, record)
