"""Every token that ends an answer, given to the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdtrue.doctor.remedies import DecodingRemedy
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import SettingsError


class AllEnds(DecodingRemedy):
    """Answers stop at every declared end token, and where tools are called behind the call."""

    grade = "A"
    evidence = (
        "Phi-3.5 declares 3 ends and a trainer knew 1: 97 % of ended answers counted as cut; Llama-3 went "
        "on past "
        "<|eot_id|> until both ids were stops"
    )
    source = "huggingface/trl PR 7039; vllm-project/vllm#4180; modelscope/ms-swift#5924"
    mends = frozenset({"turn_end_not_learned"})

    strings: tuple[str, ...] = ()
    """Stop strings, such as ``</tool_call>``; they stay in the answer."""

    def engines(self, vocabulary: Vocabulary | None) -> Mapping[str, Mapping[str, Any]]:
        """Transformers takes the ids as ``eos_token_id``."""
        if vocabulary is None or not vocabulary.ends:
            raise SettingsError("all_ends needs the model's end tokens: give the folder of its tokenizer")
        ids = sorted(vocabulary.ends)
        stop: dict[str, Any] = {"stop": list(self.strings)} if self.strings else {}
        kept = {"include_stop_str_in_output": True} if self.strings else {}
        plain = {"no_stop_trim": True} if self.strings else {}
        return {
            "vllm": {"stop_token_ids": ids, **stop, **kept},
            "sglang": {"stop_token_ids": ids, **stop, **plain},
            "transformers": {"eos_token_id": ids, **({"stop_strings": list(self.strings)} if stop else {})},
        }
