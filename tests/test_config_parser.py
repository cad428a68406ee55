"""Commands that take a config, where Python leaves docstrings out."""

import pytest

from dlaseg.commands import config_parser
from dlaseg.commands.config_parser import ConfigParser
from dlaseg.config.segmentation import Config


def test_without_docstrings_options_are_read_and_help_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(config_parser, "meanings_of", lambda kind: {})  # as by PYTHONOPTIMIZE=2
    config, _ = ConfigParser(Config, prog="dlaseg train").parse(["--train.lr", "0.25"])
    assert config.train.lr == 0.25
    with pytest.raises(SystemExit) as ended:
        ConfigParser(Config, prog="dlaseg train").parse(["--help"])
    assert ended.value.code == 0
    assert "--train.lr" in capsys.readouterr().out
