"""Recipes in files: what is wrong is said in one line, and what is given besides goes over them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_folder import Folder, filled

import ptq
from cli.main import commands
from ptq import presets
from ptq.errors import OptionError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.recipe import Recipe, Rule, chosen

ROOT = Path(__file__).parents[1]
RULE = "[[layers]]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


def written(folder: Folder, text: str) -> Path:
    path = folder.path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Folder, text: str, *, has_data: bool = True, **options: Any) -> str:
    """What is said of a recipe by itself, or else of it and the model."""
    model = Model.of(capture(folder.model, CaptureOptions(), None))
    with pytest.raises(OptionError) as error:
        chosen(written(folder, text), options).plan(model.sites, has_data=has_data)
    said = str(error.value)
    assert "\n" not in said
    assert "; " in said
    return said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights = int4", ["mine.toml is no TOML", "line 1"]),
        (f"bits = 1{'0' * 5000}", ["mine.toml is no TOML", "4300 digits"]),
        (f"layers = {'[' * 5000}", ["mine.toml is no TOML", "recursion"]),
        ('wieghts = "int4"', ["mine.toml: unknown option 'wieghts'; did you mean 'weights'?"]),
        ('first-last = "int8"', ["unknown option 'first-last'; did you mean 'first_last'?"]),
        ('method = "gtpq"', ["mine.toml: unknown --method 'gtpq'; did you mean 'gptq'?"]),
        ('weights = "int44"', ["mine.toml: ", "'int44'", "did you mean 'int4'?"]),
        ('bits = "4.4"', ["mine.toml: bits = '4.4' has the wrong type; give a number"]),
        ("bits = true", ["bits = True has the wrong type"]),
        ("points = 2.0", ["points = 2.0 has the wrong type; give a whole number"]),
        ("portable = 1", ["portable = 1 has the wrong type; give true or false"]),
        ("weights = 4", ["weights = 4 has the wrong type; give text"]),
        ("group = true", ["group = True has the wrong type"]),
        ("group = 48", ["unknown --group '48'"]),
        ("keep_float = [3]", ["keep_float = [3] has the wrong type; give texts"]),
        ('keep_float = "("', ["--keep-float '(' is no regular expression"]),
        ('steps = ["smoothqant"]', ["mine.toml: unknown --step 'smoothqant'"]),
        ('method = "rtn"\npoints = 2', ["--points is read by --method multipoint, not by --method rtn; leave it out"]),
        ("bits = 4.4\npoints = 2", ["--bits and --points both say"]),
        ("description = 3", ["mine.toml: description = 3 has the wrong type"]),
        ("layers = 3", ["mine.toml: layers is a list of tables", "[[layers]]"]),
        ('[layers]\nmatch = "one"', ["layers is a list of tables"]),
        (f'{RULE}match = "one"\n', ["mine.toml: rule 1 (match 'one') changes nothing"]),
        (f'{RULE}weights = "int8"\n', ["mine.toml: rule 1 says of no layer; give match, op, first or last"]),
        (f'{RULE}match = "one"\nwieghts = "int8"', ["mine.toml: rule 1 (match 'one')", "did you mean 'weights'?"]),
        (f'{RULE}op = "Convv"\nweights = "int8"', ["rule 1 (op 'Convv'): unknown op 'Convv'; did you mean 'Conv'?"]),
        (f'{RULE}match = "("\nweights = "int8"', ["rule 1 (match '(') is no regular expression", "escape it"]),
        (f'{RULE}match = 1\nweights = "int8"', ["rule 1: match = 1 has the wrong type"]),
        (f'{RULE}first = "yes"\nweights = "int8"', ["rule 1: first = 'yes' has the wrong type"]),
        (f"{RULE}first = true\nweights = 8", ["rule 1 (first): weights = 8 has the wrong type"]),
        (f'{RULE}match = "one"\nbits = 4.4', ["rule 1 (match 'one'): bits is for all layers together"]),
        (f'{RULE}match = "one"\ntarget = "cuda"', ["rule 1 (match 'one'): target is nothing that a rule has"]),
        (f'{RULE}match = "one"\nkeep_float = true\npoints = 2', ["keep_float leaves nothing for points to say"]),
        (f'{RULE}match = "one"\npoints = 3', ["rule 1 (match 'one'): --points 3 of int4 is not between 1 and 2"]),
        (f'{RULE}match = "one"\nmethod = "gtpq"', ["rule 1 (match 'one'): unknown --method 'gtpq'"]),
        (f'{RULE}match = "one"\nmethod = "rtn"\npoints = 1', ["rule 1 (match 'one'): --points is read by"]),
        (f'{RULE}match = "one"\nmethod = "rtn"\nweights = "nf4"', ["rule 1 (match 'one'): --activations uint8"]),
        (f'{RULE}op = "Gather"\nweights = "int44"', ["rule 1 (op 'Gather'): unknown format 'int44'"]),
        (
            f'{RULE}match = "four"\npoints = 1\n{RULE}match = "one"\npoints = 1',
            ["mine.toml: rule 1 (match 'four') matches no layer; the layers are one, two, three"],
        ),
        (
            f'{RULE}match = "one"\npoints = 1\n{RULE}op = "Conv"\nweights = "int3"',
            ["mine.toml: rule 1 (match 'one') decides nothing: mine.toml: rule 2 (op 'Conv') matches the same layers"],
        ),
        (
            f'first_last = "int8"\n{RULE}op = "Conv"\npoints = 1\n{RULE}last = true\npoints = 1',
            ["--first-last int8 decides nothing: mine.toml: rule 1 (op 'Conv') or mine.toml: rule 2 (last) matches"],
        ),
        (f'{RULE}match = "."\nkeep_float = true', ["every layer stays in float, the first as kept in float by mine"]),
        (
            f'activations = "fp8_e4m3fn"\n{RULE}match = "one"\nactivations = "uint8"',
            ["mine.toml: rule 1 (match 'one'): activations uint8, where other layers have fp8_e4m3fn"],
        ),
        ('embeddings = "int4"', ["--embeddings int4: the model has no embedding table"]),
    ],
)
def test_what_is_wrong_in_a_file(folder: Folder, text: str, words: list[str]) -> None:
    said = refusal(folder, text)
    for word in words:
        assert word in said


def test_what_needs_data_that_is_not_there(folder: Folder) -> None:
    text = f'method = "rtn"\n{RULE}match = "two"\nmethod = "gptq"'
    assert "mine.toml: rule 1 (match 'two'): --method gptq needs calibration" in refusal(folder, text, has_data=False)
    text = f'method = "rtn"\n{RULE}match = "two"\nactivations = "uint8"'
    assert "rule 1 (match 'two'): --activations uint8 needs calibr" in refusal(folder, text, has_data=False)


def test_a_wrong_option_besides_a_file_names_both(folder: Folder) -> None:
    said = refusal(folder, "bits = 4.4", method="rtn")
    assert said.startswith("mine.toml with the options given: --bits is read by --method mixed, --method multipoint")
    assert "unknown option 'bitss'; did you mean 'bits'?" in refusal(folder, "bits = 4.4", bitss=4)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("in4", "unknown --recipe 'in4'; did you mean 'int4'?"),
        ("no/such", "no/such: No such file or directory; give a file of TOML, or a name of `ptq recipes`"),
        ("no.toml", "no.toml: No such file or directory"),
        (Path("int4"), "int4: No such file or directory"),
        (Path(__file__).parent, "Is a directory"),
    ],
)
def test_a_recipe_that_is_not_there(recipe: str | Path, words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as error:
        chosen(recipe, {})
    assert words in str(error.value)


def test_bytes_that_are_no_text(folder: Folder) -> None:
    path = folder.path / "mine.toml"
    path.write_bytes(b"weights = '\xff'")
    with pytest.raises(OptionError, match=r"mine\.toml is no text in UTF-8"):
        chosen(path, {})


def test_an_error_of_the_command_is_one_line_and_leaves_nothing(folder: Folder) -> None:
    path = written(folder, 'wieghts = "int4"')
    before = folder.names()
    run = CliRunner().invoke(commands, ["quantize", str(folder.model), "--recipe", str(path)])
    assert isinstance(run.exception, OptionError)
    assert run.exception.exit_code == 2
    assert folder.names() == before


def test_options_go_over_those_of_a_file(folder: Folder) -> None:
    path = written(folder, f'weights = "int3"\nbits = 3.5\nkeep_float = ["two"]\n{RULE}match = "one"\nweights = "int8"')
    assert chosen(path, {}) == chosen(path, {"weights": "int3"})
    changed = chosen(path, {"weights": "int4", "bits": 4.5, "keep_float": "three"})
    assert (changed.weights, changed.bits, changed.keep_float) == ("int4", 4.5, ("three",))
    assert changed.layers == chosen(path, {}).layers
    assert chosen(path, {"layers": [{"op": "Gemm", "points": 1}]}).layers == (Rule(op="Gemm", options={"points": 1}),)
    assert chosen(tomllib.loads(path.read_text()), {}) == chosen(path, {}) == chosen(chosen(path, {}), {})


def test_a_number_says_how_large_groups_are(folder: Folder) -> None:
    assert chosen(written(folder, 'method = "rtn"\ngroup = 32'), {}).group == "32"
    rule = chosen({"method": "rtn", "layers": [{"match": "a", "group": 32}]}, {})
    assert rule.at(rule.layers[0], has_data=True).group == "32"


def test_only_what_was_given_on_the_command_line_goes_over_a_file(folder: Folder) -> None:
    path = written(folder, 'method = "rtn"\nweights = "int6"\nembeddings = "none"\nrange = "percentile"')
    report = folder.path / "report.json"

    def options(*more: str) -> Mapping[str, Any]:
        arguments = ["quantize", folder.model, "--recipe", path, "--data", folder.data, "--dry-run", "--json", report]
        run = CliRunner().invoke(commands, [*map(str, arguments), "--overwrite", *more], catch_exceptions=False)
        assert run.exit_code == 0, run.output
        return dict(json.loads(report.read_text())["options"])

    plain = options()
    assert [plain[name] for name in ("method", "weights", "embeddings", "range")] == [
        "rtn",
        "int6",
        "none",
        "percentile",
    ]
    changed = options("--weights", "int4", "--range", "minmax")  # minmax is the default, and yet said
    assert {**plain, "weights": "int4", "range": "minmax"} == changed


def test_what_is_reported_is_a_recipe_that_does_the_same_again(folder: Folder) -> None:
    said = {"bits": 4.5, "keep_float": "three", "layers": [{"match": "one", "weights": "int8", "points": 1}]}
    first = ptq.quantize(folder.model, folder.data, recipe=said)
    again = ptq.quantize(folder.model, folder.data, recipe=first.report.options)
    assert first.content == again.content
    assert Recipe.of(first.report.options).as_options() == first.report.options
    (stored,) = [entry.value for entry in first.model.metadata_props if entry.key == "ptq.manifest"]
    assert json.loads(stored)["options"] == json.loads(json.dumps(first.report.options))


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_recipe_of_the_package_is_described(name: str) -> None:
    said = presets.options(name)
    assert said.pop("description")
    made = Recipe.of(said)
    assert made == chosen(name, {}) != Recipe()
    assert {key: made.as_options()[key] for key in said} == {**said, **({"group": "32"} if "group" in said else {})}


def test_recipes_are_listed_and_shown(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        run = CliRunner().invoke(commands, ["recipes", *arguments], catch_exceptions=False)
        assert run.exit_code == 0
        return run.output

    assert [line.split()[0] for line in said().splitlines()] == list(presets.NAMES)
    assert all(len(line) <= 110 for line in said().splitlines())
    listed = json.loads(said("--format", "json"))["recipes"]
    assert [entry["name"] for entry in listed] == list(presets.NAMES)
    for entry in listed:
        path = tmp_path / "copy.toml"
        path.write_text(said("show", entry["name"]))
        assert chosen(path, {}) == chosen(entry["name"], {}) == Recipe.of(entry["options"])
        assert json.loads(said("show", entry["name"], "--format", "json")) == entry
        assert json.loads(said("--format", "json", "show", entry["name"])) == entry
    with pytest.raises(OptionError, match="did you mean 'int8'"):
        CliRunner().invoke(commands, ["recipes", "show", "int9"], catch_exceptions=False)


def test_the_wheel_has_the_recipes() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ptq"]
    assert "presets/*.toml" in packaged
    assert {name for names in presets.CANDIDATES.values() for name in names} <= set(presets.NAMES)
    source = ROOT / "ptq" / "presets"
    if source.is_dir():  # not where CI tests the wheel
        assert {path.stem for path in source.glob("*.toml")} == set(presets.NAMES)
