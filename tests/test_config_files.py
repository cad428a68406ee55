import dataclasses
from dataclasses import dataclass, field

from dlaseg.commands.config_parser import field_names
from dlaseg.commands.parsing import nearest
from dlaseg.config.files import flatten, to_yaml


@dataclass
class Inner:
    size: tuple[int, int] = (1, 2)


@dataclass
class Derived(Inner):
    more: float | None = None


@dataclass
class Outer:
    name: str = "a"
    inner: Inner = field(default_factory=Inner)
    derived: Derived = field(default_factory=Derived)


def test_field_names_are_dotted_and_include_inherited_ones():
    assert list(field_names(Outer)) == ["name", "inner.size", "derived.size", "derived.more"]


def test_yaml_contains_plain_lists_in_the_order_of_the_fields():
    assert to_yaml(Outer()).startswith("name: a\ninner:\n  size:\n  - 1\n  - 2\nderived:\n")


def test_the_flat_names_of_a_config_are_its_field_names():
    assert list(flatten(dataclasses.asdict(Outer()))) == list(field_names(Outer))


def test_the_last_part_of_a_dotted_name_counts_most():
    assert nearest("lr", ["train.lr", "lrxx", "data.root"]) == "train.lr"
