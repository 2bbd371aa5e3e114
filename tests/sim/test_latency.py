from __future__ import annotations

from dataclasses import replace

import pytest

from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS, LatencyModel, latency_model

MODEL = LatencyModel("test", ((2, 1.0), (4, 2.0), (8, 3.0)), 0.5, 0.25, "made up")


@pytest.mark.parametrize(
    ("batch", "seconds"), [(1, 1.0), (2, 1.0), (3, 1.5), (4, 2.0), (6, 2.5), (8, 3.0), (12, 4.0)]
)
def test_decode_is_linear_between_points_flat_before_and_extrapolated_after(
    batch: int, seconds: float
) -> None:
    assert MODEL.decode_s(batch) == seconds


def test_one_point_holds_for_every_batch() -> None:
    model = LatencyModel("flat", ((1, 0.5),), 0.0, 0.0, "made up")
    assert model.decode_s(1) == model.decode_s(64) == 0.5


def test_prefill_has_a_base_and_a_price_per_token() -> None:
    assert MODEL.prefill_s(0) == 0.5
    assert MODEL.prefill_s(10) == 3.0


@pytest.mark.parametrize("model", LATENCY_MODELS.values(), ids=lambda model: model.name)
def test_presets_are_found_by_name_and_state_source_and_licence(model: LatencyModel) -> None:
    assert latency_model(model.name) is model
    assert "github.com/" in model.source
    assert "(MIT)" in model.source or "(Apache-2.0)" in model.source


@pytest.mark.parametrize("model", LATENCY_MODELS.values(), ids=lambda model: model.name)
def test_presets_gain_throughput_with_the_batch(model: LatencyModel) -> None:
    throughputs = [batch / model.decode_s(batch) for batch in range(1, 257)]
    assert throughputs == sorted(throughputs)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'gpt'.*llama-3\.1-8b-h100, opt-13b-a100, llama-2-70b"):
        latency_model("gpt")


@pytest.mark.parametrize(
    ("points", "base", "per_token"),
    [
        ((), 0.0, 0.0),
        (((0, 1.0),), 0.0, 0.0),
        (((2, 1.0), (1, 2.0)), 0.0, 0.0),
        (((1, 2.0), (2, 1.0)), 0.0, 0.0),
        (((1, 0.0),), 0.0, 0.0),
        (((1, float("nan")),), 0.0, 0.0),
        (((1, 1.0),), -1.0, 0.0),
        (((1, 1.0),), 0.0, float("inf")),
    ],
)
def test_impossible_figures_are_refused(
    points: tuple[tuple[int, float], ...], base: float, per_token: float
) -> None:
    with pytest.raises(ConfigurationError, match="bad"):
        LatencyModel("bad", points, base, per_token, "made up")


@pytest.mark.parametrize(("stalls", "seconds"), [(False, 0.75 + 3 * 2.0), (True, 4 * 0.75 + 3 * 2.0)])
def test_a_call_in_company(stalls, seconds):
    """Where prefills stall, it waits for the others' as well as for its own."""
    assert replace(MODEL, prefill_stalls=stalls).call_s(1, 3, 4) == seconds
