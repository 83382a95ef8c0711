from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor_folders import bfloat16, matrix, write_json, write_tensors
from holdtrue.doctor.untrained import ranges, show_ranges, untrained
from holdtrue.doctor.weights import Weights, row_statistics
from holdtrue.errors import ModelError


def weights(folder: Path) -> Weights:
    found = Weights.of(folder)
    assert found is not None
    return found


def test_rows_are_read_as_they_were_written_in_every_type(tmp_path):
    values = np.array([[1.0, -2.5, 0.0], [0.375, 448.0, -0.015625]], np.float32)  # exact in all of them
    # float8 e4m3, sign|exponent|fraction, bias 7: 1 = 0|0111|000, -2.5 = 1|1000|010, 0.375 = 0|0101|100,
    # 448 = 0|1111|110 (the largest), -0.015625 = 2^-6 = 1|0001|000
    eighths = np.array([[0x38, 0xC2, 0x00], [0x2C, 0x7E, 0x88]], np.uint8)
    stored = [values, values.astype(np.float16), values.astype(np.float64), bfloat16(values), eighths]
    write_tensors(tmp_path / "model.safetensors", {str(i): array for i, array in enumerate(stored)})
    for tensor in weights(tmp_path).tensors.values():
        np.testing.assert_array_equal(tensor.read(0, 2), values, err_msg=tensor.dtype)
        np.testing.assert_array_equal(tensor.read(1, 2), values[1:], err_msg=tensor.dtype)


def test_eight_bits_with_two_of_fraction_have_infinity_and_nan(tmp_path):
    codes = np.array([[0x3C, 0x7B, 0x7C, 0x7D, 0x01]], np.uint8)  # 1, 57344 (the largest), inf, nan, 2^-16
    write_tensors(tmp_path / "model.safetensors", {"x": codes}, x="F8_E5M2")
    np.testing.assert_array_equal(
        weights(tmp_path).tensors["x"].read(0, 1)[0], [1, 57344, np.inf, np.nan, 2**-16]
    )


def test_every_file_that_safetensors_writes_is_read(tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.randn(5, 7), "b": torch.randn(3, 2, 4).bfloat16(), "c": torch.randn(6).half()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name, tensor in weights(tmp_path).tensors.items():
        read = tensor.read(0, tensor.rows).reshape(tensor.shape)
        np.testing.assert_array_equal(read, tensors[name].float().numpy())


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("transformer.wte.weight", None),
        ("transformer.word_embeddings.weight", "lm_head.weight"),
        ("gpt_neox.embed_in.weight", "embed_out.weight"),
        (
            "base_model.model.model.embed_tokens.modules_to_save.default.weight",
            "base_model.model.lm_head.weight",
        ),
    ],
)
def test_the_two_matrices_are_known_by_how_their_names_end(tmp_path, embedding, head):
    tensors = {"model.norm.weight": matrix(1)[0], embedding: matrix(50)} | (
        {head: matrix(40)} if head else {}
    )
    write_tensors(tmp_path / "model.safetensors", tensors)
    found = weights(tmp_path)
    assert (found.embedding_rows, found.head_rows) == (50, 40 if head else 50)
    assert (found.head is None) == (head is None)


def test_shards_are_found_by_their_index_and_a_missing_one_is_named(tmp_path):
    for i, name in enumerate(("model.embed_tokens.weight", "lm_head.weight"), start=1):
        write_tensors(tmp_path / f"model-{i}-of-2.safetensors", {name: matrix(9)})
    places = {
        "model.embed_tokens.weight": "model-1-of-2.safetensors",
        "lm_head.weight": "model-2-of-2.safetensors",
    }
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": places})
    assert set(weights(tmp_path).tensors) == set(places)
    (tmp_path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of 2 files of weights, such as model-2-of-2"):
        Weights.of(tmp_path)


def test_a_pickle_is_refused_by_name_and_no_weights_are_no_error(tmp_path):
    assert Weights.of(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle, .* safetensors"):
        Weights.of(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 60, 300, -1])
def test_a_cut_file_is_an_error_of_one_line(tmp_path, kept):
    path = write_tensors(tmp_path / "model.safetensors", {"model.embed_tokens.weight": matrix(20)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError) as caught:
        Weights.of(tmp_path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_header_with_any_bytes_changed_gives_tensors_or_an_error_of_ours(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("mutated")
    path = write_tensors(
        folder / "model.safetensors", {"embed_tokens.weight": matrix(6, 4), "norm.weight": matrix(1, 4)[0]}
    )
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 150))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    )
    try:
        for tensor in weights(folder).tensors.values():
            if tensor.floating:
                row_statistics(tensor)
    except ModelError:
        pass


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["F32", "BF16", "I8"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a.weight"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(header=HEADERS, body=st.binary(max_size=40))
def test_any_json_for_a_header_gives_tensors_or_an_error_of_ours(tmp_path_factory, header, body):
    folder = tmp_path_factory.mktemp("header")
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    write_json(folder / "config.json", {})
    try:
        for tensor in weights(folder).tensors.values():
            if tensor.floating:
                row_statistics(tensor)
    except ModelError:
        pass


def found_by_rule(tmp_path: Path, values: np.ndarray, vocabulary: int | None = None) -> dict[str, list[int]]:
    write_tensors(tmp_path / "model.safetensors", {"embed_tokens.weight": bfloat16(values)})
    tensor = weights(tmp_path).embedding
    assert tensor is not None
    found = untrained(tensor, row_statistics(tensor), vocabulary)
    return {rule: rows.tolist() for rule, rows in found.by_rule.items()}


def test_trained_rows_are_not_called_untrained(tmp_path):
    assert found_by_rule(tmp_path, matrix(3000), 2900) == {}


def test_zero_small_and_identical_rows_are_found(tmp_path):
    values = matrix(1000)
    values[[7, 8]] = 0
    values[20] = 1e-17
    values[30] *= 0.1
    values[40:50] = values[39]  # with row 39 itself
    values[60] = values[61] * 2  # the same direction
    assert found_by_rule(tmp_path, values) == {
        "zero": [7, 8, 20],
        "small": [30],
        "identical": [*range(39, 50), 60, 61],
    }


def test_rows_resized_to_the_mean_with_a_little_noise_are_identical(tmp_path):
    values = matrix(1000, 256) + np.float32(0.01)
    noise = np.random.default_rng(1).normal(0, 1e-7, (20, 256)).astype(np.float32)
    values[980:] = values[:980].mean(axis=0) + noise
    assert found_by_rule(tmp_path, values)["identical"] == list(range(980, 1000))


def test_rows_like_those_beyond_the_vocabulary_are_found_by_direction(tmp_path):
    values = matrix(2000, 128)
    direction = matrix(1, 128, seed=5)[0]
    unused = [3, 500, *range(1950, 2000)]
    values[unused] = direction + 0.3 * matrix(len(unused), 128, seed=6)  # neither small nor equal
    found = set(found_by_rule(tmp_path, values, 1950)["like unused"])
    assert {3, 500} <= found <= set(unused)
    assert found_by_rule(tmp_path, values, None) == {}


def test_nan_rows_are_neither_small_nor_identical(tmp_path):
    values = matrix(100)
    values[[4, 5]] = np.nan
    values[6] = np.inf
    assert found_by_rule(tmp_path, values) == {}


def test_ranges_are_short():
    assert ranges([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]
    assert ranges([]) == []
    assert show_ranges([*range(0, 20, 2)]) == "0, 2, 4, 6, 8, 10 and 4 more ranges"


@pytest.mark.slow
def test_the_matrices_of_a_7b_model_are_read_within_a_minute_and_2_gb(tmp_path):
    import resource
    import time

    rows, width = 152_064, 3_584
    piece = bfloat16(matrix(8192, width))
    names = ("model.embed_tokens.weight", "lm_head.weight")
    size = rows * width * 2
    header = {
        n: {"dtype": "BF16", "shape": [rows, width], "data_offsets": [i * size, (i + 1) * size]}
        for i, n in enumerate(names)
    }
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in names:
            for first in range(0, rows, len(piece)):
                file.write(piece[: rows - first].tobytes())
    started = time.monotonic()
    found = weights(tmp_path)
    for tensor in found.tensors.values():
        assert untrained(tensor, found.statistics(tensor), 151_665).all.size  # the pieces repeat
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 1024 * 1024
