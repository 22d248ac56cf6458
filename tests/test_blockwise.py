"""Calibration block by block finds what calibration of the whole finds, and leaves nothing on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from odd_graphs import ODD
from random_graphs import GRAPHS, SAMPLES, Drawn

import ptq
from calibration.batch import Batch
from calibration.observers import Moment
from ptq.cache import Store, held
from ptq.errors import CacheError, ModelError
from ptq.lowering import observable
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline import parts as cutting
from ptq.pipeline.blockwise import Blockwise, KeptMoments, Passed
from ptq.pipeline.boundary import Boundary
from ptq.pipeline.calibrate import Statistics, calibrate, keys
from ptq.pipeline.memory import check_moments, needed_bytes
from ptq.pipeline.parts import BLOCK_BYTES, Wanted, block_bytes, parts
from ptq.pipeline.ready import executions_of
from ptq.pipeline.smooth import Smoothings, blocks_read, smoothable, smoothing
from ptq.pipeline.stages import Advance, Stages
from ptq.recipe import Recipe

Feeds = Mapping[str, np.ndarray]


def wanted(model: Model) -> Wanted:
    """As much as can be wanted of a model; means of every second site of one use."""
    sites = [site for site in model.sites if site.products]
    means = [site for site in sites if len(site.uses) == 1][::2]
    moments = [site for site in sites if site not in means]
    return Wanted(moments, means, observable(model.graph.graph, {u.node for site in sites for u in site.products}))


class Calibrated:
    """Counts the blocks that are calibrated, and may fail at one."""

    def __init__(self, rule: str = "minmax", reserved: int = 0, fails_at: int | None = None) -> None:
        self.rule, self.reserved, self.fails_at, self.seen = rule, reserved, fails_at, list[list[str]]()

    def __call__(
        self, block: Model, here: Wanted, batches: Iterable[Batch], advance: Advance, passed: Passed
    ) -> Statistics:
        if len(self.seen) == self.fails_at:
            raise KeyboardInterrupt
        self.seen.append([node.op_type for node in block.graph.graph])
        return calibrate(
            block,
            here.moments,
            here.ranges,
            self.rule,
            batches,
            advance,
            reserved=self.reserved,
            averaged=here.means,
            passed=passed,
        )


def blockwise(model: Model, batches: list[Feeds], store: Store, how: Calibrated, most: int = 0) -> Statistics:
    found = parts(model, wanted(model), most, apart=how.reserved > 0)
    return Blockwise(found, how, store, ()).statistics(lambda: map(Batch, batches), len(batches), Stages())


def compare(found: Statistics, expected: Statistics, *, exactly: bool = True) -> None:
    assert found.ranges.keys() == expected.ranges.keys()
    assert found.means.keys() == expected.means.keys()
    for name, seen in expected.ranges.items():
        got = found.ranges[name]
        np.testing.assert_allclose((got.low, got.high), (seen.low, seen.high), rtol=0 if exactly else 1e-4, atol=1e-5)
    for name, mean in expected.means.items():
        np.testing.assert_allclose(found.means[name], mean, rtol=1e-5, atol=1e-5)
    for got, known in ((found.moments, expected.moments), (found.apart, expected.apart)):
        assert got.keys() == known.keys()
        for name, moment in known.items():
            size = float(moment.gram.abs().max())
            assert got[name].count == moment.count
            np.testing.assert_allclose(got[name].gram, moment.gram, rtol=1e-5, atol=1e-6 * size + 1e-9)


def check(model: Model, batches: list[Feeds], folder: Path, how: Calibrated) -> None:
    at_once = Calibrated(how.rule, how.reserved)
    whole = blockwise(model, batches, Store(folder / "whole", 0), at_once, most=BLOCK_BYTES)
    assert len(at_once.seen) == 1
    found = blockwise(model, batches, Store(folder / "blocks", 0), how)
    compare(found, whole, exactly=how.rule == "minmax")
    assert not [*(folder / "blocks").glob("*.unfinished")]


def of(proto: onnx.ModelProto) -> Model:
    return Model.of(capture(proto, CaptureOptions(), None))


def normal(model: Model, sizes: tuple[int, ...] = (4, 4, 2)) -> list[Feeds]:
    rng = np.random.default_rng(0)

    def array(shape: tuple[int | str | None, ...], kind: str, count: int) -> np.ndarray:
        whole = [count, *(size if isinstance(size, int) else 5 for size in shape[1:])]
        return rng.integers(0, 9, whole) if kind == "int64" else rng.standard_normal(whole).astype(kind)

    return [{s.name: array(s.shape or (None, 4), s.dtype, count) for s in model.inputs} for count in sizes]


@pytest.mark.parametrize("rule", ["minmax", "percentile"])
@pytest.mark.parametrize(("network", "least"), [(graphs.residual, 6), (graphs.gates, 6), (graphs.attention, 11)])
def test_blocks_find_what_the_whole_finds(
    tmp_path: Path, network: Callable[[], onnx.ModelProto], rule: str, least: int
) -> None:
    model, how = of(network()), Calibrated(rule, reserved=3)
    check(model, normal(model), tmp_path, how)
    assert len(how.seen) >= least
    ran = [op for ops in how.seen for op in ops]
    assert len(ran) <= len(model.graph.graph)


@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_are_cut_where_that_is_possible(tmp_path: Path, name: str) -> None:
    model = of(ODD[name]())
    check(model, normal(model), tmp_path, Calibrated())


@pytest.mark.parametrize("count", [pytest.param(8, id="few"), pytest.param(300, id="many", marks=pytest.mark.slow)])
def test_drawn_graphs(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    def examined(drawn: Drawn) -> None:
        model, step = of(drawn.model), drawn.batch or 4
        batches = [{name: array[k : k + step] for name, array in drawn.feeds.items()} for k in range(0, SAMPLES, step)]
        if wanted(model):
            check(model, batches, tmp_path_factory.mktemp("drawn"), Calibrated(reserved=3))

    settled = settings(max_examples=count, derandomize=True, database=None, deadline=None)
    settled(given(GRAPHS)(examined))()


@pytest.fixture
def model() -> Model:
    return of(graphs.residual())


def test_a_killed_run_goes_on_at_its_block(tmp_path: Path, model: Model) -> None:
    whole, batches, store = Calibrated(), normal(model), Store(tmp_path / "blocks", 0)
    expected = blockwise(model, batches, Store(tmp_path / "once", 0), whole)
    with pytest.raises(KeyboardInterrupt):
        blockwise(model, batches, store, Calibrated(fails_at=2))
    assert not [*store.folder.glob("*.unfinished")]
    for seen in (whole.seen[2:], []):
        again = Calibrated()
        compare(blockwise(model, batches, Store(store.folder, 0), again), expected)
        assert again.seen == seen


def test_what_is_lost_of_a_block_is_made_again(tmp_path: Path, model: Model) -> None:
    batches, store = normal(model), Store(tmp_path, 0)
    expected = blockwise(model, batches, store, Calibrated())
    expected = replace(expected, moments=dict(expected.moments))
    lost = [each.path for each in store.entries() if each.kind == "moment"]
    lost[0].unlink()
    lost[1].write_bytes(lost[1].read_bytes()[:-8])
    again = Calibrated()
    compare(blockwise(model, batches, Store(tmp_path, 0), again), expected)
    assert len(again.seen) == 2


def test_a_full_disk_is_one_line(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\); free space, run ptq cache"):
        blockwise(model, normal(model), Store(tmp_path, 0), Calibrated())
    assert not [*tmp_path.glob("*.unfinished")]


def test_what_a_killed_run_left_goes_with_the_cache(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    left = tmp_path / "x.unfinished"
    left.mkdir()
    (left / "a.npy").write_bytes(b"much")
    store.trim()
    assert left.exists()  # it may be of a run that has just begun
    os.utime(left, (0, 0))
    with held(None, tmp_path), store.scratch() as scratch:
        Store(tmp_path, 0).trim()
        assert scratch.folder.exists()
    assert not left.exists()


def test_tensors_are_on_disk_from_where_they_are_made_to_their_last_use(tmp_path: Path, model: Model) -> None:
    store, most = Store(tmp_path, 0), list[int]()

    class Watching(Calibrated):
        def __call__(self, *arguments: Any) -> Statistics:
            found = super().__call__(*arguments)
            most.append(len([*tmp_path.glob("*.unfinished/*")]))
            return found

    batches = normal(model)
    blockwise(model, batches, store, Watching())
    assert most == [len(batches) * crossing for crossing in (1, 1, 2, 1, 1, 0)]


def test_memory_is_asked_for_one_block(model: Model) -> None:
    found = parts(model, wanted(model), 0, apart=False)
    largest = max(needed_bytes({s.name: keys(s) for s in p.wanted.moments}, apart=False) for p in found)
    check_moments(found, largest, apart=False)
    with pytest.raises(ModelError, match="does not fit into memory"):
        check_moments(found, largest - 1, apart=False)


@pytest.mark.parametrize(
    ("free", "expected"), [(None, 1 << 30), (1 << 40, 1 << 30), (5 << 30, 1 << 30), (3 << 30, 1 << 29), (0, 0)]
)
def test_blocks_are_smaller_where_memory_is_scarce(free: int | None, expected: int) -> None:
    assert block_bytes(free) == expected


def test_the_network_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphs.residual()
    samples = {"x": np.random.default_rng(0).standard_normal((12, 3, 12, 12)).astype(np.float32)}
    whole = ptq.quantize(model, samples, method="gptq").report
    monkeypatch.setattr(cutting, "BLOCK_BYTES", 0)
    blocks = ptq.quantize(model, samples, method="gptq").report
    for one, other in zip(whole.layers, blocks.layers, strict=True):
        assert one.output_sqnr_db == pytest.approx(other.output_sqnr_db, abs=0.01)


def test_a_moment_is_read_where_its_layer_is_rounded_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    read, load = list[str](), KeptMoments.__getitem__

    def counted(moments: KeptMoments, site: str) -> Moment:
        read.append(site)
        return load(moments, site)

    monkeypatch.setattr(KeptMoments, "__getitem__", counted)
    samples = {"x": np.random.default_rng(0).standard_normal((12, 3, 12, 12)).astype(np.float32)}
    report = ptq.quantize(graphs.residual(), samples, method="gptq").report
    assert sorted(read) == sorted(layer.site for layer in report.layers)


def test_inputs_are_smoothed_by_blocks_as_of_the_whole(tmp_path: Path) -> None:
    model = of(graphs.attention())
    plan = Recipe.of({"method": "rtn", "weights": "int8"}).plan(model.sites, has_data=True)
    readers = smoothable(model, executions_of(model, plan))
    found, batches = list[Smoothings](), normal(model)
    for most in (BLOCK_BYTES, 0):
        blocks = blocks_read(model, readers, most)
        assert (len(blocks) > 1) is (most == 0)
        with Store(tmp_path, 0).scratch() as scratch:
            found.append(smoothing(model, plan, readers, blocks, Boundary(scratch, lambda: map(Batch, batches))))
    whole, by_blocks = found
    assert whole.uneven == by_blocks.uneven
    assert whole.chosen.keys() == by_blocks.chosen.keys()
    assert whole.chosen
    for name, each in whole.chosen.items():
        np.testing.assert_allclose(by_blocks.chosen[name].scale, each.scale, rtol=1e-5)
