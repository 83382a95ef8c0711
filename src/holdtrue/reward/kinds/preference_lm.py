"""A language model asked which of two answers is better; its next token is the answer.

    gap = z_A - z_B          logits of the tokens "A" and "B" where the reply begins

Decoders are asked in one user turn, in RLHFlow's words (arXiv 2405.07863, section 3.2); encoder-decoders in
those of SteamSHP (stanfordnlp/SteamSHP-flan-t5-xl), by one step of the decoder. The whole language model is
trained and saved as one, so anything that loads those loads it.
"""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from holdtrue.reward.kinds import ComparingKind

if TYPE_CHECKING:
    from holdtrue.records import Group
    from holdtrue.reward.model import RewardModel
    from holdtrue.reward.store import Loaded, Source
    from holdtrue.tokens.conversation import Truncation
    from holdtrue.tokens.joint import JointEncoder

DECODER = "[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n"
ENCODER_DECODER = (
    "POST: {context}\n\n RESPONSE A: {first}\n\n RESPONSE B: {second}\n\n Which response is better? RESPONSE"
)


class PreferenceLm(ComparingKind):
    """A language model that is shown two answers and says "A" or "B"."""

    template: str | None = Field(None)
    """The question, with {context}, {first} and {second}. By default "[CONTEXT] {context} [RESPONSE A]
    {first} [RESPONSE B] {second}" for decoders and "POST: {context} RESPONSE A: {first} RESPONSE B:
    {second} Which response is better? RESPONSE" for encoder-decoders, spaced as published."""
    tokens: list[str] = Field(["A", "B"], min_length=2, max_length=2)
    """What the model replies for the first and the second answer; single tokens."""

    @field_validator("template")
    @classmethod
    def _names_its_parts(cls, template: str | None) -> str | None:
        wanted = ["context", "first", "second"]
        if template is not None:
            names = sorted(name for _, name, _, _ in Formatter().parse(template) if name is not None)
            if names != wanted:
                raise ValueError("a template has {context}, {first} and {second}, each once")
        return template

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.tokens)

    def question(self, group: Group, order: tuple[int, int], decoder: bool) -> str:
        """The text of a comparison; encoder-decoders get the context on one line, as SteamSHP was trained."""
        first, second = (group.answers[k].text for k in order)
        context = group.prompt_text if decoder else " ".join(group.prompt_text.splitlines())
        template = self.template or (DECODER if decoder else ENCODER_DECODER)
        return template.format(context=context, first=first, second=second)

    def build(self, source: Source) -> tuple[RewardModel, bool]:
        from holdtrue.reward.preference_lm import load

        return load(self, source)

    def encoder(self, loaded: Loaded, max_length: int, truncation: Truncation) -> JointEncoder:
        from holdtrue.tokens.conversation import Encoder
        from holdtrue.tokens.joint import WrittenPairs

        decoder = not loaded.model.inner.config.is_encoder_decoder
        embeddings = loaded.model.inner.get_input_embeddings().num_embeddings
        encoder = Encoder(loaded.tokenizer, max_length, truncation, embeddings, reply=True)
        return WrittenPairs(encoder, lambda group, order: self.question(group, order, decoder), decoder)
