"""Configurations: strict JSON in, the same values out, and what they refuse."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from dallemini.config import Config, read_json, read_yaml, suggest
from dallemini.errors import ConfigError, MissingFileError
from fuzzing import ruled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(Config):
    """One field of every kind that the package uses."""

    layers: int
    rate: float = 0.5
    name: str = "tiny"
    flag: bool = False
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    weights: tuple[float, ...] = (0.0,)
    seed: int | tuple[int, ...] | None = None
    kind: Literal["small", "large"] = "small"
    size: int | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        self.check_types()


EXAMPLE = Example(layers=3, rate=0.25, sizes=(4,), seed=(5, 6), kind="large", size=None)


def test_json_round_trip_is_identity(tmp_path: Path) -> None:
    EXAMPLE.save(tmp_path / "config.json")
    assert Example.from_file(tmp_path / "config.json") == EXAMPLE
    assert Example.from_dict(json.loads(json.dumps(EXAMPLE.to_dict()))) == EXAMPLE


def test_absent_fields_take_their_defaults() -> None:
    assert Example.from_dict({"layers": 1}) == Example(layers=1)


def test_lists_become_tuples() -> None:
    config = Example.from_dict({"layers": 1, "sizes": [7, 8], "seed": [1]})
    assert (config.sizes, config.seed) == ((7, 8), (1,))


@pytest.mark.parametrize("size", [3, "auto", None])
def test_a_number_a_word_or_none_stays_what_it_is(size: Any) -> None:
    config = Example.from_dict({"layers": 1, "size": size})
    assert config.size == size
    assert Example.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_whole_numbers_become_floats() -> None:
    rate = Example.from_dict({"layers": 1, "rate": 2}).rate
    assert isinstance(rate, float)
    assert rate == 2.0


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        EXAMPLE.layers = 4  # type: ignore[misc]


def test_fields_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        Example(3)  # type: ignore[call-arg]


def test_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"Example has no field 'layer'\. Did you mean 'layers'\?"
    ):
        Example.from_dict({"layer": 3})


def test_unknown_key_far_from_all_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no field 'zzz'\. Known: flag, kind, layers,"):
        Example.from_dict({"layers": 3, "zzz": 3})


def test_a_key_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="Example has no field 3"):
        Example.from_dict({3: "three"})  # type: ignore[dict-item]


def test_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="Example needs the field 'layers', which is missing"):
        Example.from_dict({})


@pytest.mark.parametrize("values", [None, [], "layers", 3, [("layers", 3)]])
def test_only_an_object_makes_a_configuration(values: Any) -> None:
    with pytest.raises(ConfigError, match="Example is made from a JSON object, not "):
        Example.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("layers", 1.5, "int"),
        ("layers", True, "int"),
        ("layers", "3", "int"),
        ("layers", None, "int"),
        ("layers", [3], "int"),
        ("rate", "0.5", "float"),
        ("rate", True, "float"),
        ("rate", None, "float"),
        ("name", 3, "str"),
        ("name", b"tiny", "str"),
        ("flag", 1, "bool"),
        ("flag", "yes", "bool"),
        ("limit", 1.0, "int | None"),
        ("sizes", 3, "tuple"),
        ("sizes", [1, "2"], "tuple"),
        ("sizes", [True], "tuple"),
        ("sizes", {1: 2}, "tuple"),
        ("seed", [1.5], "int | tuple"),
        ("seed", [None], "int | tuple"),
        ("kind", "medium", "one of 'small', 'large'"),
        ("size", "none", r"int \| 'auto' \| None"),
        ("size", 2.5, r"int \| 'auto' \| None"),
        ("size", True, r"int \| 'auto' \| None"),
    ],
)
def test_wrong_type_names_field_type_and_value(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"Example\.{field} must be .*{wanted}") as caught:
        Example.from_dict({"layers": 3, field: value})
    assert repr(value) in str(caught.value)
    with pytest.raises(ConfigError, match=rf"Example\.{field} must be"):
        Example(**{"layers": 3, field: value})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file .*config\.json"):
        Example.from_file(tmp_path / "config.json")


@pytest.mark.parametrize("content", [b"{", b"{'layers': 3}", b"\xff\xfe", b'{"layers": 3'])
def test_broken_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON .*download or write"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"layers"'])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json must hold a JSON object, not "):
        read_json(tmp_path / "config.json")


def test_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"layer": 3}')
    with pytest.raises(ConfigError, match=r"config\.json: Example has no field 'layer'"):
        Example.from_file(tmp_path / "config.json")


def test_nan_is_kept_for_the_configuration_to_judge() -> None:
    assert math.isnan(Example.from_dict({"layers": 1, "rate": float("nan")}).rate)


def test_suggest_says_nothing_about_nothing() -> None:
    assert suggest("name", []) == ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Config):
    """A configuration that holds others."""

    inner: Example = EXAMPLE
    maybe: Example | None = None

    def __post_init__(self) -> None:
        self.check_types()


def test_nested_configurations_survive_the_round_trip(tmp_path: Path) -> None:
    outer = Outer(maybe=Example(layers=2))
    outer.save(tmp_path / "config.json")
    assert Outer.from_file(tmp_path / "config.json") == outer


def test_a_mistake_in_a_nested_configuration_is_located() -> None:
    with pytest.raises(ConfigError, match=r"Outer\.inner: Example has no field 'layer'.*'layers'"):
        Outer.from_dict({"inner": {"layer": 1}})


def test_yaml_gives_the_same_as_json(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("inner:\n  layers: 3\n  rate: 2e-3  # as everybody writes it\n  sizes: [7]\n")
    assert Outer.from_file(path).inner == Example(layers=3, rate=0.002, sizes=(7,))


def test_an_empty_yaml_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text("# nothing yet\n")
    assert Outer.from_file(tmp_path / "run.yml") == Outer()


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "a: !!python/object:os.system {}"])
def test_yaml_that_holds_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        read_yaml(path)


# Hostile files


def nested_aliases(levels: int, merge: bool = False) -> str:
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [x]"]
    for level in range(1, levels):
        several = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(
            f"a{level}: &a{level} " + (f"{{<<: [{several}]}}" if merge else f"[{several}]")
        )
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested_aliases(12), "its aliases stand for too many values"),
        (nested_aliases(12, merge=True), "its aliases stand for too many values"),
        ("a: &a [*a]", "its aliases stand for too many values"),
        ("[" * 2_000, "it is nested too deeply"),
        ("a: 2001-99-99", "month must be in"),
        (f"a: {'7' * 5000}", "a number has too many digits"),
        ("a: !!int ''", "string index"),
        ("a: !!bool maybe", "maybe"),
        ("a: !!timestamp never", "NoneType"),
        (f"a: {':'.join(['1'] * 300)}.5", "too large"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_yaml_that_fails_anywhere_is_refused_in_a_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=rf"not valid YAML \(.*{message}.*\); correct it"
    ) as caught:
        read_yaml(tmp_path / "run.yaml")
    assert len(str(caught.value)) < 1000


def test_yaml_aliases_and_merges_of_people_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(tmp_path / "run.yaml")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "a number has too many digits"),
        (" " * (9 << 20), "has 9437184 bytes, but such a file has at most"),
    ],
)
def test_json_without_measure_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "values",
    [
        {"layers": "x" * 10**6},
        {"layers": [[["deep"] * 100] * 100] * 100},
        {"x" * 10**6: 1},
        {"layers": 1, "sizes": ["x" * 10**6]},
        {"layers": 1 << 10**6, "rate": "no"},
    ],
)
def test_message_stays_short_whatever_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_dict(values)
    assert len(str(caught.value)) < 1000


def test_whole_numbers_in_lists_of_numbers_become_floats_or_are_too_large() -> None:
    assert Example(layers=1, weights=(0, 1)).weights == (0.0, 1.0)
    assert all(isinstance(entry, float) for entry in Example(layers=1, weights=(0, 1)).weights)
    with pytest.raises(ConfigError, match="weights is too large for a number"):
        Example.from_dict({"layers": 1, "weights": [0, 10**400]})


def test_no_setting_fails_on_an_endless_number_in_another_way() -> None:
    kinds: list[Any] = parts_of_the_package(Config)
    assert len(kinds) > 9
    with ruled():
        for kind in kinds:
            for field in dataclasses.fields(kind):
                if "int" in str(field.type) or "float" in str(field.type):
                    with contextlib.suppress(ConfigError):
                        kind.from_dict({field.name: 10**400})


def parts_of_the_package(base: type) -> list[type]:
    """Return the subclasses of a class in this library, all of which are imported."""
    for name in ("models.upscaler", "models.lora", "models.dvae", "data", "generation", "scorer"):
        importlib.import_module(f"dallemini.{name}")
    found, waiting = [], [base]
    while waiting:
        below: list[type] = waiting.pop().__subclasses__()
        found += [kind for kind in below if kind.__module__.startswith("dallemini.")]
        waiting += below
    return found


def test_a_yaml_of_digits_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {'1' * 100_000}x")
    with ruled():
        assert read_yaml(path)["a"].endswith("1x")
