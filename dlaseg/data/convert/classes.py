"""The classes of a converted data set: ids without gaps, whatever ids the annotations have."""

import unicodedata
from collections.abc import Iterable

import yaml

from dlaseg.data.convert.documents import shown
from dlaseg.errors import UserError
from dlaseg.labels import IGNORE_INDEX, Color

BACKGROUND = "background"


class Classes:
    """Names, ids and colours, in the order in which the classes are first listed, background first.

    Args:
        listed: classes of each annotation file; a name that occurs again is the same class.
        with_background: whether a class `background` is added, unless there is one.

    Attributes:
        ids: by name.

    Raises:
        UserError: an empty, long or unprintable name, names that differ only in case, spaces or Unicode form, one class
            alone, or too many classes.
    """

    def __init__(self, listed: Iterable[dict[str, Color | None]], with_background: bool):
        colors: dict[str, Color | None] = {}
        for classes in listed:
            for name, color in classes.items():
                colors[name] = colors.get(name) or color
        known: dict[str, str] = {}
        for name in colors:
            key = " ".join(unicodedata.normalize("NFKC", name).split()).casefold()
            if not key or len(name) > 100 or not name.isprintable():
                raise UserError(f"class name {shown(name)}: use 1 to 100 printable characters: rename the class")
            if key in known:
                raise UserError(
                    f"classes {shown(known[key])} and {shown(name)} differ only in case, spaces or Unicode form: "
                    "rename one of them"
                )
            known[key] = name
        names = list(colors)
        if BACKGROUND in known:
            names.sort(key=lambda name: name != known[BACKGROUND])  # first, the others stay in order
        elif with_background:
            names.insert(0, BACKGROUND)
            colors[BACKGROUND] = (0, 0, 0)
        if len(names) == 1:
            raise UserError(
                f"one class, {shown(names[0])}: every pixel would get it: annotate a second class, or do not use "
                "--unlabelled ignore"
            )
        if len(names) > IGNORE_INDEX:
            raise UserError(
                f"{len(names)} classes, background included; a label map of 8 bits has up to {IGNORE_INDEX}: join or "
                "remove classes"
            )
        self.ids = {name: i for i, name in enumerate(names)}
        self._colors = colors

    def to_yaml(self) -> str:
        """The content of classes.yaml."""
        lines = ["classes:\n"]
        for name, i in self.ids.items():
            color = self._colors[name]
            entry = {"name": name, "id": i} | ({} if color is None else {"color": list(color)})
            # A line for each class, as people write it
            flow = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1e6)
            lines.append(f"  - {flow}")
        return "".join([*lines, f"ignore: [{IGNORE_INDEX}]\n"])
