r"""The families' forms of tool calls, each with where it was looked up.

Names that a template has choose a form; the order matters, for templates borrow from each other.
"""

import json
from typing import Final

from mlxserve_plugins.tools import writing
from mlxserve_plugins.tools.forms import (
    DSML_TAGS,
    INVOKE_TAGS,
    QWEN_TAGS,
    Form,
    gemma,
    headed,
    keyed,
    objects,
    python,
    tagged,
    whole,
)
from mlxserve_plugins.tools.harmony import HarmonyParser
from mlxserve_plugins.tools.headed import MistralCalls
from mlxserve_plugins.tools.library import SPACE_M3, parse_m3
from mlxserve_plugins.tools.programs import LlamaCalls
from mlxserve_plugins.tools.tagged import Tags

ARG_TAGS: Final = Tags(
    call="",
    call_head_end="",
    call_end="</tool_call>",
    param="<arg_key>",
    param_head_end="</arg_key>",
    value="<arg_value>",
    param_end="</arg_value>",
)
LONGCAT_TAGS: Final = Tags(
    call="",
    call_head_end="",
    call_end="</longcat_tool_call>",
    param="<longcat_arg_key>",
    param_head_end="</longcat_arg_key>",
    value="<longcat_arg_value>",
    param_end="</longcat_arg_value>",
)


def _dsml_head(name: str, text: bool) -> str:
    string = "true" if text else "false"
    return f'{DSML_TAGS.param}"{name}" string="{string}"{DSML_TAGS.param_head_end}'


HERMES: Final = Form(
    # NousResearch/Hermes-Function-Calling, README; Qwen2.5 and Qwen3, tokenizer_config.json.
    name="hermes",
    scripts={"<tool_call>": objects("</tool_call>")},
    end="</tool_call>",
    write=writing.objects(),
    template=(("<tool_call>", "</tool_call>"),),
)

FORMS: Final = (
    Form(
        # openai/harmony, docs/format.md.
        name="harmony",
        made=HarmonyParser,
        trigger="<|channel|>commentary to=functions.",
        write=writing.harmony,
        template=(("<|channel|>", "<|message|>"),),
        vocabulary=("<|channel|>", "<|message|>", "<|constrain|>"),
    ),
    Form(
        # MiniMaxAI/MiniMax-M3, chat_template.jinja, by ml-explore/mlx-lm#1416.
        name="minimax-m3",
        scripts={f"{SPACE_M3}<tool_call>": whole(parse_m3, f"{SPACE_M3}</tool_call>")},
        end=f"{SPACE_M3}</tool_call>",
        write=writing.objects(),
        template=((SPACE_M3,),),
        vocabulary=(SPACE_M3,),
    ),
    Form(
        # MiniMaxAI/MiniMax-M2, docs/tool_calling_guide.md.
        name="minimax-m2",
        scripts={"<minimax:tool_call>": tagged(INVOKE_TAGS, "</minimax:tool_call>")},
        end="</minimax:tool_call>",
        write=writing.tagged(INVOKE_TAGS),
        template=(("<minimax:tool_call>",),),
    ),
    Form(
        # deepseek-ai/DeepSeek-V3.2, encoding/encoding_dsv32.py.
        name="deepseek-v3.2",
        scripts={"<｜DSML｜function_calls>": tagged(DSML_TAGS, "</｜DSML｜function_calls>")},
        end="</｜DSML｜function_calls>",
        write=writing.tagged(DSML_TAGS, key=_dsml_head),
        template=(("｜DSML｜",),),
        vocabulary=("｜DSML｜",),
    ),
    Form(
        # deepseek-ai/DeepSeek-V3-0324 and DeepSeek-R1-0528, tokenizer_config.json.
        name="deepseek-v3",
        scripts={"<｜tool▁call▁begin｜>": headed("<｜tool▁sep｜>", "<｜tool▁call▁end｜>")},
        end="<｜tool▁call▁end｜>",
        dropped=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        write=writing.headed("<｜tool▁sep｜>", before="function", fence=True),
        template=(("<｜tool▁call▁begin｜>", "```json"),),
    ),
    Form(
        # deepseek-ai/DeepSeek-V3.1, assets/chat_template.jinja.
        name="deepseek-v3.1",
        scripts={"<｜tool▁call▁begin｜>": headed("<｜tool▁sep｜>", "<｜tool▁call▁end｜>")},
        end="<｜tool▁call▁end｜>",
        dropped=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        write=writing.headed("<｜tool▁sep｜>"),
        template=(("<｜tool▁call▁begin｜>",),),
        vocabulary=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
    ),
    Form(
        # moonshotai/Kimi-K2-Instruct, docs/tool_call_guidance.md.
        name="kimi-k2",
        scripts={
            "<|tool_call_begin|>": headed("<|tool_call_argument_begin|>", "<|tool_call_end|>")
        },
        end="<|tool_call_end|>",
        dropped=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        write=writing.headed("<|tool_call_argument_begin|>", before="functions.", after=":0"),
        template=(("<|tool_calls_section_begin|>",),),
        vocabulary=("<|tool_call_begin|>", "<|tool_call_argument_begin|>"),
    ),
    Form(
        # ByteDance-Seed/Seed-OSS-36B-Instruct, chat_template.jinja.
        name="seed-oss",
        scripts={"<seed:tool_call>": tagged(QWEN_TAGS, "</seed:tool_call>")},
        end="</seed:tool_call>",
        write=writing.tagged(QWEN_TAGS),
        template=(("<seed:tool_call>",),),
    ),
    Form(
        # google/gemma-4, chat_template.jinja.
        name="gemma4",
        scripts={"<|tool_call>": gemma('<|"|>', "<tool_call|>")},
        end="<tool_call|>",
        template=(("<|tool_call>", "<tool_call|>"),),
    ),
    Form(
        # google/functiongemma-270m-it, chat_template.jinja.
        name="function-gemma",
        scripts={"<start_function_call>": gemma("<escape>", "<end_function_call>")},
        end="<end_function_call>",
        template=(("<start_function_call>",),),
    ),
    Form(
        # meituan-longcat/LongCat-Flash-Chat, tokenizer_config.json.
        name="longcat",
        scripts={"<longcat_tool_call>": keyed(LONGCAT_TAGS, "</longcat_tool_call>")},
        end="</longcat_tool_call>",
        write=writing.keyed(LONGCAT_TAGS),
        template=(("<longcat_tool_call>",),),
    ),
    Form(
        # zai-org/GLM-4.5 and GLM-4.7, chat_template.jinja.
        name="glm",
        scripts={"<tool_call>": keyed(ARG_TAGS, "</tool_call>")},
        end="</tool_call>",
        write=writing.keyed(ARG_TAGS),
        template=(("<arg_key>",),),
    ),
    Form(
        # CohereLabs/c4ai-command-r7b-12-2024 and command-a-03-2025, chat_template.jinja.
        name="cohere",
        scripts={"<|START_ACTION|>": objects("<|END_ACTION|>")},
        end="<|END_ACTION|>",
        dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        write=writing.objects("tool_name", "parameters", array=True, extra='"tool_call_id": "0", '),
        template=(("<|START_ACTION|>",),),
        vocabulary=("<|START_ACTION|>",),
    ),
    Form(
        # LiquidAI/LFM2-1.2B, README, "Tool use".
        name="lfm2",
        scripts={"<|tool_call_start|>": python("<|tool_call_end|>")},
        end="<|tool_call_end|>",
        write=writing.python,
        template=(("<|tool_call_start|>",), ("<|tool_list_start|>",)),
        vocabulary=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Form(
        # meta-llama/llama-models, models/llama4/prompt_format.md.
        name="llama4",
        scripts={"<|python_start|>": python("<|python_end|>")},
        end="<|python_end|>",
        starts={"[": python("", bare=True)},
        begins=lambda name: f"[{name}(",
        write=writing.python,
        template=(("<|python_start|>",), ("<|header_start|>",)),
        vocabulary=("<|python_start|>", "<|header_start|>"),
    ),
    Form(
        # meta-llama/llama-models, models/llama3_1/prompt_format.md.
        name="llama3",
        scripts={"<|python_tag|>": lambda tools: LlamaCalls(tools, "<|eom_id|>")},
        starts={"{": objects("", bare=True)},
        begins=lambda name: f'{{"name": {json.dumps(name, ensure_ascii=False)}',
        write=writing.objects("name", "parameters"),
        template=(("<|python_tag|>",), ("<|start_header_id|>", '"parameters"')),
        vocabulary=("<|python_tag|>",),
    ),
    Form(
        # mistralai/mistral-common, tokens/tokenizers/instruct.py.
        name="mistral",
        scripts={"[TOOL_CALLS]": MistralCalls},
        write=writing.headed("[ARGS]"),
        template=(("[TOOL_CALLS]", "[ARGS]"),),
        vocabulary=("[TOOL_CALLS]", "[ARGS]"),
    ),
    Form(
        # The same before tokenizer v11: arrays.
        name="mistral-v3",
        scripts={"[TOOL_CALLS]": MistralCalls},
        write=writing.objects(array=True),
        template=(("[TOOL_CALLS]",),),
        vocabulary=("[TOOL_CALLS]",),
    ),
    Form(
        # tencent/Hunyuan-A13B-Instruct, agent/README.md; Hunyuan-7B-Instruct has <tool_sep>.
        name="hunyuan",
        scripts={
            "<tool_calls>": objects("</tool_calls>"),
            "<tool_call>": headed("<tool_sep>", "</tool_call>"),
        },
        end="</tool_calls>",
        dropped=("<answer>", "</answer>"),
        write=writing.objects(array=True),
        template=(("<tool_calls>",),),
    ),
    Form(
        # ibm-granite/granite-3.3-8b-instruct, tokenizer_config.json; Granite 4 is Hermes'.
        name="granite",
        scripts={"<|tool_call|>": objects("")},
        dropped=("<response>", "</response>"),
        write=writing.objects(array=True),
        template=(("<|tool_call|>", "<|start_of_role|>"),),
        vocabulary=("<|tool_call|>", "<|start_of_role|>"),
    ),
    Form(
        # microsoft/Phi-4-mini-instruct, README, "Tool-enabled function-calling format".
        name="phi4",
        scripts={"<|tool_call|>": objects("<|/tool_call|>"), "functools": objects("")},
        end="<|/tool_call|>",
        write=writing.objects(array=True),
        template=(("<|tool_call|>",), ("<|tool|>", "<|/tool|>")),
        vocabulary=("<|tool_call|>", "<|/tool_call|>"),
    ),
    Form(
        # nvidia/NVIDIA-Nemotron-Nano-9B-v2, tokenizer_config.json.
        name="nemotron",
        scripts={"<TOOLCALL>": objects("</TOOLCALL>")},
        end="</TOOLCALL>",
        write=writing.objects(array=True),
        template=(("<TOOLCALL>",),),
    ),
    Form(
        # internlm/internlm3-8b-instruct, README.
        name="internlm",
        scripts={"<|action_start|><|plugin|>": objects("<|action_end|>")},
        end="<|action_end|>",
        write=writing.objects("name", "parameters"),
        template=(("<|action_start|>",),),
        vocabulary=("<|action_start|>", "<|plugin|>"),
    ),
    Form(
        # Qwen/Qwen3-Coder-30B-A3B-Instruct, chat_template.jinja; Nemotron 3 and Step 3.5 too.
        name="qwen3-coder",
        scripts={"<tool_call>": tagged(QWEN_TAGS, "</tool_call>")},
        end="</tool_call>",
        write=writing.tagged(QWEN_TAGS),
        template=(("<tool_call>", "<function="),),
    ),
    Form(
        # baidu/ERNIE-4.5-21B-A3B-Thinking, chat_template.jinja.
        name="ernie",
        scripts={"<tool_call>": objects("</tool_call>")},
        end="</tool_call>",
        dropped=("<response>", "</response>"),
        write=writing.objects(),
        template=(("<tool_call>", "<response>"),),
    ),
    HERMES,
)
BY_NAME: Final = {form.name: form for form in FORMS}
