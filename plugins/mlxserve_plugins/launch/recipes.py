"""What each agent needs to talk to a server: variables, a configuration file, words."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from attrs import field, frozen

KEY: Final = "MLXSERVE_LAUNCH_API_KEY"
"""The variable that holds the server's key for agents that read it from a variable of any name."""

PROVIDER: Final = "mlxserve"


@frozen(kw_only=True)
class Target:
    """The server that an agent is to use.

    Attributes:
        url: Its address, without ``/v1``.
        key: What it asks for as a key; agents want some, whether it does or not.
        model: The model's name.
        context: Tokens that prompt and reply may have together, if that is known.
        output: Tokens that a reply may have, if the context is known.
        folder: Where the agent's files of this recipe are.
    """

    url: str
    key: str = field(repr=False)
    model: str
    context: int | None
    output: int | None
    folder: Path

    @property
    def v1(self) -> str:
        """Where OpenAI's API begins."""
        return f"{self.url}/v1"


@frozen(kw_only=True)
class Recipe:
    """How an agent is started.

    Attributes:
        command: The program and its first words.
        variables: Its environment, besides what is there.
        files: Texts by the name of the file, below the target's folder.
    """

    command: tuple[str, ...]
    variables: Mapping[str, str] = field(factory=dict)
    files: Mapping[str, str] = field(factory=dict)


MakeRecipe: TypeAlias = Callable[[Target], Recipe]


def claude(target: Target) -> Recipe:
    """Return the recipe of Claude Code; every size of model means the one that is served."""
    sizes = ("OPUS", "SONNET", "HAIKU")
    variables = {
        "ANTHROPIC_BASE_URL": target.url,
        "ANTHROPIC_AUTH_TOKEN": target.key,
        "ANTHROPIC_API_KEY": "",  # a key for Anthropic's own servers is none of this server's
        "ANTHROPIC_MODEL": target.model,
        **{f"ANTHROPIC_DEFAULT_{size}_MODEL": target.model for size in sizes},
        "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # changes with each session
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "API_TIMEOUT_MS": "3000000",
    }
    if target.context is not None:
        variables["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(target.context)
        variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(target.output)
    return Recipe(command=("claude",), variables=variables)


def codex(target: Target) -> Recipe:
    """Return the recipe of Codex: a folder of its own, so that yours stays as it is."""
    window = "" if target.context is None else f"model_context_window = {target.context}\n"
    text = (
        f"model = {json.dumps(target.model)}\n"
        f'model_provider = "{PROVIDER}"\n'
        f"{window}\n"
        f"[model_providers.{PROVIDER}]\n"
        f'name = "{PROVIDER}"\n'
        f"base_url = {json.dumps(target.v1)}\n"
        f'env_key = "{KEY}"\n'
        f'wire_api = "responses"\n'
    )
    variables = {"CODEX_HOME": str(target.folder), KEY: target.key}
    return Recipe(command=("codex",), variables=variables, files={"config.toml": text})


def opencode(target: Target) -> Recipe:
    """Return the recipe of OpenCode, whose own configuration is read besides."""
    about: dict[str, Any] = {"name": target.model}
    if target.context is not None:
        about["limit"] = {"context": target.context, "output": target.output}
    name = f"{PROVIDER}/{target.model}"
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": name,
        "small_model": name,
        "provider": {
            PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": PROVIDER,
                "options": {"baseURL": target.v1, "apiKey": f"{{env:{KEY}}}"},
                "models": {target.model: about},
            }
        },
    }
    variables = {"OPENCODE_CONFIG": str(target.folder / "opencode.json"), KEY: target.key}
    return Recipe(
        command=("opencode",), variables=variables, files={"opencode.json": _json(config)}
    )


def cline(target: Target) -> Recipe:
    """Return the recipe of Cline's command line, with state of its own."""
    provider = "openai-compatible"
    settings = {
        "provider": provider,
        "apiKey": target.key,
        "model": target.model,
        "baseUrl": target.v1,
    }
    config = {
        "version": 1,
        "lastUsedProvider": provider,
        "modes": {},
        # Without a date Cline takes the file for broken, and writes one that knows no server.
        "providers": {
            provider: {
                "settings": settings,
                "updatedAt": "2026-01-01T00:00:00.000Z",
                "tokenSource": "manual",
            }
        },
    }
    command = ("cline", "-P", provider, "--data-dir", str(target.folder))
    return Recipe(command=command, files={"settings/providers.json": _json(config)})


def aider(target: Target) -> Recipe:
    """Return the recipe of Aider."""
    name = f"openai/{target.model}"
    command: tuple[str, ...] = ("aider", "--model", name)
    variables = {"OPENAI_API_BASE": target.v1, "OPENAI_API_KEY": target.key}
    if target.context is None:
        return Recipe(command=command, variables=variables)
    about = {
        "max_input_tokens": target.context,
        "max_output_tokens": target.output,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    file = "models.json"
    command += ("--model-metadata-file", str(target.folder / file))
    return Recipe(command=command, variables=variables, files={file: _json({name: about})})


def goose(target: Target) -> Recipe:
    """Return the recipe of Goose."""
    variables = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": target.model,
        "OPENAI_HOST": target.url,
        "OPENAI_BASE_PATH": "v1/chat/completions",
        "OPENAI_API_KEY": target.key,
    }
    if target.context is not None:
        variables["GOOSE_CONTEXT_LIMIT"] = str(target.context)
    return Recipe(command=("goose",), variables=variables)


def qwen(target: Target) -> Recipe:
    """Return the recipe of Qwen Code."""
    variables = {
        "OPENAI_BASE_URL": target.v1,
        "OPENAI_API_KEY": target.key,
        "OPENAI_MODEL": target.model,
    }
    return Recipe(command=("qwen", "--auth-type", "openai"), variables=variables)


RECIPES: Final[Mapping[str, tuple[MakeRecipe, str]]] = MappingProxyType(
    {
        "claude": (claude, "npm install -g @anthropic-ai/claude-code"),
        "codex": (codex, "npm install -g @openai/codex"),
        "opencode": (opencode, "npm install -g opencode-ai"),
        "cline": (cline, "npm install -g cline"),
        "aider": (aider, "pip install aider-chat"),
        "goose": (goose, "see https://block.github.io/goose"),
        "qwen": (qwen, "npm install -g @qwen-code/qwen-code"),
    }
)
"""How each agent is started, and how it is installed."""


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
