"""Tests of `dallemini.hub`: sources of every kind, keys of conversions, model cards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import scan_cache_dir

from dallemini import hub as hub_package
from dallemini.errors import (
    HubError,
    InputError,
    InputTypeError,
    MissingFileError,
)
from dallemini.hub import (
    BUNDLED_MODEL,
    LocalSource,
    Where,
    conversion_cache_dir,
    model_card,
    open_source,
    source_key,
)
from dallemini.hub import source as hub_module
from hub_server import TOKEN, HubServer
from light import LIGHT

REPO = "someone/tiny-model"
WEIGHTS = "transformer/model.safetensors"


# Local sources


def test_folder_lists_visible_files_one_folder_deep(model_folder: Path) -> None:
    assert open_source(model_folder).files() == (
        "model_index.json",
        "transformer/config.json",
        "transformer/model.safetensors",
        "vqgan/config.json",
    )


def test_folder_fetches_the_files_where_they_lie(model_folder: Path) -> None:
    source = open_source(str(model_folder), subfolder="transformer")
    assert source.fetch(["config.json"]) == {
        "config.json": model_folder / "transformer/config.json"
    }
    assert (source.name, source.revision_key, source.selected) == (str(model_folder), None, None)


def test_file_selects_itself_among_its_siblings(model_folder: Path) -> None:
    source = open_source(model_folder / "transformer" / "model.safetensors")
    assert source.selected == "model.safetensors"
    assert source.files() == ("config.json", "model.safetensors")


def test_home_folder_is_expanded(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert "model_index.json" in open_source("~/tiny-model").files()


def test_existing_folder_wins_over_hub_id(
    model_folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent.parent)
    assert isinstance(open_source(f"{model_folder.parent.name}/tiny-model"), LocalSource)
    assert hub.requests == []


def test_missing_local_file_is_named_with_what_is_there(model_folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no b\.pt, c\.pt; it holds .*model_index\.json"):
        open_source(model_folder).fetch(["model_index.json", "b.pt", "c.pt"])


@pytest.mark.parametrize("name", ["no/such/folder", "nothing/encoder.pt", "~/nothing-here"])
def test_path_that_does_not_exist_is_not_taken_for_a_hub_id(name: str, hub: HubServer) -> None:
    with pytest.raises(MissingFileError, match=rf"no file or folder '{re.escape(name)}'"):
        open_source(name)
    assert hub.requests == []


def test_path_object_is_never_a_hub_id(hub: HubServer) -> None:
    with pytest.raises(MissingFileError, match=r"no file or folder 'someone/tiny-model'"):
        open_source(Path(REPO))


def test_missing_local_subfolder_is_an_error(model_folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no folder .*scorer\. Check .* subfolder="):
        open_source(model_folder, subfolder="scorer")


def test_subfolder_of_a_file_is_an_error(model_folder: Path) -> None:
    with pytest.raises(InputError, match="is a file and has no subfolder 'x'"):
        open_source(model_folder / "model_index.json", subfolder="x")


@pytest.mark.parametrize("subfolder", ["a/../..", "/etc", "", "a\\b"])
def test_subfolder_cannot_leave_the_model(model_folder: Path, subfolder: str) -> None:
    with pytest.raises(InputError, match="subfolder must be a folder inside the model"):
        open_source(model_folder, subfolder=subfolder)


def test_revision_of_a_local_folder_is_an_error(model_folder: Path) -> None:
    with pytest.raises(InputError, match="is not on the Hub: leave out revision='main'"):
        open_source(model_folder, revision="main")


@pytest.mark.parametrize("source", [None, b"dalle-mini/dalle-mini"])
def test_source_must_be_a_string_or_path(source: object) -> None:
    with pytest.raises(InputTypeError, match="named by a string or a path, not"):
        open_source(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a b/c", "owner/na--me", "a/b\n"])
def test_malformed_hub_id_is_an_error(name: str, hub: HubServer) -> None:
    with pytest.raises(InputError, match="neither a file or folder here nor a model on the Hub"):
        open_source(name)
    assert hub.requests == []


# The bundled model


def test_bundled_model_comes_from_the_package(
    model_folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_bundled_folder", lambda: model_folder)
    source = open_source(BUNDLED_MODEL, subfolder="vqgan")
    assert source.fetch(["config.json"]) == {"config.json": model_folder / "vqgan/config.json"}
    assert source.name == BUNDLED_MODEL
    assert hub.requests == []


def test_bundled_model_has_no_revisions() -> None:
    with pytest.raises((InputError, MissingFileError), match=r"revision|Install dallemini again"):
        open_source(BUNDLED_MODEL, revision="v2")


def test_package_without_its_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(
        MissingFileError, match=r"bundled model is not in .* Install dallemini again"
    ):
        open_source(BUNDLED_MODEL)


# A source that is open


@pytest.mark.parametrize("place", ["here", "hub"])
def test_folder_of_an_open_source_is_that_of_its_commit(
    hub: HubServer, model_folder: Path, place: str
) -> None:
    commit = hub.add(REPO, model_folder)
    source = hub_package.open(REPO if place == "hub" else model_folder)
    if place == "hub":
        hub.add(REPO, model_folder / "vqgan")  # the branch moves on
    asked = len(hub.requests)
    inner = source.inside("transformer")
    assert inner.files() == ("config.json", "model.safetensors")
    assert inner.fetch(["config.json"])["config.json"].read_bytes() == b'{"d_model": 8}'
    assert inner.revision_key == (commit if place == "hub" else None)
    assert inner.label == f"{source.name}/transformer" + f"@{commit[:12]}" * (place == "hub")
    assert not [line for line in hub.requests[asked:] if "/revision/" in line]
    with pytest.raises(MissingFileError, match=r"no folder .*scorer"):
        source.inside("scorer")
    with pytest.raises(InputError, match="must be a folder inside the model"):
        source.inside("../transformer")


def test_open_source_is_taken_as_it_is(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    source = hub_package.open(REPO, Where(cache_dir=None))
    hub.reset()
    assert hub_package.open(source) is source
    assert hub_package.open(source, subfolder="vqgan").files() == ("config.json",)
    assert hub.requests == []
    with pytest.raises(InputError, match=r"was opened already: give revision="):
        hub_package.open(source, Where(revision="main"))


def test_links_to_nothing_say_that_the_cache_is_incomplete(
    hub: HubServer, model_folder: Path
) -> None:
    hub.add(REPO, model_folder)
    path = open_source(REPO).fetch([WEIGHTS])[WEIGHTS]
    path.resolve().unlink()  # as a clean-up of the cache's blobs leaves it
    message = r"the cache is incomplete: it lacks transformer/model\.safetensors of .*network"
    offline = open_source(REPO, local_files_only=True)
    with pytest.raises(HubError, match=message):
        offline.fetch([WEIGHTS])
    with pytest.raises(MissingFileError, match=r"link to nothing.*the cache is incomplete"):
        open_source(path.parent).fetch(["model.safetensors"])
    assert open_source(REPO).fetch([WEIGHTS])[WEIGHTS].read_bytes()  # online it comes again
    assert offline.fetch([WEIGHTS])


# Downloads


def test_hub_model_is_listed_and_downloaded(hub: HubServer, model_folder: Path) -> None:
    commit = hub.add(REPO, model_folder)
    source = open_source(REPO)
    assert source.files() == open_source(model_folder).files()
    paths = source.fetch(["model_index.json", "transformer/model.safetensors"])
    assert paths[WEIGHTS].read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert paths["model_index.json"].read_bytes() == b"{}"
    assert (source.name, source.revision_key) == (REPO, commit)


def test_only_what_is_fetched_is_downloaded(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO, subfolder="transformer").fetch(["config.json"])
    assert not any("safetensors" in request or "blobs" in request for request in hub.requests)


def test_subfolder_names_are_relative_to_it(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    source = open_source(REPO, subfolder="transformer")
    assert source.files() == ("config.json", "model.safetensors")
    assert source.fetch(["config.json"])["config.json"].read_bytes() == b'{"d_model": 8}'


def test_downloaded_file_is_not_asked_for_again(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    hub.reset()
    open_source(REPO).fetch(["model_index.json"])
    assert hub.requests == [f"GET /api/models/{REPO}/revision/main"]


@pytest.mark.parametrize("branch", ["fp16", "refs/pr/3"])
def test_revision_chooses_branch_tag_or_commit(
    hub: HubServer, model_folder: Path, branch: str
) -> None:
    hub.add(REPO, model_folder)
    commit = hub.add(REPO, model_folder / "vqgan", branch=branch)
    for revision in (branch, commit):
        source = open_source(REPO, revision=revision)
        assert (source.files(), source.revision_key) == (("config.json",), commit)
        assert source.fetch(["config.json"])["config.json"].read_bytes() == b"{}"
        assert open_source(REPO, revision=revision, local_files_only=True).files() == source.files()


def test_new_commit_is_noticed(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    commit = hub.add(REPO, model_folder / "vqgan")
    assert open_source(REPO).revision_key == commit
    assert open_source(REPO).files() == ("config.json",)


def test_the_commit_is_remembered_whole_or_not_at_all(
    hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    first = hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    (ref,) = (tmp_path / "hf-home").rglob("refs/main")
    (tmp_path / "older").hardlink_to(ref)  # which would change with it if it were written over
    second = hub.add(REPO, model_folder / "vqgan")
    open_source(REPO).fetch(["config.json"])
    assert [(tmp_path / "older").read_text(), ref.read_text()] == [first, second]
    assert [*ref.parent.iterdir()] == [ref]


def test_cache_dir_is_used_and_stays_readable_for_the_client(
    hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    hub.add(REPO, model_folder)
    path = open_source(REPO, cache_dir=tmp_path / "mine").fetch(["model_index.json"])
    assert path["model_index.json"].is_relative_to(tmp_path / "mine")
    (repo,) = scan_cache_dir(tmp_path / "mine").repos
    assert repo.repo_id == REPO
    assert set(repo.refs) == {"main"}


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_private_model_opens_with_a_token(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    hub.add(REPO, model_folder, private=True)
    if how == "variable":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = open_source(REPO, token=TOKEN if how == "argument" else None)
    assert source.fetch([WEIGHTS])
    assert TOKEN not in repr(source)


def test_token_is_not_sent_to_the_host_of_large_files(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder, private=True)
    open_source(REPO, token=TOKEN).fetch([WEIGHTS])
    sent = dict(zip(hub.requests, hub.tokens, strict=True))
    (blob,) = [request for request in sent if request.startswith("GET /blobs/")]
    assert sent.pop(blob) == ""
    assert set(sent.values()) == {f"Bearer {TOKEN}"}


def test_missing_hub_file_is_named_with_what_is_there(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    with pytest.raises(MissingFileError, match=r"has no x\.pt; it holds config\.json. See http"):
        open_source(REPO, subfolder="vqgan").fetch(["x.pt"])


def test_missing_hub_subfolder_is_named_with_what_is_there(
    hub: HubServer, model_folder: Path
) -> None:
    hub.add(REPO, model_folder)
    with pytest.raises(MissingFileError, match=r"no folder scorer; it holds .*model_index.json"):
        open_source(REPO, subfolder="scorer")


# Variables of the Hub's client


def test_cache_folder_follows_the_variables(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path("dallemini", "v1")
    assert conversion_cache_dir() == Path(os.environ["HF_HOME"]) / "hub" / ours
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert conversion_cache_dir() == Path("/xdg/huggingface/hub") / ours
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert conversion_cache_dir() == Path.home() / ".cache/huggingface/hub" / ours
    monkeypatch.setenv("HF_HUB_CACHE", "/$LETTER/hub")
    monkeypatch.setenv("LETTER", "q")
    assert conversion_cache_dir() == Path("/q/hub") / ours
    assert conversion_cache_dir("~/mine") == Path.home() / "mine" / ours


@pytest.mark.thorough
def test_variables_set_before_import_are_followed_in_a_fresh_process(
    hub: HubServer, model_folder: Path
) -> None:
    hub.add(REPO, model_folder)
    script = LIGHT + (
        "import sys; from dallemini.hub import open_source\n"
        f"paths = open_source({REPO!r}).fetch(['transformer/model.safetensors'])\n"
        "print(*paths.values(), sep='')"
    )
    run = [sys.executable, "-W", "error", "-c", script]
    root = str(Path(hub_module.__file__).parents[2])
    online = {**os.environ, "PYTHONPATH": root}
    first = subprocess.run(run, env=online, capture_output=True, text=True, check=True)
    assert first.stdout.startswith(os.environ["HF_HOME"])
    hub.reset()
    second = subprocess.run(
        run, env={**online, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )
    assert second.stdout == first.stdout
    assert hub.requests == []


# Keys of conversions


def test_key_of_local_files_shows_every_change(model_folder: Path) -> None:
    names, folder = ["model.safetensors", "config.json"], model_folder / "transformer"
    path, keys = folder / "config.json", [source_key(open_source(folder), ["config.json"])]

    def key() -> str:
        return source_key(open_source(folder), names)

    keys.append(key())
    assert re.fullmatch(r"local-[0-9a-f]{32}", keys[1])
    assert source_key(open_source(model_folder, subfolder="transformer"), names[::-1]) == keys[1]
    path.write_bytes(path.read_bytes() + b" ")
    keys.append(key())
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content[::-1])  # of the same length
    keys.append(key())
    (folder / "other").write_bytes(content)
    os.utime(folder / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(folder / "other", path)  # of the same length and time, as `cp -p` makes it
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_key_of_a_link_follows_it(model_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    keys = {source_key(open_source(tmp_path / n), ["config.json"]) for n in ("one", "two", "link")}
    assert len(keys) == 2


def test_key_of_hub_files_is_commit_subfolder_and_names(hub: HubServer, model_folder: Path) -> None:
    commit = hub.add(REPO, model_folder)
    key = source_key(open_source(REPO), ["model_index.json"])
    assert re.fullmatch(rf"someone--tiny-model-{commit[:12]}-[0-9a-f]{{16}}", key)
    others = [
        source_key(open_source(REPO), ["vqgan/config.json"]),
        source_key(open_source(REPO, subfolder="vqgan"), ["config.json"]),
        source_key(open_source(REPO, subfolder="transformer"), ["config.json"]),
    ]
    hub.add(REPO, model_folder / "vqgan")
    others.append(source_key(open_source(REPO), ["model_index.json"]))
    assert len({key, *others}) == 5
    assert not any("/resolve/" in request for request in hub.requests)


def test_key_of_missing_file_is_an_error(model_folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"has no x.pt"):
        source_key(open_source(model_folder), ["x.pt"])


# Model cards


def test_model_card_has_a_header_that_the_hub_reads() -> None:
    text = model_card(
        'Emoji: "tiny"',
        summary="Draws.",
        license="apache-2.0",
        tags=["emoji", "dallemini"],
        datasets=["someone/emoji"],
        base_model=REPO,
        sections={"Use": "Call it.", "Limits": "Many."},
    )
    data = yaml.safe_load(text.split("---")[1])
    assert data == {
        "license": "apache-2.0",
        "library_name": "dallemini",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "dallemini", "emoji"],
        "datasets": ["someone/emoji"],
        "base_model": REPO,
    }
    assert text.endswith('# Emoji: "tiny"\n\nDraws.\n\n## Use\n\nCall it.\n\n## Limits\n\nMany.\n')


def test_model_card_leaves_out_what_is_unknown() -> None:
    assert "license" not in model_card("Tiny")


def test_near_misses_of_names_that_need_no_network_are_told(hub: HubServer) -> None:
    for name, meant in (("dallemini/emoj", "dallemini/emoji"), ("DalleMini/Emoji", BUNDLED_MODEL)):
        with pytest.raises(HubError, match=f"^Did you mean '{meant}', which needs no network"):
            hub_package.open(name)
    with pytest.raises(HubError) as caught:
        hub_package.open("someone/else")
    assert "Did you mean" not in str(caught.value)
