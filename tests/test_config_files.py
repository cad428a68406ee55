import dataclasses
from dataclasses import dataclass, field

from dlaseg.config.fields import fields_of
from dlaseg.config.files import flatten, to_yaml
from dlaseg.errors import nearest


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
    assert [field.name for field in fields_of(Outer())] == ["name", "inner.size", "derived.size", "derived.more"]


def test_yaml_contains_plain_lists_in_the_order_of_the_fields():
    assert to_yaml(Outer()).startswith("name: a\ninner:\n  size:\n  - 1\n  - 2\nderived:\n")


def test_the_flat_names_of_a_config_are_its_field_names():
    assert list(flatten(dataclasses.asdict(Outer()))) == [field.name for field in fields_of(Outer())]


def test_the_last_part_of_a_dotted_name_counts_most():
    assert nearest("lr", ["train.lr", "lrxx", "data.root"]) == "train.lr"
