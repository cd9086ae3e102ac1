"""Two ways to score documents, as texts for the engine and as numbers out of it."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import numpy as np
from attrs import frozen

from mlxserve_hookspecs import GenerationRequest, ModelCard, RequestError, TextCodec
from mlxserve_plugins.embeddings.texts import (
    check_lengths,
    off_the_loop,
    pooling_request,
    tokens_of,
)
from mlxserve_plugins.embeddings.vectors import Kind, Matrix, shaped

Method = Literal["auto", "embeddings", "yes-no"]

BEFORE: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
AFTER: Final = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
JUDGED: Final = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
TASK: Final = "Given a web search query, retrieve relevant passages that answer the query"
"""The prompt and the usual instruction of Qwen3-Reranker's model card."""

TOLD: Final = "Instruct: {instruction}\nQuery:{query}"
"""How Qwen3-Embedding's model card tells a query's purpose."""


class Scorer(Protocol):
    """One way."""

    async def request(
        self, query: str, documents: Sequence[str], instruction: str | None, tenant: str
    ) -> GenerationRequest:
        """Return what the engine is asked.

        Raises:
            RequestError: It cannot be asked, or a text is too long (status 400).
        """

    def scores(self, rows: Matrix) -> Sequence[float]:
        """Return the documents' scores, in their order."""


@frozen
class Nearness:
    """The cosine of query and document, -1 to 1."""

    card: ModelCard
    text: TextCodec
    kind: Kind

    async def request(
        self, query: str, documents: Sequence[str], instruction: str | None, tenant: str
    ) -> GenerationRequest:
        """Ask for the vectors of the query and of each document."""
        asked = TOLD.format(instruction=instruction, query=query) if instruction else query
        tokens = await tokens_of(self.text, [asked], self.card, "query")
        check_lengths(tokens, self.card, "query")
        more = await tokens_of(self.text, list(documents), self.card, "documents")
        check_lengths(more, self.card, "documents")
        return pooling_request([*tokens, *more], self.kind, self.card, tenant)

    def scores(self, rows: Matrix) -> Sequence[float]:
        """Return each document's product with the query, at length 1."""
        normal = shaped(rows)
        found: list[float] = (normal[1:] @ normal[0]).tolist()
        return found


@frozen
class Verdict:
    """How probable ``yes`` is where the next token is ``yes`` or ``no``, 0 to 1."""

    card: ModelCard
    text: TextCodec

    async def request(
        self, query: str, documents: Sequence[str], instruction: str | None, tenant: str
    ) -> GenerationRequest:
        """Ask for the logits of both words after the model card's prompt."""
        answers = [self._answer(word) for word in ("yes", "no")]

        def work() -> list[list[int]]:
            before, after = (self._plain(text) for text in (BEFORE, AFTER))
            task = instruction or TASK
            judged = (
                JUDGED.format(instruction=task, query=query, document=document)
                for document in documents
            )
            return [[*before, *self._plain(text), *after] for text in judged]

        tokens = await off_the_loop(work, [query, *documents])
        check_lengths(tokens, self.card, "documents")
        return pooling_request(tokens, "last", self.card, tenant, answers)

    def scores(self, rows: Matrix) -> Sequence[float]:
        """Return P(yes) / (P(yes) + P(no))."""
        apart = np.clip(rows[:, 1] - rows[:, 0], -80.0, 80.0).astype(np.float64)
        found: list[float] = (1.0 / (1.0 + np.exp(apart))).tolist()
        return found

    def _plain(self, text: str) -> list[int]:
        return self.text.encode(text, add_special_tokens=False)

    def _answer(self, word: str) -> int:
        tokens, marks = self._plain(word), self._plain("<|im_start|>")
        if len(tokens) != 1 or len(marks) != 1:
            words = "this model is no Qwen3-Reranker: its tokenizer lacks what `yes-no` asks with"
            raise RequestError(status=400, message=words, code="no_reranker")
        return tokens[0]


def scorer_of(method: Method, card: ModelCard, text: TextCodec, kind: Kind) -> Scorer:
    """Return the way in which the served model scores."""
    named = any("rerank" in name.lower() for name in (card.id, *card.aliases))
    if method == "yes-no" or (method == "auto" and named):
        return Verdict(card, text)
    return Nearness(card, text, kind)
