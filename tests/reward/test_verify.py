"""Each way a reward model silently goes wrong, done to a good one: its check fails, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdtrue.cli import verify as verb
from holdtrue.errors import ModelError
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard, read_card, weights_hash
from holdtrue.reward.verify import verify
from holdtrue.settings import LoraSettings, ModelSettings

SEED = 42
Make = Callable[..., Path]


def build(base: Path, folder: Path, train: bool = True, **settings: Any) -> Path:
    loaded = store.load(ModelSettings(path=str(base), **settings), seed=SEED)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad and train:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    store.save(loaded, folder, RewardCard(max_length=500))
    return folder


@pytest.fixture
def saved(base_model: Make, tmp_path: Path) -> Path:
    return build(base_model(), tmp_path / "saved")


@pytest.fixture
def adapter(base_model: Make, tmp_path: Path) -> Path:
    return build(base_model(), tmp_path / "adapter", lora=LoraSettings(r=4))


def failed(folder: Path, **options: Any) -> set[str]:
    return {check.name for check in verify(folder, **options) if check.status == "fail"}


def reweigh(
    folder: Path, change: Callable[[dict[str, Any]], object], name: str = "model.safetensors"
) -> None:
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name, metadata={"format": "pt"})


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def sign(folder: Path) -> None:
    """Make the card agree with what is in the folder now, as if it had been saved so."""
    card = read_card(folder)
    card.weights_sha256 = weights_hash(folder)
    card.write(folder)


@pytest.mark.parametrize("kind", ["saved", "adapter"])
def test_a_good_model_passes_every_check(kind: str, request: pytest.FixtureRequest) -> None:
    checks = verify(request.getfixturevalue(kind), seed=SEED)
    assert {check.name: check.status for check in checks if check.status != "ok"} == {}
    assert [check.name for check in checks] == [
        *("head saved", "head trained", "read token", "padding token", "beginning"),
        *("alone = in a batch (token trees)", "alone = right padding", "alone = left padding"),
        *("bf16 = fp32", "saved = reloaded", "ours = plain transformers"),
        *("weights", "chat template", "length"),
    ]


def test_verifying_changes_nothing_in_the_folder(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    verify(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_padding_with_the_token_that_is_read_makes_others_read_the_one_before(saved: Path) -> None:
    edit(saved / "config.json", pad_token_id=1)  # EOS, the token every conversation ends in
    assert failed(saved) == {"padding token", "ours = plain transformers"}


def test_an_adapter_whose_base_pads_with_the_token_that_is_read_is_found(adapter: Path) -> None:
    edit(adapter.parent / "base" / "config.json", pad_token_id=1)
    assert failed(adapter) == {"padding token", "ours = plain transformers"}


@pytest.mark.parametrize("kind", ["saved", "adapter"])
def test_a_model_whose_configuration_says_bf16_is_compared_in_float32(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    edit((folder if kind == "saved" else tmp_path / "base") / "config.json", dtype="bfloat16")
    assert failed(folder) == set()


@pytest.mark.parametrize("pad", [None, -1])
def test_no_padding_token_is_a_warning_and_the_comparison_goes_one_by_one(
    pad: int | None, saved: Path
) -> None:
    edit(saved / "config.json", pad_token_id=pad)
    found = {check.name: check.status for check in verify(saved)}
    assert found["padding token"] == "warn" and found["ours = plain transformers"] == "ok"


def test_a_template_changed_after_saving_is_found(saved: Path) -> None:
    template = saved / "chat_template.jinja"
    template.write_text("Be good. " + template.read_text())
    assert failed(saved) == {"chat template"}


def test_weights_changed_after_saving_are_found(saved: Path) -> None:
    reweigh(saved, lambda w: w["model.layers.0.mlp.up_proj.weight"].mul_(1.01))
    assert failed(saved) == {"weights"}


def test_an_adapter_saved_without_its_head_is_found(adapter: Path) -> None:
    # what peft makes of a configuration without task type: the head stays as it was drawn and is not saved
    edit(adapter / "adapter_config.json", task_type=None, modules_to_save=None)
    reweigh(adapter, lambda w: w.pop("base_model.model.score.weight"), "adapter_model.safetensors")
    sign(adapter)
    assert failed(adapter) == {"head saved", "ours = plain transformers"}  # peft cannot load it at all


def test_a_head_of_zeros_is_found(saved: Path) -> None:
    reweigh(saved, lambda w: w["score.weight"].zero_())
    sign(saved)
    assert failed(saved) == {"head trained", "spread"}


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
def test_a_head_that_never_moved_is_found_by_the_seed_it_was_drawn_from(
    lora: LoraSettings | None, base_model: Make, tmp_path: Path
) -> None:
    folder = build(base_model(), tmp_path / "untrained", train=False, lora=lora)
    assert failed(folder, seed=SEED) == {"head trained"}
    assert failed(folder, seed=SEED + 1) == set()
    assert failed(folder) == set()


def test_a_template_without_an_end_makes_the_read_token_differ(
    base_model: Make, byte_tokenizer: Any, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    base = base_model(tokenizer=byte_tokenizer(chat_template=template))
    assert failed(build(base, tmp_path / "open")) == {"read token"}


def test_a_template_that_doubles_bos_is_a_warning(
    base_model: Make, byte_tokenizer: Any, tmp_path: Path
) -> None:
    template = "{{ bos_token * 2 }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
    tokenizer = byte_tokenizer(bos_token="<|im_start|>", chat_template=template)
    found = {c.name: c.status for c in verify(build(base_model(tokenizer=tokenizer), tmp_path / "doubled"))}
    assert {name for name, status in found.items() if status != "ok"} == {"beginning"}
    assert found["beginning"] == "warn"


@pytest.mark.parametrize("name", ["score.weight", "model.layers.0.mlp.up_proj.weight"])
def test_weights_that_are_not_numbers_are_found(name: str, saved: Path) -> None:
    reweigh(saved, lambda w: w[name].fill_(float("nan")))
    sign(saved)
    assert failed(saved) == {"finite"}


def test_a_language_model_is_not_taken_for_a_reward_model(base_model: Make) -> None:
    folder = base_model()
    found = {check.name: check.status for check in verify(folder)}
    assert found["head saved"] == "fail"
    assert found["reward card"] == "warn"


def test_a_template_that_refuses_everything_is_said(saved: Path) -> None:
    (saved / "chat_template.jinja").write_text("{{ raise_exception('closed') }}")
    with pytest.raises(
        ModelError, match=r"no sample conversations to score .*: chat template refuses .*closed"
    ):
        verify(saved)


def test_the_verb_ends_with_4_where_something_is_off_and_0_where_not(saved: Path) -> None:
    good = verb.command(saved)
    assert good.exit_code == 0 and good.value["ok"]
    edit(saved / "config.json", pad_token_id=1)
    bad = verb.command(saved)
    assert bad.exit_code == 4 and not bad.value["ok"]
    assert {c["name"] for c in bad.value["checks"] if c["status"] == "fail"} == failed(saved)


def test_a_real_decoder_passes_once_it_is_a_reward_model(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = build(shared("models/stories260K"), tmp_path / "stories")
    assert failed(folder, seed=SEED) == set()  # its BOS is its EOS, it has no template, its lengths are short
