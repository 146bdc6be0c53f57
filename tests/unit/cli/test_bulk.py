"""`dallemini generate --prompts`: listed, gone on with after a stop, shared between processes."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import GenerationConfig, Pipeline, Watermark
from dallemini.cli.processes import own_device, this_process
from dallemini.errors import InputError, StorageError
from dallemini.pipeline.bulk import Bulk, Manifest, settings_digest, split_units
from dallemini.safety import SafetyFlag
from dallemini.testing import tiny_pipeline
from patience import patience

PROMPTS = ("a cat", "a dog", "ein Bär", "a cat", "rot/grün?")
NAMES = ["a-cat", "a-dog", "ein-bär", "a-cat", "rot-grün"]


SLOWLY = """
import sys, time
from dallemini import Pipeline
from dallemini.cli import generate, main
generate._AT_ONCE = 1
call = Pipeline.__call__
def slowly(self, prompts, **settings):
    time.sleep(0.5)
    return call(self, prompts, **settings)
Pipeline.__call__ = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    monkeypatch.setattr("dallemini.cli.generate._AT_ONCE", 2)


@pytest.fixture
def draw(run: Any, tiny: Path) -> Any:
    """Draw the prompts into a folder."""
    words = ["generate", "--prompts", "prompts.txt", "--model", tiny, "--output"]
    return lambda folder, *more: run(*words, folder, *more)


@pytest.fixture
def drawn_now(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The seeds of all pictures that are drawn, in their order."""
    call, seeds = Pipeline.__call__, list[Any]()

    def counted(self: Pipeline, prompts: Any, **settings: Any) -> Any:
        seeds.extend(settings["seed"])
        return call(self, prompts, **settings)

    monkeypatch.setattr(Pipeline, "__call__", counted)
    return seeds


def listed(folder: str, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    lines = (Path(folder) / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def pictures(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.png")}


def test_pictures_are_numbered_and_listed(draw: Any, tiny: Path) -> None:
    result = draw("out")
    files = [f"{number:06d}-{name}.png" for number, name in enumerate(NAMES)]
    assert (result.code, result.err) == (0, "")
    assert result.lines == [f"out/{file}" for file in files]
    records = listed("out")
    assert [record["file"] for record in records] == files
    assert [record["prompt"] for record in records] == list(PROMPTS)
    assert [record["seed"] for record in records] == [0, 1, 2, 3, 4]
    assert {record["model"] for record in records} == {str(tiny)}
    assert len({record["settings"] for record in records}) == 1
    with Image.open("out/000004-rot-grün.png") as picture:
        alone = Pipeline.from_pretrained(tiny)("rot/grün?", seed=4)
        assert picture.tobytes() == alone.images[0].tobytes()
        assert picture.info["prompt"] == "rot/grün?"


@pytest.mark.thorough
def test_the_same_command_again_draws_nothing(draw: Any, drawn_now: list[Any]) -> None:
    draw("out")
    before = pictures("out")
    del drawn_now[:]
    result = draw("out")
    assert (result.code, result.out) == (0, "")
    assert result.err == "dallemini: 5 of 5 pictures were there already.\n"
    assert (drawn_now, pictures("out"), len(listed("out"))) == ([], before, 5)


def test_a_stopped_run_goes_on_where_it_was(
    draw: Any, drawn_now: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("whole", "--candidates", 2)
    call = Pipeline.__call__

    def stopped(self: Pipeline, prompts: Any, **settings: Any) -> Any:
        if 4 in settings["seed"]:
            raise KeyboardInterrupt
        return call(self, prompts, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "__call__", stopped)
        first = draw("part", "--candidates", 2)
    assert (first.code, len(first.lines), len(listed("part"))) == (130, 2, 2)
    del drawn_now[:]
    second = draw("part", "--candidates", 2)
    assert (second.code, len(second.lines)) == (0, 3)
    assert second.err == "dallemini: 2 of 5 pictures were there already.\n"
    assert drawn_now == list(range(4, 10))
    assert pictures("part") == pictures("whole")
    assert listed("part") == listed("whole")


@pytest.mark.thorough
def test_half_a_line_and_an_unlisted_file_of_a_killed_process_are_mended(
    draw: Any, drawn_now: list[Any]
) -> None:
    draw("out")
    whole, before = listed("out"), pictures("out")
    manifest = Path("out/manifest.jsonl")
    manifest.write_bytes(manifest.read_bytes()[:-9])  # the picture is there, its line is not
    del drawn_now[:]
    assert draw("out").lines == ["out/000004-rot-grün.png"]
    assert (drawn_now, pictures("out")) == ([4], before)
    lines = manifest.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in (*lines[:4], lines[5])] == whole


@pytest.mark.thorough
def test_a_killed_process_is_gone_on_from(draw: Any, tiny: Path, drawn_now: list[Any]) -> None:
    draw("whole")
    words = ["generate", "--prompts", "prompts.txt", "--model", str(tiny), "--output", "part"]
    with subprocess.Popen([sys.executable, "-c", SLOWLY, *words], stderr=subprocess.DEVNULL) as one:
        end = time.monotonic() + patience(120)
        while len(pictures("part")) < 2:
            assert one.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        one.kill()
    assert one.returncode == -signal.SIGKILL
    there = len(pictures("part"))
    assert 2 <= there < len(PROMPTS)
    del drawn_now[:]
    assert draw("part").code == 0
    assert len(drawn_now) in (len(PROMPTS) - there, len(PROMPTS) - there + 1)
    assert pictures("part") == pictures("whole")
    assert [one["file"] for one in listed("part") if "file" in one] == sorted(pictures("part"))


@pytest.mark.thorough
def test_a_picture_that_was_deleted_is_drawn_again(draw: Any, drawn_now: list[Any]) -> None:
    draw("out")
    before = pictures("out")
    Path("out/000001-a-dog.png").unlink()
    del drawn_now[:]
    draw("out")
    assert (drawn_now, pictures("out")) == ([1], before)


@pytest.mark.thorough
def test_other_settings_are_other_pictures(draw: Any) -> None:
    draw("out")
    before = pictures("out")
    result = draw("out", "--top-k", 3)
    assert result.lines[0] == "out/000000-a-cat-2.png"
    assert before.items() <= pictures("out").items()
    records = listed("out")
    assert (len(records), len({record["settings"] for record in records})) == (10, 2)
    for folder in ("out", "fresh"):  # a batch is none, and neither is a seed that is the same
        last = draw(folder, "--top-k", 3, "--seed", 0, "--batch-size", 3)
    assert len(last.lines) == 5
    assert listed("fresh")[0]["settings"] == records[5]["settings"]


@pytest.mark.thorough
def test_prompts_that_are_added_are_drawn_alone(draw: Any, drawn_now: list[Any]) -> None:
    draw("out", "-n", 2)
    with Path("prompts.txt").open("a") as file:
        file.write("\na bird\n")
    del drawn_now[:]
    assert draw("out", "-n", 2).lines == [f"out/0000{number}-a-bird.png" for number in (10, 11)]
    assert drawn_now == [10, 11]


@pytest.mark.slow
def test_ranked_pictures_stay_together(draw: Any, drawn_now: list[Any]) -> None:
    draw("out", "-n", 3, "--rank")
    for start in range(0, 15, 3):
        scores = [record["score"] for record in listed("out")[start : start + 3]]
        assert scores == sorted(scores, reverse=True)
    before = pictures("out")
    Path("out/000004-a-dog.png").unlink()
    del drawn_now[:]
    assert draw("out", "-n", 3, "--rank").lines == ["out/000004-a-dog.png"]
    assert (drawn_now, pictures("out")) == ([3, 4, 5], before)


def test_processes_share_the_work_and_any_number_goes_on(
    draw: Any, drawn_now: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("alone")
    del drawn_now[:]
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0):
        monkeypatch.setenv("RANK", str(rank))
        assert draw("shared").code == 0
    assert drawn_now == [2, 0, 3]
    assert [one["seed"] for one in listed("shared", "manifest-00002.jsonl")] == [2]
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert draw("shared").err == "dallemini: 3 of 5 pictures were there already.\n"
    assert sorted(drawn_now) == [0, 1, 2, 3, 4]
    assert pictures("shared") == pictures("alone")


@pytest.mark.slow  # four processes import torch; that above shows what each of them draws
def test_torchrun_draws_with_two_processes(draw: Any, tiny: Path) -> None:
    draw("alone")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["generate", "--prompts", "prompts.txt", "--model", str(tiny), "--output", "shared"]
    for again in (False, True):
        done = subprocess.run(
            [sys.executable, *torchrun, "-m", "dallemini", *words],
            capture_output=True, text=True, check=False, timeout=patience(240),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == (0 if again else len(PROMPTS))
        assert ("3 of 3 pictures were there already" in done.stderr) == again
    manifests = [listed("shared", f"manifest-0000{rank}.jsonl") for rank in (0, 1)]
    assert [[one["number"] for one in part] for part in manifests] == [[0, 2, 4], [1, 3]]
    assert pictures("shared") == pictures("alone")


@pytest.mark.parametrize(
    ("rank", "count", "message"),
    [("2", "2", "RANK=2 and WORLD_SIZE=2 do not fit"), ("x", "2", "RANK is 'x', not a number")],
)
def test_an_environment_that_makes_no_sense_is_told(
    draw: Any, monkeypatch: pytest.MonkeyPatch, rank: str, count: str, message: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    result = draw("out")
    assert (result.code, message in result.err, Path("out").exists()) == (2, True, False)
    with pytest.raises(InputError, match=message):
        this_process()


def test_a_process_draws_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


def test_a_folder_is_drawn_into_by_one_process(draw: Any) -> None:
    with Manifest("out"):
        result = draw("out")
        assert result.code == 1
        assert "Another process is drawing into out; wait until it ends" in result.err
        with Manifest("out", "00001") as other:  # shares the work
            other.add({"file": "x.png"})
    assert draw("out").code == 0


def test_a_manifest_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "out" / "manifest.jsonl").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"manifest\.jsonl cannot be read and written"):
        Manifest(tmp_path / "out").__enter__()


def test_lines_of_others_are_no_pictures() -> None:
    wrong: list[Any] = [{}, {"settings": [], "number": 1}, [], 3]
    with Manifest("out") as manifest:
        for record in wrong:
            manifest.add(record)
    with Path("out/manifest.jsonl").open("ab") as file:
        file.write(b'\xff\n{"file": "../prompts.txt"\n')
    assert Manifest("out").known() == {}


def test_a_prompt_that_is_refused_is_listed_and_the_others_are_drawn(
    draw: Any, drawn_now: list[Any]
) -> None:
    lines = ["a cat", "a nude cat", 5, "  ", "a dog"]
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in lines))
    words = ["--safety", "words", "--prompts", "prompts.jsonl"]
    result = draw("out", *words)
    assert (result.code, drawn_now) == (1, [0, 4])
    assert result.lines == ["out/000000-a-cat.png", "out/000004-a-dog.png"]
    assert result.err == "dallemini: 3 pictures were refused; the manifest in out says why.\n"
    told = {one["number"]: one for one in listed("out")}
    refused = {number: one["reason"] for number, one in told.items() if one["status"] == "refused"}
    assert "flagged" in refused[1]
    assert (refused[2], refused[3]) == ("There is no prompt.",) * 2
    assert (told[1]["prompt"], "file" in told[1], told[4]["status"]) == (
        "a nude cat",
        False,
        "drawn",
    )
    again = draw("out", *words, "--json")  # nobody is asked twice
    assert (again.code, again.out, len(listed("out"))) == (1, "", 5)
    assert "2 of 5 pictures were there already" in again.err
    assert (
        draw("out", "--prompts", "prompts.jsonl", "--safety", "off").err.count("were refused") == 1
    )


def test_a_prompt_that_no_tokenizer_reads_is_listed() -> None:
    pipe = tiny_pipeline()
    pipe.tokenizer.config = dataclasses.replace(pipe.tokenizer.config, normalize_text=False)
    units = split_units(pipe.config, enumerate(["half \ud800", "a cat"]), count=2)
    with Manifest("out") as manifest:
        lines = list(Bulk(pipe, pipe.config, manifest).draw(units))
    assert [line["status"] for line in lines] == ["refused", "drawn"]
    assert "is not valid Unicode" in lines[0]["reason"]


def test_a_picture_that_is_refused_is_found_among_those_it_was_drawn_with(
    draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second:
        def check_prompt(self, prompt: str) -> None: ...

        def check_image(self, image: Any) -> SafetyFlag | None:
            return SafetyFlag(action="refuse", reason="this") if image.tobytes() == second else None

    draw("all")
    with Image.open("all/000001-a-dog.png") as image:
        second = image.tobytes()
    monkeypatch.setattr("dallemini.cli.options.SafetyOptions.checker", lambda options: Second())
    result = draw("out")
    assert (result.code, len(result.lines), "1 picture was refused" in result.err) == (1, 4, True)
    (refused,) = [one for one in listed("out") if one["status"] == "refused"]
    assert (refused["number"], refused["prompt"]) == (1, "a dog")
    assert "is not shown" in refused["reason"]


def test_a_refusal_does_not_end_the_other_processes(
    draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("prompts.txt").write_text("a nude cat\na dog\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    result = draw("out", "--safety", "words")
    assert (result.code, "1 picture was refused" in result.err) == (0, True)


@pytest.mark.slow
def test_a_thousand_files_make_a_folder(draw: Any, tiny: Path, drawn_now: list[Any]) -> None:
    Path("prompts.txt").write_text("a cat\n" * 1001)
    digest = settings_digest(Pipeline.from_pretrained(tiny), GenerationConfig())
    with Manifest("out") as manifest:
        Path("out/all.png").touch()
        places = enumerate(["a cat"] * 1001)
        for unit in split_units(GenerationConfig(), places, count=1001):
            for settings, number, prompt, seed in unit.keys(digest):
                record: dict[str, Any] = {"settings": settings, "number": number, "prompt": prompt}
                if number not in (999, 1000):
                    manifest.add(record | {"first_seed": seed, "file": "all.png"})
    result = draw("out", "--json")
    assert result.err == "dallemini: 999 of 1001 pictures were there already.\n"
    files = ["out/000999-a-cat.png", "out/0001/001000-a-cat.png"]
    assert [json.loads(line)["path"] for line in result.lines] == files
    assert drawn_now == [999, 1000]


def test_what_changes_pictures_changes_the_settings() -> None:
    pipe, plain = tiny_pipeline(), GenerationConfig()
    digest = settings_digest(pipe, plain)
    same = [plain.override(seed=3), plain.override(batch_size=2, num_images_per_prompt=9)]
    assert {settings_digest(pipe, config) for config in same} == {digest}
    others = [
        settings_digest(pipe, plain.override(top_k=3)),
        settings_digest(pipe, plain.override(rank=True)),
        settings_digest(pipe, plain.override(rank=True, num_images_per_prompt=9)),
        settings_digest(pipe, plain, Watermark("mine")),
        settings_digest(pipe, plain, Watermark(b"mine", strength=2)),
        settings_digest(tiny_pipeline(seed=1), plain),
        settings_digest(tiny_pipeline().quantize(), plain),
    ]
    assert len({digest, *others}) == 8
