"""Reward models other tools saved: in every layout the reward is w · h(last token) of plain transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from holdtrue.errors import ModelError
from holdtrue.records import as_json
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.checks import sample
from holdtrue.reward.scorer import RewardScorer
from holdtrue.reward.store import Loaded, load_trained, quiet_loading
from holdtrue.reward.verify import verify
from holdtrue.settings import LoraSettings, ModelSettings

Make = Callable[..., Path]
SAMPLE = sample()[:4]
HEAD = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))


def rewrite(
    folder: Path, weights: Callable[[dict[str, Any]], dict[str, Any]], file: str = "model.safetensors"
) -> None:
    """The folder's weights under other names."""
    changed = {name: value.clone() for name, value in weights(load_file(folder / file)).items()}
    save_file(changed, folder / file, metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def openrlhf(folder: Path) -> None:
    rewrite(
        folder, lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"} | {"value_head.weight": HEAD}
    )
    configure(folder, architectures=["RewardModel"], mean=0.5, std=2.0)


def openrlhf_by_prefix(folder: Path) -> None:
    openrlhf(folder)
    rewrite(folder, lambda w: {("my_head.weight" if "value" in k else k): v for k, v in w.items()})
    configure(folder, value_head_prefix="my_head")


def openrlhf_score(folder: Path) -> None:
    """With two labels in its configuration, as any that does not say otherwise has."""
    openrlhf(folder)
    rewrite(folder, lambda w: {("score.weight" if "value" in k else k): v for k, v in w.items()})
    configure(folder, value_head_prefix="score")


def llama_factory(folder: Path) -> None:
    head = {"v_head.summary.weight": HEAD, "v_head.summary.bias": torch.tensor([0.25])}
    save_file(head, folder / "value_head.safetensors", metadata={"format": "pt"})


def trl_value_head(folder: Path) -> None:
    rewrite(folder, lambda w: w | {"v_head.summary.weight": HEAD, "v_head.summary.bias": torch.zeros(1)})


def deepspeed_chat(folder: Path) -> None:
    rewrite(
        folder,
        lambda w: {
            "v_head.weight": HEAD,
            **{"rwtransformer." + k.removeprefix("model."): v for k, v in w.items() if k != "lm_head.weight"},
        },
    )


def trlx(folder: Path) -> None:
    """A GPT-2, the attribute of whose backbone is ``transformer`` there and in transformers."""
    rewrite(folder, lambda w: w | {"v_head.weight": HEAD})


LAYOUTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "OpenRLHF": (openrlhf, "llama", "value_head.weight (1, 32) as OpenRLHF"),
    "OpenRLHF, prefix": (openrlhf_by_prefix, "qwen2", "my_head.weight (1, 32) as OpenRLHF"),
    "OpenRLHF, score": (openrlhf_score, "llama", "score.weight (1, 32) as OpenRLHF"),
    "LLaMA-Factory": (llama_factory, "llama", "v_head.summary.weight (1, 32) as LLaMA-Factory"),
    "TRL": (trl_value_head, "llama", "v_head.summary.weight (1, 32) as TRL"),
    "DeepSpeed-Chat": (deepspeed_chat, "llama", "v_head.weight (1, 32) as DeepSpeed-Chat"),
    "trlx": (trlx, "gpt2", "v_head.weight (1, 32) as trlx"),
}


def rewards(loaded: Loaded) -> np.ndarray:
    return np.concatenate(RewardScorer(loaded).score(SAMPLE))


def by_hand(backbone: Path) -> np.ndarray:
    """HEAD · h(last token) of the untouched language model, one conversation at a time."""
    with quiet_loading():
        model, tokenizer = AutoModel.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
    values = []
    for group in SAMPLE:
        for k in range(len(group.answers)):
            ids = tokenizer.apply_chat_template(
                as_json(group.conversation(k)), return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                values.append((HEAD[0] @ model(**ids).last_hidden_state[0, -1]).item())
    return np.array(values)


@pytest.fixture(params=list(LAYOUTS))
def foreign(request: pytest.FixtureRequest, base_model: Make) -> tuple[Path, Path, str]:
    """A folder in the tool's layout, the language model it is of, and how its head is described."""
    write, family, words = LAYOUTS[request.param]
    base = base_model(model_type=family)
    folder = Path(shutil.copytree(base, base.with_name("foreign")))
    write(folder)
    return folder, base, words


def test_every_layout_gives_the_rewards_of_its_weights(foreign: tuple[Path, Path, str]) -> None:
    folder, base, words = foreign
    loaded = load_trained(folder)
    assert loaded.imported is not None and words in loaded.imported.described
    assert rewards(loaded) == pytest.approx(by_hand(base), rel=1e-4, abs=1e-5)


def test_saved_again_it_is_in_the_ordinary_format(foreign: tuple[Path, Path, str], tmp_path: Path) -> None:
    loaded = load_trained(foreign[0])
    expected = rewards(loaded)
    store.save(loaded, tmp_path / "ours", RewardCard())
    again = load_trained(tmp_path / "ours")
    assert again.imported is None
    assert np.array_equal(rewards(again), expected)
    assert "fail" not in {check.status for check in verify(tmp_path / "ours")}


def test_verify_passes_and_says_where_the_head_is_from(foreign: tuple[Path, Path, str]) -> None:
    folder, _, words = foreign
    checks = {check.name: check for check in verify(folder)}
    if (
        "gpt2" not in (folder / "config.json").read_text()
    ):  # whose end of turn is padding in its configuration
        assert [check for check in checks.values() if check.status == "fail"] == []
    assert words in checks["head saved"].detail
    assert checks["ours = plain transformers, once saved"].status == "ok"


def test_a_bias_is_left_out_and_verify_says_so(base_model: Make) -> None:
    folder = base_model()
    llama_factory(folder)
    (said,) = [check for check in verify(folder) if check.name == "head bias"]
    assert said.status == "warn" and "bias 0.25 is left out" in said.detail


def test_mean_and_std_of_openrlhf_are_kept(base_model: Make) -> None:
    folder = base_model()
    openrlhf(folder)
    imported = load_trained(folder).imported
    assert imported is not None and imported.reward == {"mean": 0.5, "std": 2.0}
    assert "mean 0.5 and std 2" in imported.described


def test_the_head_stays_float32_beside_a_bfloat16_backbone(base_model: Make) -> None:
    folder = base_model()
    deepspeed_chat(folder)
    loaded = store.load(ModelSettings(path=str(folder), dtype="bfloat16"))
    assert loaded.model.inner.dtype == torch.bfloat16
    assert torch.equal(loaded.model.inner.score.weight, HEAD)


def test_an_adapter_of_llama_factory_is_merged(base_model: Make, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, folder = base_model(), tmp_path / "adapter"
    torch.manual_seed(5)
    with quiet_loading():
        lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "merged")
    llama_factory(folder)
    loaded = load_trained(folder)
    assert rewards(loaded) == pytest.approx(by_hand(tmp_path / "merged"), rel=1e-4, abs=1e-5)
    assert np.abs(rewards(loaded) - by_hand(base)).max() > 0.01
    again = store.load(ModelSettings(path=str(folder), lora=LoraSettings(r=2)))  # a new adapter on top
    assert rewards(again) == pytest.approx(rewards(loaded), rel=1e-4, abs=1e-5)
    assert any("lora_A" in name for name, _ in again.model.named_parameters())


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"reward_head.weight": HEAD}, r"reward_head.weight \(1, 32\) looks like a head, but of a layout"),
        ({"v_head.0.weight": torch.ones(64, 32), "v_head.2.weight": torch.ones(1, 64)}, "several layers"),
        ({"value_head.weight": HEAD * float("nan")}, "value_head.weight is not finite"),
        ({"value_head.weight": HEAD[:, :8]}, r"\(1, 8\) as OpenRLHF saves it does not fit .* \(1, 32\)"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    base_model: Make, weights: dict[str, Any], words: str
) -> None:
    folder = base_model()
    rewrite(folder, lambda w: w | weights)
    with pytest.raises(ModelError, match=words) as caught:
        load_trained(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_pickles_are_refused_with_the_command_that_converts_them(base_model: Make) -> None:
    import os
    import subprocess
    import sys

    folder = base_model()
    deepspeed_chat(folder)
    expected = rewards(load_trained(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle") as caught:
        load_trained(folder)
    code = str(caught.value).partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ, check=True)
    assert np.array_equal(rewards(load_trained(folder)), expected)


def test_classes_of_a_foreign_head_are_not_taken_for_a_scalar(base_model: Make) -> None:
    folder = base_model()
    openrlhf(folder)
    with pytest.raises(ModelError, match=r"does not fit the model's \(2, 32\)"):
        store.load(ModelSettings(path=str(folder), kind={"kind": "two_class"}))  # type: ignore[arg-type]
