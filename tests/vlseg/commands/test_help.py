import pytest

FLAGS = {
    "train": ("config", "workdir"),
    "evaluate": ("checkpoint", "data", "out"),
    "predict": ("checkpoint", "images", "labels", "out"),
    "convert": ("checkpoint", "out"),
    "export": ("checkpoint", "format", "out"),
    "pseudo_label": ("checkpoint", "data", "min_probability", "out"),
    "verify": ("checkpoint", "tokenizer", "out"),
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_shows_what_the_command_does_and_its_flags(commands, command, model, capsys):
    assert commands.call(command, "--help", f"--checkpoint={model}") == 0
    output, errors = capsys.readouterr()
    assert errors == "" and len(output.splitlines()[0]) > 20
    for name in FLAGS[command]:
        assert f"\n  --{name}: " in output
    assert "alsologtostderr" not in output
