"""Scores by labels against formulas over all samples at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluated import Batch, batches, of_float, own, same, session, shifted

from ptq.errors import DataError, OptionError
from ptq.evaluate import Score, check_metrics, evaluate


def test_rank_of_the_label_among_classes() -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(40, 12)).astype(np.float32), rng.integers(0, 12, 40)
    found = evaluate(same(), shifted(rng.normal(size=12)), batches(x, labels, [7, 30]))
    ranks = (x > x[np.arange(40), labels][:, None]).sum(1)
    assert of_float(found, "top-5") == (ranks < 5).mean()
    assert of_float(found, "top-1") == (ranks == 0).mean()


def test_f1_is_the_mean_over_classes() -> None:
    """Of classes that are a label or a decision: class 3 is neither."""
    x = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 1, 0]]
    labels = np.array([0, 1, 1, 2, 0, 2])
    found = evaluate(same(), same(), batches(x, labels, [2]))
    expected = (2 * 1 / (2 + 3) + 2 * 1 / (2 + 2) + 2 * 1 / (2 + 1)) / 3
    assert own(found, "f1") == pytest.approx(expected)


def test_numbers_have_errors() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 3)).astype(np.float32), rng.normal(size=(9, 3))
    found = evaluate(same(), shifted(0.25), batches(x, y, [4]))
    assert found.labelled == 9
    assert of_float(found, "rmse") == pytest.approx(np.sqrt(((x - y) ** 2).mean()))
    assert own(found, "mae") == pytest.approx(np.abs(x + np.float32(0.25) - y).mean())
    assert own(found, "top-1") is None


def test_one_number_a_sample_may_be_labelled_without_its_axis() -> None:
    x = np.array([[1], [2]], np.float32)
    found = evaluate(same(), shifted(1.0), [Batch({"x": x}, np.array([1.0, 4.0]))])
    assert (of_float(found, "rmse"), own(found, "rmse")) == (pytest.approx(np.sqrt(2)), pytest.approx(1))


def test_divergence_is_that_of_the_classes() -> None:
    x = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    by = np.array([0.5, 0, -1])
    found = evaluate(same(), shifted(by), batches(x, None, [2]))
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (x.astype(float), x + by))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert found.kl == pytest.approx(expected, rel=1e-5)
    chances = evaluate(same(), session("Mul", np.ones(1)), batches(p.astype(np.float32), None, [2]))
    assert chances.kl == 0


def test_perplexity_of_chances_is_that_of_logits() -> None:
    logits = np.random.default_rng(6).normal(size=(2, 5, 4)).astype(np.float32)
    chances = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    labels = np.random.default_rng(7).integers(0, 4, (2, 5))
    shape = ("n", "length", "c")
    found = [evaluate(same(shape), same(shape), [Batch({"x": x}, labels)]) for x in (logits, chances)]
    assert own(found[0], "perplexity") == pytest.approx(own(found[1], "perplexity"), rel=1e-5)


class TestMetricsByName:
    def test_what_is_wanted_decides(self) -> None:
        x = np.eye(3, dtype=np.float32)
        found = evaluate(same(), same(), [Batch({"x": x}, np.arange(3))], ["f1"])
        assert found.scores == (Score("f1", 1.0, 1.0),)

    def test_one_that_is_not_for_such_labels(self) -> None:
        x = np.eye(3, dtype=np.float32)
        with pytest.raises(DataError, match="--metric rmse is not for labels that are classes of samples; give top-1"):
            evaluate(same(), same(), [Batch({"x": x}, np.arange(3))], ["rmse"])

    def test_a_function_has_all_samples(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "scores.py").write_text(
            "def second(outputs, labels):\n"
            "    return (outputs[:, 1] == labels).mean()\n\n"
            "def error(outputs, labels):\n"
            "    return abs(outputs.argmax(1) - labels).max()\n\n"
            "error.greater_is_better = False\n"
            "def bad(outputs, labels):\n"
            "    return outputs.missing\n"
        )
        monkeypatch.chdir(tmp_path)
        x = np.eye(3, dtype=np.float32)
        names = ["scores:second", "scores:error"]
        found = evaluate(same(), shifted([0, 0, 9]), batches(x, np.array([0, 1, 1]), [1]), names)
        assert found.scores == (
            Score("scores:second", 2 / 3, 2 / 3, "more"),
            Score("scores:error", 1.0, 2.0, "less"),
        )
        with pytest.raises(OptionError, match=r"scores:bad fails .AttributeError: .*; it is called with outputs"):
            evaluate(same(), same(), batches(x, np.arange(3), []), ["scores:bad"])

    @pytest.mark.parametrize(
        ("name", "said"),
        [("top1", "did you mean 'top-1'"), ("no_such:thing", "no_such cannot be imported")],
    )
    def test_a_name_that_is_none(self, name: str, said: str) -> None:
        with pytest.raises(OptionError, match=said):
            check_metrics([name])
