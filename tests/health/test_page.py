"""The code of docs/monitor.md runs as it stands."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
STORIES = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared")) / "models" / "stories260K"


@pytest.mark.skipif(not STORIES.is_dir(), reason=f"no model in {STORIES}; set HOLDTRUE_SHARED")
def test_the_page_about_the_monitor_runs(capsys):
    page = (ROOT / "docs" / "monitor.md").read_text(encoding="utf-8")
    own, trl = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    prompts = torch.ones(64, 1, dtype=torch.long)
    trained = []
    names = {
        "tokenizer": AutoTokenizer.from_pretrained(STORIES),
        "model": AutoModelForCausalLM.from_pretrained(STORIES),
        "end_ids": [2],
        "reference_prompts": prompts,
        "batches": [prompts, prompts],
        "score": lambda ids: np.array([float(len(row)) for row in ids]),
        "train": lambda ids, rewards: trained.append(rewards),
    }
    exec(own, names)
    # Its stories are longer than 64 tokens, so every answer is cut; so was every one of the calibration.
    assert [rewards.shape for rewards in trained] == [(64,), (64,)]
    assert "TRUNCATION" not in capsys.readouterr().out

    exec(trl, names)
    logged = {}
    looping = [[300] * 200, [300, 301, 2]]
    rewards = names["health"](
        ["p", "p"], ["", ""], looping, SimpleNamespace(global_step=3), logged.__setitem__
    )
    assert rewards == [-1.0, 0.0]
    assert logged["health/loop"] == 0.5
    assert "step 3 FAIL LOOP" in capsys.readouterr().out
