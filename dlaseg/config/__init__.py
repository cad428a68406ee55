"""The config of a run: dataclasses that check themselves, and YAML files."""
