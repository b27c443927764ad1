"""Downloads from a stand-in for the Hub: what arrives, what is kept, and what is said when it fails."""

import errno
import hashlib
import logging
import shutil

import pytest
from huggingface_hub import constants, file_download

from hub_server import COMMIT, REPO, be_impatient, hub  # noqa: F401
from vggsfm_cli.checkpoints.hub import fetch, find_cached, sha256_of
from vggsfm_cli.checkpoints.registry import HubFile
from vggsfm_cli.errors import WeightsUnavailable, WriteFailed

CONTENT = bytes(range(256)) * 9000
SOURCE = HubFile(repo=REPO, file="weights.bin")


@pytest.fixture(autouse=True)
def served(hub):  # noqa: F811
    hub.files["weights.bin"] = CONTENT
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return hub


def refused(source=SOURCE, kind=WeightsUnavailable, **options):
    with pytest.raises(kind) as caught:
        fetch(source, **options)
    assert caught.value.exit_code == kind.exit_code and caught.value.hint
    return str(caught.value)


def test_a_file_arrives_with_its_commit_and_progress(served):
    events = []
    assert find_cached(SOURCE) is None
    found = fetch(SOURCE, progress=events.append)
    assert found.path.read_bytes() == CONTENT and found.commit == COMMIT
    assert sha256_of(found.path) == hashlib.sha256(CONTENT).hexdigest()
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].done, events[-1].total) == (3, 3) and "weights.bin" in events[-1].detail
    assert find_cached(SOURCE) == found


def test_what_is_cached_needs_no_network(served):
    fetch(SOURCE)
    asked = len(served.asked)
    found = fetch(SOURCE, offline=True)
    assert found.path.read_bytes() == CONTENT and len(served.asked) == asked
    assert fetch(SOURCE) == found and len(served.asked) == asked
    assert find_cached(HubFile(repo=REPO, file="weights.bin", revision=COMMIT)) == found


def test_offline_says_which_switch_forbids_it(served, monkeypatch):
    assert "--offline forbids" in refused(offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refused()
    assert served.asked == []


def test_another_revision(served):
    assert fetch(HubFile(repo=REPO, file="weights.bin", revision="v2.0")).commit == COMMIT
    assert any("/resolve/v2.0/" in path for _, path, _ in served.asked)


def test_a_broken_connection_goes_on_where_it_broke(served, monkeypatch):
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    served.break_after = 1_000_000
    assert fetch(SOURCE).path.read_bytes() == CONTENT
    ranges = [asked for command, _, asked in served.asked if command == "GET"]
    assert ranges == [None, "bytes=1000000-"]


def test_an_interrupted_run_is_taken_up_by_the_next(served, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)

    def interrupt(event):
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(SOURCE, progress=interrupt)
    assert find_cached(SOURCE) is None
    served.asked.clear()
    assert fetch(SOURCE).path.read_bytes() == CONTENT
    (begun,) = [asked for command, _, asked in served.asked if command == "GET"]
    assert begun is not None and int(begun.removeprefix("bytes=").rstrip("-")) >= 1_000_000


def test_what_the_hub_does_not_have(served):
    assert "no file 'other.bin'" in refused(HubFile(repo=REPO, file="other.bin"))
    assert "no revision 'v9'" in refused(HubFile(repo=REPO, file="weights.bin", revision="v9"))
    assert "no repository 'owner/nothing'" in refused(HubFile(repo="owner/nothing", file="weights.bin"))
    assert "not the name of a repository" in refused(HubFile(repo="a//b", file="weights.bin"))


def test_no_answer_in_time(served, monkeypatch):
    be_impatient(monkeypatch)
    served.delay_s = 1.0
    assert "did not answer in time" in refused()


def test_nobody_there(served):
    served.close()
    assert "cannot be reached" in refused()


def test_a_server_in_trouble(served):
    served.status = 503
    assert "HTTP 503" in refused()


def test_no_room_on_the_disk_is_known_before(served, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "2 MB are needed, 0 MB are free" in refused(kind=WriteFailed)
    assert [command for command, _, _ in served.asked] == ["HEAD"]


def test_no_room_on_the_disk_shows_while_writing(monkeypatch):
    def full(url, file, **_):
        file.write(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    assert "no room for weights.bin" in refused(kind=WriteFailed)
    monkeypatch.undo()


def test_other_bytes_than_announced_are_thrown_away(served, tmp_path):
    served.damage = True
    assert "arrived damaged" in refused()
    assert find_cached(SOURCE) is None and not list(tmp_path.rglob("*.incomplete"))
    served.damage = False
    assert fetch(SOURCE).path.read_bytes() == CONTENT
