"""The tokenizer of a subject is AutoTokenizer's, without torch where the folder leaves no choice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from chat_families import chatml_folder, put
from holdtrue.doctor.subject import Subject

SHARED = Path(os.environ.get("HOLDTRUE_SHARED", "nowhere")) / "data" / "tokenizers"
FOLDERS = sorted(SHARED.glob("*")) if SHARED.is_dir() else []
TEXT = "Größe 12345: it's\n  你好 <|im_end|> 🙂"


@pytest.mark.skipif(not FOLDERS, reason="HOLDTRUE_SHARED names no folder with tokenizers")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_tokenizers_are_loaded_as_transformers_does(folder: Path):
    own, usual = Subject(folder).tokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(own) is type(usual)
    assert own(TEXT)["input_ids"] == usual(TEXT)["input_ids"]
    assert own.chat_template == usual.chat_template and own.all_special_ids == usual.all_special_ids


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama", "gemma", "unheard_of"])
@pytest.mark.parametrize(
    "name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "Unheard", None]
)
def test_the_class_is_the_one_that_transformers_takes(tmp_path: Path, name: str | None, model_type: str):
    folder = chatml_folder(tmp_path)
    put(
        folder,
        "tokenizer_config.json",
        {"eos_token": "<|im_end|>"} | ({"tokenizer_class": name} if name else {}),
    )
    put(folder, "config.json", {"model_type": model_type})
    usual = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert type(Subject(folder).tokenizer) is type(usual)


@pytest.mark.skipif(not (SHARED / "qwen3").is_dir(), reason="HOLDTRUE_SHARED names no tokenizer of Qwen3")
def test_a_check_of_a_tokenizer_needs_no_torch():
    code = (
        "import sys; from pathlib import Path; from holdtrue.doctor.checks import examine; "
        "from holdtrue.doctor.subject import Subject; "
        f"examine(Subject(Path({str(SHARED / 'qwen3')!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
