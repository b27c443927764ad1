"""The models that have a name: where their weights come from, and under which licence."""

from dataclasses import dataclass

SMALL = "small"
CLASSICAL = "classical"
V2 = "v2"


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a repository on the Hugging Face Hub.

    Attributes:
        repo: as ``owner/name``.
        file: path within the repository.
        revision: branch, tag or commit.
    """

    repo: str
    file: str
    revision: str = "main"

    @property
    def page(self) -> str:
        """Where a person can read about it."""
        return f"https://huggingface.co/{self.repo}"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model with a name.

    Attributes:
        name: what ``--model`` takes.
        summary: what it is, in a few words.
        licence: of the weights, as shown before a download and recorded in ``report.json``.
        licence_note: what the licence means for a user; empty if it allows everything.
        hub: where the weights are downloaded from; None for weights that come with a Python package.
    """

    name: str
    summary: str
    licence: str
    licence_note: str = ""
    hub: HubFile | None = None


REGISTRY: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name=SMALL,
            summary="the bundled model; needs no network and no GPU",
            licence="Apache-2.0",
        ),
        PublishedModel(
            name=V2,
            summary="VGGSfM v2 (281 million parameters), for a GPU; experimental: never run with the published file",
            licence="CC BY-NC 4.0",
            licence_note="not for commercial use",
            # The file was published without a tag; its SHA-256 is recorded when it is downloaded.
            hub=HubFile(repo="facebook/VGGSfM", file="vggsfm_v2_0_0.bin"),
        ),
        PublishedModel(
            name=CLASSICAL,
            summary="small's stages with XFeat's published features and nothing else learned, for comparison",
            licence="Apache-2.0",
        ),
    )
}
"""All models with a name, in the order they are listed."""
