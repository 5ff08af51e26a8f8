"""Spectra against numpy's SVD, tails against weightwatcher, angles against scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ckptdiff
import ml_dtypes
import numpy as np
import pytest
import torch
from ckptdiff.spectra import arithmetic, run
from ckptdiff.spectra.arithmetic import NumpyMatrix
from ckptdiff.spectra.leading import exact_leading, principal_angles, randomised_leading
from ckptdiff.spectra.matrices import matrices_of
from ckptdiff.spectra.options import EXACT_UP_TO
from ckptdiff.spectra.row import COLUMNS
from ckptdiff.spectra.tail import fit_tail
from safetensors.torch import save_file
from scipy.linalg import subspace_angles

from tests.cli import assert_one_line_of_trouble, invoke
from tests.dtypes import DTYPES, scalars
from tests.gguf_writers import dequantised, random_blocks, write_gguf
from tests.layouts import hugging_face_model
from tests.samples import tame
from tests.spectra import Array, matrix, measures, tail_fit, weights
from tests.writers import tensor, write_file, write_sharded, write_sparse

SHAPES = ((1, 1), (1, 40), (60, 1), (30, 30), (90, 40), (40, 200), (300, 300))

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
METHODS = ("exact", "randomised")


def svd(values: Array) -> Array:
    return np.linalg.svd(values.astype(np.float64), compute_uv=False)


def one(report: ckptdiff.SpectrumReport) -> Any:
    assert len(report) == 1, report
    return next(iter(report))


def assert_is_spectrum_of(row: Any, values: Array, k: int = 16) -> None:
    truth = svd(values)
    np.testing.assert_allclose(row.values, truth[:k], rtol=1e-12, atol=row.error)
    for name, expected in measures(truth).items():
        assert getattr(row, name) == pytest.approx(expected, rel=1e-9), name


@every_shape
def test_every_measure_is_that_of_numpys_svd(shape: tuple[int, int]) -> None:
    values = weights(*shape).astype(np.float32)
    row = one(ckptdiff.spectrum({"w": values}, method="exact"))
    assert (row.name, row.rows, row.columns, row.method) == ("w", *shape, "exact")
    assert_is_spectrum_of(row, values)


@every_shape
def test_a_difference_is_taken_in_float64(shape: tuple[int, int]) -> None:
    a = weights(*shape, seed=1).astype(np.float32)
    b = (a + 1e-4 * weights(*shape, seed=5)).astype(np.float32)
    row = one(ckptdiff.spectrum({"w": a}, {"w": b}, method="exact"))
    assert_is_spectrum_of(row, b.astype(np.float64) - a.astype(np.float64))


@pytest.mark.parametrize(
    "dtype",
    ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F6_E2M3", "F4", "I8", "U16", "I32"],
)
def test_every_dtype(dtype: str, tmp_path: Path) -> None:
    stored = tame(DTYPES[dtype], (48, 32), seed=2)
    values = scalars(stored.data, DTYPES[dtype]).astype(np.float64).reshape(48, 32)
    path = write_file(tmp_path / "a.safetensors", {"w": stored})
    assert_is_spectrum_of(one(ckptdiff.spectrum(path, method="exact")), values)


def test_quantised_weights_are_decoded(tmp_path: Path) -> None:
    raw = random_blocks("Q4_K", (64, 512), 1, wild=False)
    write_gguf(tmp_path / "a.gguf", {"w": ("Q4_K", raw)})
    row = one(ckptdiff.spectrum(tmp_path / "a.gguf", method="exact"))
    assert_is_spectrum_of(row, dequantised("Q4_K", raw).reshape(64, 512))


@pytest.mark.parametrize("count", [2, 5, 14])
@pytest.mark.parametrize("seed", range(4))
def test_values_that_squaring_would_lose_are_there(seed: int, count: int) -> None:
    truth = np.geomspace(1, 1e-13, count)
    row = one(ckptdiff.spectrum({"w": matrix(80, count, truth, seed)}, method="exact"))
    # a Gram matrix alone gives 1e-8 and worse below there
    np.testing.assert_allclose(row.values, truth, rtol=0, atol=1e-15)


# -- the randomised method -------------------------------------------------------------------------

SPECTRA = {
    "flat": np.ones(150),
    "linear": np.linspace(2, 1, 150),
    "geometric": 0.9 ** np.arange(150),
    "power": (1.0 + np.arange(150)) ** -0.7,
    "steps": np.repeat([8.0, 4.0, 2.0, 1.0, 0.5], 30),
    "low rank": np.r_[np.linspace(3, 1, 5), np.zeros(145)],
    "one large": np.r_[1e6, np.linspace(2, 1, 149)],
    "few behind": np.r_[np.linspace(9, 5, 30), np.geomspace(1e-3, 1e-6, 120)],
    "tiny": 1e-25 * 0.9 ** np.arange(150),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(150, 150), (400, 150), (150, 333)], ids=str)
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_the_error_of_the_randomised_method_is_within_its_bound(
    name: str, shape: tuple[int, int], iterations: int
) -> None:
    truth = SPECTRA[name]
    values = matrix(*shape, truth, seed=3)
    built = NumpyMatrix(*shape, [values])
    leading = randomised_leading(built, 12, 6, iterations)
    rounding = 400 * 2.0**-52 * truth[0]
    missing = truth[:12] - leading.values
    assert (missing >= -rounding).all(), "a Ritz value is never too large"
    assert (missing <= leading.errors + rounding).all(), missing / leading.errors
    assert leading.left.shape == (shape[0], 12)
    np.testing.assert_allclose(leading.left.T @ leading.left, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(leading.right.T @ leading.right, np.eye(12), atol=1e-12)


def test_the_bounds_tell_something() -> None:
    """They are tight where there is a gap, and some per cent where there is none."""
    values = matrix(300, 200, SPECTRA["power"])
    few = randomised_leading(NumpyMatrix(300, 200, [values]), 8, 10, 4)
    assert few.errors[0] < 1e-12 * few.values[0]
    assert few.errors[7] < 1e-3 * few.values[7]
    flat = np.random.default_rng(1).standard_normal((300, 300))
    noise = randomised_leading(NumpyMatrix(300, 300, [flat]), 8, 10, 4)
    assert 0.001 * noise.values[0] < noise.errors[0] < 0.5 * noise.values[0]


def test_leading_columns_agree_with_the_exact_ones() -> None:
    values = weights(200, 120).astype(np.float32)
    exact = one(ckptdiff.spectrum({"w": values}, method="exact", k=20))
    quick = one(ckptdiff.spectrum({"w": values}, method="randomised", k=20, iterations=8))
    assert quick.method == "randomised"
    np.testing.assert_allclose(quick.values, exact.values, atol=quick.error)
    for name in ("spectral_norm", "frobenius_norm", "stable_rank"):
        assert getattr(quick, name) == pytest.approx(getattr(exact, name), rel=1e-9), name
    for name in ("effective_rank", "participation_ratio", "nuclear_norm", "alpha"):
        assert getattr(quick, name) is None, name


def test_the_same_matrix_has_the_same_numbers() -> None:
    values = weights(200, 120).astype(np.float32)
    texts = {ckptdiff.spectrum({"w": values}, method="randomised").to_json() for _ in range(3)}
    assert len(texts) == 1


def test_the_method_goes_by_the_smaller_side() -> None:
    options = ckptdiff.spectrum({}).options
    assert options.is_exact(EXACT_UP_TO, 10**6)
    assert not options.is_exact(EXACT_UP_TO + 1, EXACT_UP_TO + 1)


# -- the tail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_tail_is_that_of_a_loop_over_plain_floats(seed: int) -> None:
    eigenvalues = svd(weights(80, 60, seed)) ** 2
    fit = fit_tail(eigenvalues)
    alpha, distance, xmin, count = tail_fit(eigenvalues)
    assert fit is not None
    assert fit.alpha == pytest.approx(alpha, rel=1e-9)
    assert fit.distance == pytest.approx(distance, rel=1e-9)
    assert (fit.xmin, fit.count) == (xmin, count)
    assert fit.error == pytest.approx((alpha - 1) / math.sqrt(count))


def test_the_exponent_of_a_power_law_is_found() -> None:
    rng = np.random.default_rng(4)
    fit = fit_tail((1 - rng.random(4000)) ** (-1 / 1.5))
    assert fit is not None
    assert abs(fit.alpha - 2.5) < 4 * fit.error < 0.4


@pytest.mark.parametrize("eigenvalues", [[], [1.0] * 7, [2.0] * 50, [0.0] * 50, [math.nan] * 9])
def test_no_tail_is_no_fit(eigenvalues: list[float]) -> None:
    assert fit_tail(np.array(eigenvalues)) is None


@pytest.mark.filterwarnings("ignore")  # of the package and what it imports
def test_alpha_is_that_of_weightwatcher() -> None:
    """On the weights of a model as transformers makes it, and after some steps of training."""
    weightwatcher = pytest.importorskip("weightwatcher", reason="weightwatcher is not installed")
    model = trained_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *_, **__: None)
        details = weightwatcher.WeightWatcher(model=model).analyze(min_evals=8, plot=False)
    assert len(details) >= 10
    report = ckptdiff.spectrum(model.state_dict(), method="exact")
    small = 0
    for _, theirs in details.iterrows():
        ours = report[f"{theirs['longname']}.weight"]
        small += ours.rows < 20 or ours.columns < 20
        assert ours.alpha == pytest.approx(theirs["alpha"], rel=1e-5), ours.name
        assert ours.alpha_distance == pytest.approx(theirs["D"], rel=1e-4), ours.name
        assert ours.alpha_error == pytest.approx(theirs["sigma"], rel=1e-5), ours.name
        assert ours.alpha_xmin == pytest.approx(theirs["xmin"], rel=1e-5), ours.name
        assert ours.stable_rank == pytest.approx(theirs["stable_rank"], rel=1e-5), ours.name
    assert small, "the estimate for few eigenvalues is compared, too"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 4, 6, 7, 8, 9, 19, 20])
def test_alpha_of_few_eigenvalues_is_that_of_weightwatcher(count: int) -> None:
    power_law = pytest.importorskip("weightwatcher.WW_powerlaw", reason="not installed")
    eigenvalues = np.exp(np.random.default_rng(count).standard_normal(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *_, **__: None)
        theirs = power_law.WWFit(eigenvalues)
    ours = fit_tail(eigenvalues)
    assert ours is not None
    assert (ours.alpha, ours.distance, ours.xmin) == pytest.approx(
        (theirs.alpha, theirs.D, theirs.xmin)
    )


def trained_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=90,
            hidden_size=48,
            intermediate_size=112,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(8):
        batch = torch.randint(0, 90, (4, 16))
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        # most of its eigenvalues are then below the least that weightwatcher keeps
        model.model.layers[1].self_attn.o_proj.weight.mul_(0.015)
    return model


# -- low rank --------------------------------------------------------------------------------------


def adapted(a: Array, rank: int, scale: float = 0.01) -> Array:
    rng = np.random.default_rng(rank)
    rows, columns = a.shape
    update = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return a.astype(np.float64) + scale * update / math.sqrt(rank)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("rank", [1, 4, 13])
def test_a_merged_lora_has_its_rank(rank: int, dtype: str, method: Any, tmp_path: Path) -> None:
    base = tensor(0.02 * np.random.default_rng(1).standard_normal((160, 120)), dtype)
    values = scalars(base.data, DTYPES[dtype]).astype(np.float64).reshape(160, 120)
    a = write_file(tmp_path / "a.safetensors", {"w": base})
    b = write_file(tmp_path / "b.safetensors", {"w": tensor(adapted(values, rank), dtype)})
    row = one(ckptdiff.spectrum(a, b, method=method))
    assert (row.low_rank, row.rank) == ("low_rank", rank)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 8, 16, 64])
def test_a_product_has_its_rank_in_the_arithmetic_of_its_dtype(rank: int, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(rank)
    wanted = getattr(torch, dtype)
    left = torch.randn(300, rank, generator=generator).to(wanted)
    right = torch.randn(rank, 300, generator=generator).to(wanted)
    row = one(ckptdiff.spectrum({"w": left @ right}))
    assert (row.low_rank, row.rank) == ("low_rank", rank)
    # what is not a factor is below the floor, and none of the factors is near it
    values = np.linalg.svd((left @ right).double().numpy(), compute_uv=False)
    assert values[rank] < row.rank_floor < 0.1 * values[rank - 1]


@pytest.mark.parametrize("in_float32", [False, True], ids=["in_its_dtype", "in_float32"])
@pytest.mark.parametrize("share", [0.003, 0.03, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 8, 16, 64])
def test_a_merge_has_its_rank_or_rounding_hides_it(
    rank: int, dtype: str, share: float, in_float32: bool
) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(rank)
    wanted = getattr(torch, dtype)
    base = (0.02 * torch.randn(300, 240, generator=generator)).to(wanted)
    left, right = (torch.randn(*size, generator=generator) for size in ((300, rank), (rank, 240)))
    left *= share * base.float().norm() / (left @ right).norm()
    if in_float32:
        merged = (base.float() + left @ right).to(wanted)
    else:
        merged = base + left.to(wanted) @ right.to(wanted)
    row = one(ckptdiff.spectrum({"w": base}, {"w": merged}, angles=0))
    if dtype == "float32" or share > 0.003 * rank:
        assert (row.low_rank, row.rank) == ("low_rank", rank)
    else:
        assert (row.low_rank, row.rank) in (("low_rank", rank), ("undecided", None))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_a_lora(method: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base = 0.02 * rng.standard_normal((160, 120))
    stored = {
        "equal": base,
        "cast": base,
        "full": base + 0.001 * rng.standard_normal(base.shape),
        "lora.and.noise": adapted(base, 4) + 0.001 * rng.standard_normal(base.shape),
    }
    a = {name: tensor(base, "F32") for name in stored}
    b = {name: tensor(values, "F32") for name, values in stored.items()}
    b["cast"] = tensor(base, "BF16")
    report = ckptdiff.spectrum(
        write_file(tmp_path / "a.safetensors", a),
        write_file(tmp_path / "b.safetensors", b),
        method=method,
    )
    verdicts = {row.name: (row.low_rank, row.rank) for row in report}
    beyond = ("full", None) if method == "exact" else ("above_k", None)
    assert verdicts["equal"] == ("zero", 0)
    assert verdicts["cast"] == ("rounding", 0)
    assert verdicts["full"] == beyond
    assert verdicts["lora.and.noise"] == beyond


def test_a_matrix_can_be_low_rank_itself() -> None:
    rng = np.random.default_rng(3)
    product = rng.standard_normal((90, 6)) @ rng.standard_normal((6, 70))
    row = one(ckptdiff.spectrum({"w": product.astype(np.float16)}))
    assert (row.low_rank, row.rank) == ("low_rank", 6)
    # 40 factors of 90 + 70 numbers are more than 90 · 70 numbers
    product = rng.standard_normal((90, 40)) @ rng.standard_normal((40, 70))
    row = one(ckptdiff.spectrum({"w": product.astype(np.float32)}))
    assert (row.low_rank, row.rank) == ("full", None)


# -- angles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_angles_are_those_of_scipy(method: Any) -> None:
    a = matrix(120, 90, np.r_[9.0, 8, 7, 6, 5, np.linspace(1, 0.1, 85)], seed=1)
    b = a + 0.02 * np.random.default_rng(2).standard_normal(a.shape)
    row = one(ckptdiff.spectrum({"w": a}, {"w": b}, angles=5, method=method))
    (left_a, _, right_a), (left_b, _, right_b) = np.linalg.svd(a), np.linalg.svd(b)
    for found, of_a, of_b in (
        (row.angles_left, left_a[:, :5], left_b[:, :5]),
        (row.angles_right, right_a[:5].T, right_b[:5].T),
    ):
        expected = np.sort(subspace_angles(of_a, of_b))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert row.angle == max(row.angles_left[-1], row.angles_right[-1])
    assert row.angle_error < 1e-3


def test_small_and_right_angles_are_resolved() -> None:
    plane = np.eye(6)[:, :2]
    for angle in (1e-12, 1e-6, 0.3, 1.2, math.pi / 2):
        turned = plane.copy()
        turned[:, 1] = math.cos(angle) * np.eye(6)[1] + math.sin(angle) * np.eye(6)[3]
        found = principal_angles(plane, turned)
        np.testing.assert_allclose(found, [0, angle], rtol=1e-9, atol=1e-16)
        np.testing.assert_allclose(found, np.sort(subspace_angles(plane, turned)), atol=1e-9)


def test_how_far_the_subspaces_are_off_is_within_its_bound() -> None:
    values = matrix(150, 100, SPECTRA["geometric"][:100], seed=4)
    left, _, right = np.linalg.svd(values)
    for iterations in (0, 1, 3, 8):
        found = randomised_leading(NumpyMatrix(150, 100, [values]), 6, 3, iterations)
        off = max(
            subspace_angles(left[:, :6], found.left)[0],
            subspace_angles(right[:6].T, found.right)[0],
        )
        assert off <= found.angle_error <= math.pi / 2
    assert found.angle_error < 0.5
    exact = exact_leading(NumpyMatrix(150, 100, [values]), 6)
    assert exact.angle_error < 1e-9


def test_subspaces_without_a_gap_are_not_certain() -> None:
    noise = np.random.default_rng(1).standard_normal((100, 100))
    row = one(ckptdiff.spectrum({"w": noise}, {"w": noise + 1e-3}))
    assert row.angle_error == pytest.approx(math.pi / 2)


# -- what a matrix is ------------------------------------------------------------------------------


def test_convolutions_and_experts_are_matrices() -> None:
    rng = np.random.default_rng(5)
    tensors = {
        "conv1d.weight": rng.standard_normal((8, 5, 3)),
        "conv2d.weight": rng.standard_normal((12, 4, 3, 3)),
        "mlp.experts.up_proj": rng.standard_normal((3, 10, 14)),
        "norm.weight": rng.standard_normal(10),
        "scalar": np.float64(1),
        "empty": np.zeros((0, 4)),
    }
    report = ckptdiff.spectrum(tensors, method="exact")
    expected = {
        "conv1d.weight": tensors["conv1d.weight"].reshape(8, 15),
        "conv2d.weight": tensors["conv2d.weight"].reshape(12, 36),
    } | {f"mlp.experts.up_proj[{e}]": tensors["mlp.experts.up_proj"][e] for e in range(3)}
    assert [row.name for row in report] == list(expected)
    for row in report:
        assert_is_spectrum_of(row, expected[row.name])
    left_out = {item.name: item.reason for item in report.not_compared}
    assert left_out == dict.fromkeys(("empty", "norm.weight", "scalar"), "not_a_matrix")
    as_convolution = ckptdiff.spectrum(tensors, experts=(), include="*experts*", method="exact")
    assert_is_spectrum_of(one(as_convolution), tensors["mlp.experts.up_proj"].reshape(3, 140))


def test_experts_go_by_their_globs() -> None:
    assert [m.name for m in matrices_of("moe.w", (2, 3, 4), ("moe.*",))] == ["moe.w[0]", "moe.w[1]"]
    assert [m.rows for m in matrices_of("a.experts.b", (2, 3, 4, 5))] == [2]


class Mixture(torch.nn.Module):
    """A block of OLMo-core with experts of one of its two kinds, 24 wide and 40 within."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        from olmo_core.nn.moe import mlp, router

        torch.manual_seed(3)
        self.router = router.MoELinearRouter(d_model=24, num_experts=5)
        self.experts = torch.nn.Module()
        self.experts.mlp = getattr(mlp, kind)(d_model=24, hidden_size=40, num_experts=5)
        self.shared_mlp = torch.nn.Module()
        self.shared_mlp.w1 = torch.nn.Linear(24, 40, bias=False)

    def as_forward_sees_them(self) -> dict[str, Array]:
        """By the very shapes that MoEMLP.forward and DroplessMoEMLP.forward take views of."""
        mlp = self.experts.mlp
        inner = (24, 40) if type(mlp).__name__ == "MoEMLP" else (40, 24)
        shapes = {"w1": inner, "w2": (40, 24), "w3": inner}
        return {
            f"blocks.0.feed_forward_moe.experts.mlp.{name}[{expert}]": matrix.numpy()
            for name, shape in shapes.items()
            for expert, matrix in enumerate(getattr(mlp, name).detach().view(5, *shape))
        }


@pytest.mark.filterwarnings("ignore")  # OLMo-core wants grouped_gemm
@pytest.mark.parametrize("kind", ["MoEMLP", "DroplessMoEMLP"])
@pytest.mark.parametrize("told_by", ["router", "router of two dimensions", "config", "nobody"])
def test_experts_below_one_another_are_a_matrix_each(
    kind: str, told_by: str, tmp_path: Path
) -> None:
    block = Mixture(kind)
    state = {f"blocks.0.feed_forward_moe.{k}": v.detach() for k, v in block.state_dict().items()}
    router = "blocks.0.feed_forward_moe.router.weight"
    if told_by == "router of two dimensions":
        state[router] = state[router].view(5, 24)
    elif told_by != "router":
        del state[router]
    if told_by == "config":
        experts = {"feed_forward_moe": {"num_experts": 5, "hidden_size": 40}}
        config = {"model": {"d_model": 24, "n_layers": 1, "block": {**experts, "layer_norm": {}}}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    report = ckptdiff.spectrum(tmp_path, include="*moe.[es]*", method="exact")
    shared = "blocks.0.feed_forward_moe.shared_mlp.w1.weight"
    expected = block.as_forward_sees_them()
    if told_by == "nobody":
        expected = {name: state[name].numpy() for name in state if ".experts." in name}
        (note,) = report.notes
        assert note.startswith("tensor 'blocks.0.feed_forward_moe.experts.mlp.w1' (and 2 more) is")
    else:
        assert report.notes == ()
    expected[shared] = state[shared].numpy()
    assert [row.name for row in report] == list(expected)
    for row in report:
        assert_is_spectrum_of(row, expected[row.name])
    # of a difference, by the names of A, whatever B calls them
    other = {name.replace("blocks", "layers"): 2 * value for name, value in state.items()}
    difference = ckptdiff.spectrum(tmp_path, other, rename="blocks=layers", method="exact")
    assert len(difference) == len(expected) + (told_by == "router of two dimensions")
    for row in difference:
        if "router" not in row.name:
            assert_is_spectrum_of(row, expected[row.name.replace("layers", "blocks")])


@pytest.mark.filterwarnings("ignore")
def test_an_optimizers_state_has_the_experts_of_its_weights() -> None:
    block = Mixture("MoEMLP")
    state = {f"optim.state.x.{k}.exp_avg": v.detach() for k, v in block.state_dict().items()}
    names = {row.name for row in ckptdiff.spectrum(state, include="*experts*")}
    assert {f"optim.state.x.experts.mlp.w2.exp_avg[{e}]" for e in range(5)} <= names


def test_the_biases_of_experts_are_no_matrix() -> None:
    """GPT-OSS's are (experts, columns), and there is nothing to see in what they span."""
    from transformers.models.gpt_oss.configuration_gpt_oss import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    config = GptOssConfig(hidden_size=16, intermediate_size=12, num_local_experts=3)
    state = {
        f"layers.0.mlp.{name}": torch.randn(value.shape)
        for name, value in GptOssMLP(config).state_dict().items()
    }
    report = ckptdiff.spectrum(state)
    rows = [f"experts.{name}[{e}]" for name in ("down_proj", "gate_up_proj") for e in range(3)]
    assert [row.name for row in report] == [f"layers.0.mlp.{n}" for n in (*rows, "router.weight")]
    left_out = {item.name for item in report.not_compared}
    assert {f"layers.0.mlp.experts.{name}_proj_bias" for name in ("down", "gate_up")} <= left_out


@pytest.mark.parametrize("family", ["Qwen3Moe", "Mixtral", "Olmoe"])
def test_experts_of_transformers_are_a_matrix_each(family: str, tmp_path: Path) -> None:
    """As modules hold them, and as files do, one by one: both name and split them alike."""
    model = hugging_face_model(family, **{"num_local_experts": 3} if family == "Mixtral" else {})
    live = ckptdiff.spectrum(model, include="*experts*")
    held = {k: v for k, v in model.state_dict().items() if "experts" in k and v.dim() == 3}
    assert len(live) == 3 * len(held) > 0
    for row in live:
        name, _, expert = row.name.removesuffix("]").partition("[")
        assert_is_spectrum_of(row, held[name][int(expert)].numpy())
    model.save_pretrained(tmp_path)
    for row in ckptdiff.spectrum(tmp_path, include="*experts*"):
        assert "[" not in row.name or len(ckptdiff.open(tmp_path)[row.name.split("[")[0]].shape) > 2


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_or_zero(method: Any) -> None:
    rng = np.random.default_rng(6)
    good = rng.standard_normal((30, 20)).astype(np.float32)
    bad = good.copy()
    bad[3, 4], bad[29, 0], bad[0, 19] = np.nan, np.inf, -np.inf
    report = ckptdiff.spectrum({"bad": bad, "good": good, "zero": 0 * good}, method=method)
    assert report["bad"].nonfinite == 3
    assert report["bad"].spectral_norm is None
    assert report["bad"].values == ()
    assert report["good"].spectral_norm == pytest.approx(svd(good)[0])
    zero = report["zero"]
    assert (zero.spectral_norm, zero.rank_90, zero.low_rank, zero.rank) == (0, 0, "zero", 0)
    assert zero.nuclear_norm == 0
    assert zero.stable_rank is None
    assert [row.name for row in report.nonfinite] == ["bad"]
    of_both = ckptdiff.spectrum({"w": bad}, {"w": good}, method=method)
    assert one(of_both).nonfinite == 3


def test_values_whose_squares_leave_float64_have_no_spectrum() -> None:
    huge = one(ckptdiff.spectrum({"w": np.full((4, 4), 1e200)}))
    assert (huge.nonfinite, huge.spectral_norm) == (0, None)
    large = one(ckptdiff.spectrum({"w": np.full((4, 4), 1e38, np.float32)}))
    assert large.spectral_norm == pytest.approx(4e38, rel=1e-6)


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    a = {"x": rng.standard_normal((4, 5)), "a": np.ones((2, 2)), "s": np.ones((2, 3))}
    b = {"x": rng.standard_normal((4, 5)), "b": np.ones((2, 2)), "s": np.ones((3, 2))}
    report = ckptdiff.spectrum(a, b)
    assert [row.name for row in report] == ["x"]
    assert [tuple(item) for item in report.not_compared] == [
        ("a", "a", "only_in_a"),
        ("b", "b", "only_in_b"),
        ("a", "s", "shape_mismatch"),
    ]
    renamed = ckptdiff.spectrum(a, b, rename="^a$=b", include="b")
    assert one(renamed).low_rank == "zero"


def test_format_and_sharding_change_nothing(tmp_path: Path) -> None:

    values = {f"w.{n}": weights(40, 30, n) for n in range(4)}
    tensors = {name: tensor(value, "BF16") for name, value in values.items()}
    whole = write_file(tmp_path / "a.safetensors", tensors)
    sharded = write_sharded(tmp_path / "b", tensors, 3)
    torch.save(
        {
            name: torch.from_numpy(value.astype(ml_dtypes.bfloat16).view(np.int16)).view(
                torch.bfloat16
            )
            for name, value in values.items()
        },
        tmp_path / "c.pt",
    )
    texts = set()
    for path in (whole, sharded, tmp_path / "c.pt"):
        report = json.loads(ckptdiff.spectrum(path).to_json())
        report["a"]["path"] = None
        texts.add(json.dumps(report))
    assert len(texts) == 1


# -- devices ---------------------------------------------------------------------------------------


def assert_same_spectra(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.as_dict().keys() == theirs.as_dict().keys()
        for column, value in theirs.as_dict().items():
            if isinstance(value, float) or (isinstance(value, tuple) and value):
                # an error is rounding, which is another one there
                tolerance = {"atol": 1e-9, "rtol": 1e-8} if "error" not in column else {"atol": 1}
                np.testing.assert_allclose(getattr(ours, column), value, **tolerance)
            else:
                assert getattr(ours, column) == value, column


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device", ["cpu-torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_gives_what_numpy_gives(device: str, method: Any) -> None:
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    a = {
        "tall": weights(120, 50).astype(np.float32),
        "wide": weights(50, 120),
        "low": matrix(70, 60, np.r_[5.0, 4, 3, np.zeros(57)]),
    }
    b = {name: value + 0.01 * weights(*value.shape, seed=9).astype(value.dtype)
         for name, value in a.items()}  # fmt: skip
    for other in (None, b):
        here = ckptdiff.spectrum(a, other, method=method, angles=3)
        there = ckptdiff.spectrum(a, other, method=method, angles=3, device=device)
        assert_same_spectra(there, here)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-60, 1e-20, 1.0, 1e60])
def test_a_device_without_float64_holds_what_float32_does_not(
    scale: float, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows grow, so that the power of two by which they are divided does."""
    pytest.importorskip("torch")
    from ckptdiff.backends.torch import run as torch_run

    monkeypatch.setattr(run, "_BLOCK", 500)
    monkeypatch.setattr(torch_run, "has_float64", lambda device: False)
    a = {"w": scale * np.logspace(-3, 0, 90)[:, None] * weights(90, 40)}
    here = ckptdiff.spectrum(a, method=method)["w"]
    there = ckptdiff.spectrum(a, method=method, device="cpu-torch")["w"]
    np.testing.assert_allclose(there.values, here.values, rtol=1e-5)
    assert there.nonfinite == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device", ["cpu", "cpu-torch"])
def test_blocks_change_nothing(device: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices are read, widened and multiplied some rows or columns at a time."""
    if device == "cpu-torch":
        pytest.importorskip("torch")
    a = {"tall": weights(120, 50).astype(np.float32), "wide": weights(50, 120)}
    b = {name: value + np.float32(0.01) for name, value in a.items()}
    whole = [ckptdiff.spectrum(a, other, method=method, angles=3) for other in (None, b)]
    monkeypatch.setattr(arithmetic, "_BLOCK", 700)
    monkeypatch.setattr(run, "_BLOCK", 1100)
    for other, expected in zip((None, b), whole, strict=True):
        found = ckptdiff.spectrum(a, other, method=method, angles=3, device=device)
        assert_same_spectra(found, expected)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_one_line(device: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", {"w": tensor(np.ones((3, 3)))})
    outcome = invoke("spectrum", path, "--device", device)
    assert_one_line_of_trouble(outcome, f"'{device}'")


# -- the report and the command --------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(8)
    base = {f"layers.{n}.w": 0.02 * rng.standard_normal((40 + n, 30)) for n in range(3)}
    tuned = {name: adapted(value, 2) for name, value in base.items()}
    tuned["layers.2.w"] = base["layers.2.w"]
    write = {
        "a": {name: tensor(value, "F32") for name, value in base.items()},
        "b": {name: tensor(value, "F32") for name, value in tuned.items()},
    }
    for tensors in write.values():
        tensors["norm"] = tensor(np.ones(5))
    return tuple(  # type: ignore[return-value]
        write_file(tmp_path / f"{name}.safetensors", tensors) for name, tensors in write.items()
    )


def test_the_command_writes_every_format(files: tuple[Path, Path]) -> None:
    report = ckptdiff.spectrum(*files)
    found = json.loads(invoke("spectrum", *files, "--format", "json").stdout)
    assert found == json.loads(report.to_json())
    assert found["schema"] == "ckptdiff.spectrum/1"
    assert [row["name"] for row in found["matrices"]] == [f"layers.{n}.w" for n in range(3)]
    assert list(found["matrices"][0]) == list(COLUMNS)
    assert found["matrices"][0]["values"] == list(report["layers.0.w"].values)
    assert found["summary"]["low_rank"] == {
        "zero": 1, "rounding": 0, "low_rank": 2, "full": 0, "above_k": 0, "undecided": 0,
    }  # fmt: skip
    lines = invoke("spectrum", *files, "--format", "csv").stdout.splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 4
    table = invoke("spectrum", *files).stdout
    assert "2 low-rank, of rank 2, 1 unchanged" in table
    assert "this can be a LoRA of rank 2" in table
    assert "left out: 1 not a matrix" in table
    markdown = invoke("spectrum", *files, "--format", "markdown").stdout
    assert "| `layers.0.w` | 40×30 |" in markdown
    assert "low-rank" in repr(report)


def test_the_command_sorts_and_cuts(files: tuple[Path, Path]) -> None:
    outcome = invoke("spectrum", files[0], "--sort", "rows", "--top", "2", "--format", "csv")
    names = [line.split(",")[0] for line in outcome.stdout.splitlines()[1:]]
    assert names == ["layers.2.w", "layers.1.w"]
    outcome = invoke("spectrum", *files, "-k", "1", "--angles", "0", "--format", "json")
    row = json.loads(outcome.stdout)["matrices"][0]
    assert (len(row["values"]), row["angle"], row["angles_left"]) == (1, None, [])
    assert invoke("spectrum", *files, "--quiet") == (0, "", "")


def test_columns_are_arrays(files: tuple[Path, Path]) -> None:
    report = ckptdiff.spectrum(*files)
    assert set(report.columns) == set(COLUMNS)
    assert report.columns["values"].shape == (3, 16)
    assert report.columns["rank"].tolist() == [2, 2, 0]
    assert np.isnan(report.columns["stable_rank"][2])
    assert report.sorted("stable_rank").columns["name"][-1] == "layers.2.w"
    assert report.sorted("name", descending=True).head(1).columns["name"][0] == "layers.2.w"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sort", "alhpa"), "alpha"),
        (("--sort", "values"), "values"),
        (("--include", "nothing*"), "leave none"),
        (("--key-b", "model"), "no B"),
        (("--experts", "["), ""),
        (("no-such-file.safetensors",), "no-such-file"),
    ],
)
def test_trouble_is_one_line(arguments: Any, says: str, files: tuple[Path, Path]) -> None:
    outcome = invoke("spectrum", files[0], *arguments)
    if arguments == ("--experts", "["):
        assert outcome.status == 0
    else:
        assert_one_line_of_trouble(outcome, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 0}, "k must be 1 or more"),
        ({"angles": -1}, "angles must be 0 or more"),
        ({"iterations": -1}, "iterations"),
        ({"method": "exakt"}, "exact"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_options_out_of_range_are_value_errors(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ckptdiff.spectrum({"w": np.eye(3)}, **options)


def test_progress_ends_at_all_bytes() -> None:
    seen: list[tuple[int, int]] = []
    tensors = {f"w.{n}": weights(20, 10, n) for n in range(3)}
    ckptdiff.spectrum(tensors, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1600, 4800), (3200, 4800), (4800, 4800)]


def test_a_matrix_that_no_memory_holds_is_one_line(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.safetensors", {"w": (2**20, 2**20)}, "F8_E5M2")
    outcome = invoke("spectrum", path)
    assert_one_line_of_trouble(outcome, "out of memory", "matrix 'w' of 1048576", "4.40 TB")


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (MemoryError("Unable to allocate 4 GiB\nmore"), MemoryError),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), MemoryError),
        (np.linalg.LinAlgError("did not converge"), ValueError),
    ],
)
def test_what_goes_wrong_in_a_matrix_names_it(
    raised: Exception, becomes: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr(NumpyMatrix, "gram_eigenvalues", fail)
    with pytest.raises(becomes, match=r"^matrix 'w' of 3 × 3: [^\n]*$"):
        ckptdiff.spectrum({"w": np.eye(3)})


def test_reading_a_broken_tensor_is_one_line(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.safetensors", {"w": tensor(np.ones((400, 400)))})
    checkpoint = ckptdiff.open(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match=r"tensor \"w\""):
        ckptdiff.spectrum(checkpoint)
