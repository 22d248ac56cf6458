"""Evaluation against formulas over all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from evaluated import Batch, batches, of_float, own, same, session, shifted
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq.errors import DataError, ModelError
from ptq.evaluate import Accuracy, Score, evaluate, evaluate_all


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 22), max_size=4))
def test_figures_are_those_of_all_samples_at_once(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x, by = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    labels = rng.integers(0, 5, 23)
    found = evaluate(same(), shifted(by), batches(x, labels, cuts))
    a, b = x.astype(float), (x + by).astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (found.samples, found.labelled, found.nonfinite) == (23, 23, 0)
    assert of_float(found, "top-1") == (a.argmax(1) == labels).mean()
    assert own(found, "top-1") == (b.argmax(1) == labels).mean()
    assert found.agreement == (a.argmax(1) == b.argmax(1)).mean()
    assert found.sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=1e-9)
    assert found.cosine == pytest.approx(cosine.mean(), abs=1e-12)


def test_equal_outputs() -> None:
    x = np.eye(4, dtype=np.float32)
    x[3] = 0
    found = evaluate(same(), same(), [Batch({"x": x}, np.array([0, 1, 0, 0]))])
    scores = (Score("top-1", 0.75, 0.75), Score("f1", pytest.approx(0.6), pytest.approx(0.6), decides=False))
    assert found == Accuracy(4, 4, 1.0, None, 1.0, 0, positions=4, kl=0.0, scores=scores)


def test_lengths_may_differ_between_batches() -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(n, length, 3)).astype(np.float32) for n, length in ((2, 4), (3, 7))]
    shape = ("n", "length", "c")
    found = evaluate(same(shape), shifted(0.5, shape), [Batch({"x": x}, np.zeros(len(x), np.int64)) for x in data])
    power, noise = (sum((x.astype(float) ** p).sum() for x in data) if p else 0.25 * 87 for p in (2, 0))
    assert (found.samples, found.labelled, own(found, "top-1")) == (5, 0, None)
    assert found.agreement == 1.0
    assert found.sqnr_db == pytest.approx(10 * np.log10(power / noise), abs=1e-4)


def test_tokens_decide_one_by_one() -> None:
    rng = np.random.default_rng(1)
    x, by = rng.normal(size=(3, 6, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    labels = rng.integers(0, 4, (3, 6))
    labels[:, -1] = -100  # the last token has no next one
    shape = ("n", "length", "c")
    found = evaluate(same(shape), shifted(by, shape), batches(x, labels, [2]))
    a, b = x.astype(float), (x + by).astype(float)
    known = labels >= 0
    assert (found.samples, found.positions, found.labelled) == (3, 18, 15)
    assert found.agreement == (a.argmax(2) == b.argmax(2)).mean()
    assert of_float(found, "top-1") == (a.argmax(2) == labels)[known].mean()
    assert own(found, "top-1") == (b.argmax(2) == labels)[known].mean()
    for logits, perplexity in ((a, of_float(found, "perplexity")), (b, own(found, "perplexity"))):
        chances = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
        of_labels = np.take_along_axis(chances, labels.clip(0)[..., None], 2)[..., 0][known]
        assert perplexity == pytest.approx(np.prod(of_labels) ** (-1 / 15))


def test_pixels_decide_one_by_one() -> None:
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 5)).astype(np.float32)
    shape = ("n", "c", "h", "w")
    found = evaluate(same(shape), shifted(np.zeros((3, 1, 1)), shape), [Batch({"x": x}, x.argmax(1))])
    assert (found.samples, found.positions, found.labelled, own(found, "top-1"), found.agreement) == (
        2,
        40,
        40,
        1.0,
        1.0,
    )


def test_perplexity_beyond_all_numbers_is_none() -> None:
    x = np.zeros((1, 2, 2), np.float32)
    shape = ("n", "length", "c")
    found = evaluate(same(shape), shifted([0, 2e4], shape), [Batch({"x": x}, np.array([[0, 0]]))])
    assert (of_float(found, "perplexity"), own(found, "perplexity")) == (pytest.approx(2), None)


@pytest.mark.parametrize(
    ("labels", "said"), [([[0, 1, 0]], "2 positions has 3 labels"), ([[0, 5]], "label 5 is none of 2 classes")]
)
def test_labels_by_position_that_do_not_fit(labels: list[list[int]], said: str) -> None:
    shape = ("n", "length", "c")
    with pytest.raises(DataError, match=said):
        evaluate(same(shape), same(shape), [Batch({"x": np.zeros((1, 2, 2), np.float32)}, np.array(labels))])


def test_only_some_batches_have_labels() -> None:
    x = np.array([[1, 0], [0, 1]], np.float32)
    found = evaluate(same(), shifted([0, 3]), [Batch({"x": x}, np.array([[0], [1]])), Batch({"x": x})])
    assert (found.samples, found.labelled, of_float(found, "top-1"), own(found, "top-1"), found.agreement) == (
        4,
        2,
        1.0,
        0.5,
        0.5,
    )


def test_an_output_of_one_number_has_no_classes() -> None:
    x = np.array([[1], [2]], np.float32)
    found = evaluate(same(), shifted(1.0), [Batch({"x": x}, np.array([0, 0]))])
    assert (found.labelled, own(found, "top-1"), found.agreement) == (0, None, None)
    assert found.sqnr_db == pytest.approx(10 * np.log10(5 / 2))


def test_nan_is_counted_and_never_right() -> None:
    x = np.array([[0, 1], [1, 0]], np.float32)
    found = evaluate(same(), session("Div", np.array([0.0, 1.0])), [Batch({"x": x}, np.array([1, 0]))])
    # 0/0 is NaN and 1/0 infinite: the NaN row is wrong, the infinite one still has its largest value
    assert (found.nonfinite, own(found, "top-1"), found.agreement) == (2, 0.5, 0.5)
    assert (found.sqnr_db, found.cosine) == (None, None)


def test_a_zero_output_is_orthogonal_to_everything() -> None:
    x = np.ones((2, 3), np.float32)
    found = evaluate(same(), session("Mul", np.zeros(1)), [Batch({"x": x})])
    assert found.cosine == 0.0
    assert found.sqnr_db == pytest.approx(0.0)
    assert evaluate(session("Mul", np.zeros(1)), same(), [Batch({"x": x})]).sqnr_db is None


def test_it_is_streaming() -> None:
    alive: list[int] = []

    def stream():
        for k in range(5):
            alive.append(k)
            yield Batch({"x": np.ones((1, 2), np.float32)})

    assert evaluate(same(), same(), stream()).samples == len(alive) == 5


def test_an_output_of_no_numbers_counts_for_nothing() -> None:
    """That of a detector that finds nothing in an image."""
    full, empty = np.ones((1, 2), np.float32), np.ones((1, 0), np.float32)
    assert evaluate(same(), same(), [Batch({"x": full}), Batch({"x": empty})]).samples == 1
    with pytest.raises(DataError, match="at least one sample with an output"):
        evaluate(same(), same(), [Batch({"x": empty})])


def test_no_sample_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one sample"):
        evaluate(same(), same(), [])


def test_labels_must_be_one_for_each_sample() -> None:
    with pytest.raises(DataError, match="2 samples has 3 labels"):
        evaluate(same(), same(), [Batch({"x": np.ones((2, 2), np.float32)}, np.zeros(3, np.int64))])


def test_outputs_must_have_the_same_shape() -> None:
    wide = shifted(np.zeros((1, 1, 2)))
    with pytest.raises(ModelError, match="not the same network"):
        evaluate(same(), wide, [Batch({"x": np.ones((2, 2), np.float32)})])


def test_several_models_at_once() -> None:
    x = np.random.default_rng(8).normal(size=(6, 3)).astype(np.float32)
    labels = x.argmax(1)
    others = [same(), shifted([0, 1, 2])]
    both = evaluate_all(same(), others, batches(x, labels, [2]))
    assert both == [evaluate(same(), other, batches(x, labels, [2])) for other in others]
