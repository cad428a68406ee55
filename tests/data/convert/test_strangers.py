"""Whatever a stranger changes in an annotation file: it is converted, or refused in one line that leaves nothing."""

import base64
import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from annotation_files import save_image

from dlaseg.data.convert.conversion import convert
from dlaseg.errors import UserError

STRANGE = (
    None,
    True,
    -1,
    0,
    2.5,
    10**30,
    1e300,
    math.nan,
    -math.inf,
    "",
    "x",
    "../../etc/passwd",
    [],
    [[]],
    {},
    [None],
)

SQUARE = [0, 0, 2, 0, 2, 2, 0, 2]
PAIRS = [[0, 0], [2, 0], [2, 2], [0, 2]]
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\nIDATx\x9cc"
    b"d\x00\x00\x00\x04\x00\x02\x11\x9e\xc0\xf8\x00\x00\x00\x00IEND\xaeB`\x82"
).decode()

DOCUMENTS: dict[str, Any] = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "segmentation": {"size": [4, 6], "counts": [2, 22]},
                "iscrowd": 1,
            },
            {"id": 3, "image_id": 1, "category_id": 1, "segmentation": {"size": [4, 6], "counts": "2f0"}},
        ],
        "categories": [{"id": 1, "name": "leaf"}],
    },
    "labelme": {
        "shapes": [
            {"label": "leaf", "points": PAIRS, "shape_type": "polygon"},
            {"label": "leaf", "points": PAIRS[:2], "shape_type": "circle"},
            {"label": "leaf", "points": [[1, 1], [1, 1]], "shape_type": "mask", "mask": PNG},
        ],
        "imagePath": "a.png",
        "imageData": PNG,
        "imageHeight": 4,
        "imageWidth": 6,
    },
    "labelstudio": [
        {
            "id": 1,
            "data": {"image": "a.png"},
            "annotations": [
                {
                    "id": 1,
                    "was_cancelled": False,
                    "ground_truth": False,
                    "updated_at": "2024",
                    "result": [
                        {
                            "id": str(index),
                            "type": kind,
                            "original_width": 6,
                            "original_height": 4,
                            "image_rotation": 0,
                            "value": {kind: ["leaf"], **value},
                        }
                        for index, (kind, value) in enumerate(
                            [
                                ("polygonlabels", {"points": PAIRS}),
                                ("rectanglelabels", {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0}),
                                ("ellipselabels", {"x": 50, "y": 50, "radiusX": 50, "radiusY": 50, "rotation": 0}),
                                ("brushlabels", {"rle": [0, 0, 0, 96, 57, 27, 254, 95, 0]}),
                            ]
                        )
                    ],
                }
            ],
        }
    ],
}

XML = """<annotations><meta><task><labels><label><name>leaf</name><color>#00ff00</color></label></labels></task></meta>
<image id="0" name="a.png" width="6" height="4"><polygon label="leaf" points="0,0;2,0;2,2" z_order="0"/>
<box label="leaf" xtl="0" ytl="0" xbr="2" ybr="2" rotation="5"/><ellipse label="leaf" cx="1" cy="1" rx="1" ry="1"/>
<mask label="leaf" rle="1,3" left="0" top="0" width="2" height="2" z_order="1"/></image></annotations>"""
FILES = {
    **{name: ("in.json", json.dumps(document)) for name, document in DOCUMENTS.items()},
    "cvat": ("annotations.xml", XML),
    "yolo": ("data.yaml", "path: .\ntrain: images\nnames: [leaf, stem]\n"),
}


def nodes(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The place of every value in a document."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def with_value(document: Any, path: tuple, value: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return value
    document = copy.deepcopy(document)
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return document


@pytest.fixture
def attempt(tmp_path):
    """Converts content; whether it was converted rather than refused."""
    save_image(tmp_path / "in/images/a.png", 4, 6)
    (tmp_path / "in/labels").mkdir()
    (tmp_path / "in/labels/a.txt").write_text("0 0 0 1 0 1 1\n1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    outputs = iter(range(10**9))

    def convert_or_refuse(format: str, content: str | bytes, name: str | None = None) -> bool:
        path = tmp_path / "in" / (name or FILES[format][0])
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        output = tmp_path / f"out{next(outputs)}"
        refusal = None
        try:
            convert(format, [tmp_path / "in/data.yaml" if format == "yolo" else path], output)
        except UserError as error:
            refusal = str(error)
        assert not any(entry.name.startswith(".") for entry in tmp_path.iterdir())
        assert output.exists() == (refusal is None)
        assert refusal is None or ("\n" not in refusal and len(refusal) < 1000)
        return refusal is None

    return convert_or_refuse


@pytest.mark.parametrize("format", FILES)
def test_the_file_that_is_changed_below_is_right(attempt, format):
    assert attempt(format, FILES[format][1])


@pytest.mark.parametrize("format", DOCUMENTS)
def test_another_value_in_any_place(attempt, format):
    places = list(nodes(DOCUMENTS[format]))
    cases = [(path, value) for path in places for value in STRANGE]
    # a part of them, the same in every run
    for path, value in random.Random(0).sample(cases, 100):
        attempt(format, json.dumps(with_value(DOCUMENTS[format], path, value)))


@pytest.mark.parametrize("format", FILES)
def test_another_character_in_any_place(attempt, format):
    rng = random.Random(1)
    content = FILES[format][1].encode()
    for _ in range(60):
        start = rng.randrange(len(content))
        end = min(len(content), start + rng.choice([0, 1, 1, 5, 300]))
        change = rng.choice([b"", b"\0", b"\xff", b'"', b"-", b"9" * 30, b"<", b"[", b"../", b"nan", b"1e999", b"\n"])
        attempt(format, content[:start] + change + content[end:])


def test_another_character_in_any_place_of_a_text_file_of_yolo(attempt):
    rng = random.Random(2)
    content = b"0 0 0 1 0 1 1\n1 0.1 0.1 0.5 0.1 0.5 0.5\n"
    attempt("yolo", FILES["yolo"][1])
    for _ in range(60):
        start = rng.randrange(len(content))
        change = rng.choice([b"", b"\0", b"\xff", b"-", b"9" * 400, b"nan", b"1e999", b" ", b"\n", b"x"])
        attempt("yolo", content[:start] + change + content[start + rng.randrange(3) :], "labels/a.txt")
