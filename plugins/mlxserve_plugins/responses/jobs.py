"""From a body to what the engine is asked."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from mlxserve_hookspecs import EngineClient, GenerationRequest, ModelCard, TextCodec
from mlxserve_plugins.openai.bodies import GenerationBody
from mlxserve_plugins.openai.parameters import check_model, refusal, sampling_of, stop_of
from mlxserve_plugins.responses.bodies import ResponsesBody
from mlxserve_plugins.responses.choosing import choose
from mlxserve_plugins.responses.conversation import messages_of
from mlxserve_plugins.responses.drafts import name
from mlxserve_plugins.responses.effort import wishes_of
from mlxserve_plugins.responses.history import Past, known_items
from mlxserve_plugins.responses.items import MoreTools, Placed
from mlxserve_plugins.responses.renaming import retell
from mlxserve_plugins.responses.rendering import render
from mlxserve_plugins.responses.store import Store
from mlxserve_plugins.responses.toolbox import Toolbox
from mlxserve_plugins.structured.fields import chat_constraint
from mlxserve_plugins.surface.chats import stops_in_answers, template_options
from mlxserve_plugins.surface.notes import Notes
from mlxserve_plugins.surface.parting import parting_of
from mlxserve_plugins.tools.thinking import ThinkingOrders, orders_of

Json: TypeAlias = dict[str, Any]

LOGPROBS = "message.output_text.logprobs"
FORMS = ("text", "json_object", "json_schema")


@frozen(kw_only=True)
class Job:
    """A request to the API, ready to run.

    Attributes:
        id: What the client knows the response by.
        created: Unix time.
        body: What was asked.
        tenant: Who asks.
        card: The model.
        text: Its tokenizer.
        request: For the engine.
        box: The tools.
        tools: What the template was told of tools, for the parser.
        reasoning: Whether the reply begins within the model's thinking.
        past: The conversation so far, for a follow-up.
    """

    id: str
    created: int = field(factory=lambda: int(time.time()))
    body: ResponsesBody
    tenant: str
    card: ModelCard
    text: TextCodec
    request: GenerationRequest
    box: Toolbox
    tools: Sequence[Mapping[str, Any]] | None
    reasoning: bool
    past: Past

    @property
    def summary(self) -> bool:
        """Whether the client wants a summary of the thinking."""
        asked = self.body.reasoning
        wanted = asked and (asked.summary or asked.generate_summary)
        return wanted not in (None, "none")

    @property
    def store(self) -> bool:
        """Whether the response is to be kept."""
        return self.body.store is not False


async def make_job(
    body: ResponsesBody,
    engine: EngineClient,
    tenant: str,
    store: Store,
    *,
    ignored: frozenset[str],
    notes: Notes,
) -> Job:
    """Return the job of a request.

    Args:
        body: What was asked.
        engine: Has the model.
        tenant: Who asks.
        store: Where earlier responses are.
        ignored: Types of hosted tools that are left out.
        notes: Told what is not taken by its word.

    Raises:
        RequestError: It cannot be done; the field is named.
    """
    card, text = engine.card, engine.text
    check_model(body.model, card, notes)
    past = known_items(body, store, tenant)
    box = _tools(body, past.items, ignored)
    _note(body, box, notes)
    effort = body.reasoning.effort if body.reasoning else None
    orders = orders_of(text.markup, effort=effort)
    constraint = _constraint(body, box, orders)
    tools = box.for_template()
    options = template_options(wishes_of(effort), orders, body.chat_template_kwargs)
    messages = messages_of(body.instructions, past.items)
    prompt = await render(text, messages, tools, options)
    own = name("resp")
    request = _request(body, card, text, own, prompt, tenant, constraint, notes, tools=bool(tools))
    parts = await parting_of(card, text, prompt, messages, tools, options)
    return Job(
        id=own,
        body=body,
        tenant=tenant,
        card=card,
        text=text,
        request=evolve(request, parting=parts),
        box=box,
        tools=tools,
        reasoning=text.opens_thinking(prompt),
        past=past,
    )


def _note(body: ResponsesBody, box: Toolbox, notes: Notes) -> None:
    if box.left_out:
        notes.add("tools", "ignored", ", ".join(sorted(box.left_out)))
    if body.text is not None and body.text.verbosity is not None:
        notes.add("text.verbosity", "ignored", "harmless")


def _tools(body: ResponsesBody, items: Sequence[Placed], ignored: frozenset[str]) -> Toolbox:
    box = Toolbox(ignored)
    box.add(body.tools or [])
    for where, item in items:
        if isinstance(item, MoreTools):
            box.add(item.tools, f"{where}.tools")
    return box


def _constraint(
    body: ResponsesBody, box: Toolbox, orders: ThinkingOrders
) -> Mapping[str, Any] | None:
    form = _form(body.text.format if body.text else None)
    forced = choose(body.tool_choice, box)
    return chat_constraint(
        {"response_format": form},
        tools=box.for_template(),
        choice=None if forced is None else forced["tool_choice"],
        parallel=body.parallel_tool_calls,
        budget=orders.budget,
    )


def _form(wanted: Json | None) -> Json | None:
    if wanted is None:
        return None
    kind = wanted.get("type")
    if kind not in FORMS:
        message = f"`text.format.type` is {kind!r}: it can be {', '.join(FORMS)}"
        raise refusal("text.format.type", message)
    if kind == "text":
        return None
    if kind == "json_object":
        return wanted
    return {"type": kind, kind: {key: one for key, one in wanted.items() if key != "type"}}


def _request(
    body: ResponsesBody,
    card: ModelCard,
    text: TextCodec,
    own: str,
    prompt: Sequence[int],
    tenant: str,
    constraint: Mapping[str, Any] | None,
    notes: Notes,
    *,
    tools: bool,
) -> GenerationRequest:
    asked, noted = _as_generation(body), Notes()
    stop = stop_of(asked, card, len(prompt), "input", noted)
    retell(noted, notes)
    # A parser finds its markers in the text only, and some models have special tokens for them.
    skips = body.skip_special_tokens
    skips = not text.markup.special if skips is None else skips
    return GenerationRequest(
        id=own,
        prompt=tuple(prompt),
        sampling=sampling_of(asked, card),
        stop=stops_in_answers(
            stop,
            text.markup,
            thinks=text.opens_thinking(prompt),
            tools=tools,
            skips_special=skips,
        ),
        logprobs=body.top_logprobs or 0 if LOGPROBS in (body.include or ()) else None,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        constraint=constraint,
        tenant=tenant,
        request_timeout=card.limits.request_timeout,
        first_token_timeout=card.limits.first_token_timeout,
        skip_special_tokens=skips,
    )


def _as_generation(body: ResponsesBody) -> GenerationBody:
    """Return what a request has in common with chat and text completions."""
    shared = set(ResponsesBody.__struct_fields__) & set(GenerationBody.__struct_fields__)
    fields = {one: getattr(body, one) for one in shared}
    return GenerationBody(max_tokens=body.max_output_tokens, **fields)
