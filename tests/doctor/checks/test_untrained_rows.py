from __future__ import annotations

from typing import Any

from doctor_folders import EMBEDDING, adapter, matrix, noise
from doctor_rows import only
from holdtrue.data.examples import Example
from holdtrue.doctor.subject import Subject


def test_chatml_on_a_base_model_fails_until_the_adapter_trains_its_rows(folder, tmp_path):
    model = folder(change=noise(0, 1))
    frozen = Subject(model, adapter(tmp_path / "lora"))
    rows, training = only(frozen, "W01"), only(frozen, "W02")
    assert rows.severity == training.severity == "fail"
    assert rows.values["used"] == training.values["ids"] == [0, 1]
    assert "<|im_start|> (0)" in rows.evidence and "small" in rows.evidence
    assert "trainable_token_indices" in training.fix and "modules_to_save" in training.fix
    assert training.values["frozen"] == {"embedding": [0, 1], "head": [0, 1]}
    for fix in (
        training.values["fix"]["adapter_config.json"],
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ):
        mended = Subject(model, adapter(tmp_path / "lora", **fix))
        assert only(mended, "W01").severity == only(mended, "W02").severity == "ok"


def test_lora_settings_of_the_run_count_as_an_adapter(folder):
    model, run = folder(change=noise(0, 1)), {"use_peft": True, "lora_target_modules": ["q_proj"]}
    assert only(Subject(model, settings=run), "W02").severity == "fail"
    run["lora_modules_to_save"] = ["embed_tokens", "lm_head"]
    assert only(Subject(model, settings=run), "W01").severity == "ok"
    assert only(Subject(model, settings=run), "W02").severity == "ok"


def test_an_adapter_that_trains_only_the_embedding_leaves_the_head_frozen(folder, tmp_path):
    subject = Subject(folder(change=noise(1)), adapter(tmp_path / "lora", modules_to_save=["embed_tokens"]))
    assert only(subject, "W02").values["frozen"] == {"head": [1]}


def test_a_list_of_token_indices_is_of_the_embedding_and_of_a_tied_head_too(folder, tmp_path):
    lora = adapter(tmp_path / "lora", trainable_token_indices=[0, 1])
    assert only(Subject(folder(head=False, change=noise(0, 1)), lora), "W02").severity == "ok"
    assert only(Subject(folder(head=True, change=noise(0, 1)), lora), "W02").values["frozen"] == {
        "head": [0, 1]
    }


def test_zero_rows_that_the_template_uses_fail_and_mean_rows_mend_them(folder):
    def zero(values: dict[str, Any]) -> None:
        values[EMBEDDING][[0, 1]] = 0

    found = only(Subject(folder(change=zero)), "W01")
    assert found.severity == "fail" and "zero" in found.evidence and found.values["used"] == [0, 1]
    assert found.values["rules"]["embedding"] == {"zero": [(0, 1)]}

    def mean(values: dict[str, Any]) -> None:
        values[EMBEDDING][[0, 1]] = values[EMBEDDING][2:].mean(axis=0) + matrix(2, seed=9)

    assert only(Subject(folder(change=mean)), "W01").severity == "ok"


def test_untrained_rows_that_nobody_uses_are_told_and_do_no_harm(folder):
    found = only(Subject(folder(rows=512, change=noise(*range(259, 512)))), "W01")
    assert found.severity == "ok"
    assert found.values["untrained"] == {"embedding": [(259, 511)], "head": [(259, 511)]}
    assert "259-511" in found.evidence and "0 of them are used" in found.evidence


def test_an_untrained_word_of_the_data_fails_when_common_and_warns_when_rare(folder):
    model = folder(change=noise(50))

    def data(rare: bool) -> list[Example]:
        word = "P"  # its byte is the 48th from "!", which has id 3
        talk = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})
        other = ({"role": "user", "content": word}, {"role": "assistant", "content": word})
        return [Example(other if i == 0 or not rare else talk, f"data:{i}") for i in range(20)]

    assert only(Subject(model, examples=data(rare=False)), "W01").severity == "fail"
    assert only(Subject(model, examples=data(rare=True)), "W01").severity == "warn"


def test_without_a_tokenizer_untrained_rows_warn(folder):
    model = folder(change=noise(0))
    for path in model.glob("*tokenizer*"):
        path.unlink()
    found = only(Subject(model), "W01")
    assert found.severity == "warn" and "not known" in found.evidence


def test_the_bytes_a_real_small_model_never_met_are_found_untrained(shared):
    folder = shared("models/stories260K")  # trained on ASCII stories; 256 of its 512 tokens are single bytes
    found = only(Subject(folder), "W01")
    assert found.severity == "ok"  # nothing uses them
    rows = {row for first, last in found.values["untrained"]["embedding"] for row in range(first, last + 1)}
    tokens = Subject(folder).tokenizer.convert_ids_to_tokens(sorted(rows))
    assert sum(token.startswith("<0x") for token in tokens) > 200
    assert not any(token.lstrip("▁").isalpha() and token.isascii() for token in tokens)
    example = Example((), "data:1", text="A trade mark: ™")
    assert "™" in only(Subject(folder, examples=[example]), "W01").evidence


def test_rows_beyond_the_tokenizer_are_counted_in_the_weights(folder):
    found = only(Subject(folder(rows=512)), "T04")  # config.json says nothing of vocab_size
    assert found.severity == "warn" and found.values["rows"] == 512
    tokens = len(Subject(folder()).tokenizer)
    assert only(Subject(folder(rows=tokens)), "T04").severity == "ok"
