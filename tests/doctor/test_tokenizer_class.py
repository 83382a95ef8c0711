"""The tokenizer of a folder is AutoTokenizer's, without torch where the folder leaves no choice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from chat_families import chatml_folder, put
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tokenizer_class import BACKED, OWN, SHARED, tokenizer_class

SHIPPED = Path(os.environ.get("HOLDTRUE_SHARED", "nowhere")) / "data" / "tokenizers"
FOLDERS = sorted(SHIPPED.glob("*")) if SHIPPED.is_dir() else []
TEXT = "Größe 12345: it's\n  你好 <|im_end|> 🙂"


def spaced_folder(folder: Path) -> Path:
    """A tokenizer of letters with spaces as ``▁``, as Llama 2 has."""
    letters = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.BPE({one: i for i, one in enumerate(letters)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.skipif(not FOLDERS, reason="HOLDTRUE_SHARED names no folder with tokenizers")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_tokenizers_are_loaded_as_transformers_does(folder: Path):
    own, usual = Subject(folder).tokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(own) is type(usual)
    assert own(TEXT)["input_ids"] == usual(TEXT)["input_ids"]
    assert own.chat_template == usual.chat_template and own.all_special_ids == usual.all_special_ids


@pytest.mark.parametrize("make", [chatml_folder, spaced_folder])
@pytest.mark.parametrize("model_type", [*OWN, *BACKED, *SHARED["Qwen2Tokenizer"], "qwen2", "starcoder2", ""])
def test_the_class_is_the_one_that_transformers_takes(tmp_path: Path, make, model_type: str | None):
    folder = make(tmp_path)
    if model_type is not None:
        put(folder, "config.json", {"model_type": model_type})
    names = ("PreTrainedTokenizer", "LlamaTokenizer", "Qwen2Tokenizer")
    for name in (*names, *(f"{one}Fast" for one in names), "TokenizersBackend", "Unheard", None):
        put(folder, "tokenizer_config.json", {"tokenizer_class": name} if name else {})
        own, usual = Subject(folder).tokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert (name, type(own)) == (name, type(usual))
        assert own("so it is")["input_ids"] == usual("so it is")["input_ids"]


@pytest.mark.parametrize("model_type", SHARED["GemmaTokenizer"])
def test_models_that_share_a_class_with_an_older_one_have_it(tmp_path: Path, model_type: str):
    folder = spaced_folder(tmp_path)
    put(folder, "config.json", {"model_type": model_type})
    put(folder, "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizerFast"})
    usual = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer_class(folder) is type(usual) and type(usual).__name__ == "GemmaTokenizer"


@pytest.mark.parametrize("files", [{"auto_map": {}}, {"tokenizer_class": "Unheard"}])
def test_what_the_files_leave_open_is_asked_of_transformers(tmp_path: Path, files: dict[str, object]):
    put(chatml_folder(tmp_path), "tokenizer_config.json", files)
    assert tokenizer_class(tmp_path) is AutoTokenizer


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("LlamaTokenizerFast", "llama"),
        ("LlamaTokenizer", "mistral"),
        ("PreTrainedTokenizerFast", "llama"),
        ("PreTrainedTokenizerFast", None),
        ("TokenizersBackend", "llama"),
        ("Qwen2Tokenizer", "qwen3"),
    ],
)
def test_a_check_of_a_folder_without_weights_needs_no_torch(
    tmp_path: Path, name: str, model_type: str | None
):
    folder = chatml_folder(tmp_path)
    put(folder, "tokenizer_config.json", {"tokenizer_class": name, "eos_token": "<|im_end|>"})
    if model_type is not None:
        put(folder, "config.json", {"model_type": model_type})
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "Is it hot?", "completion": "It is."}\n')
    code = "import sys; from holdtrue.cli.main import run; run(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "doctor", "check", str(folder), "--data", str(data)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "verdict" in said.stdout and said.stdout.splitlines()[-1] == "False"
