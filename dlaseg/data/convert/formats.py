"""The formats that can be converted, and the packages that this needs."""

from importlib.util import find_spec

from dlaseg.errors import UserError

FORMATS = {
    "coco": "COCO JSON: instances, stuff or panoptic",
    "voc": "PASCAL VOC folder, also with labelmap.txt as CVAT writes it",
    "labelme": "folder of LabelMe JSON files",
    "yolo": "YOLO segmentation: data.yaml or its folder",
    "cvat": "CVAT for images 1.1: annotations.xml or its folder",
    "labelstudio": "Label Studio JSON",
}
"""What INPUT is, by name of the format."""


def require_packages() -> None:
    """Checks that the optional packages are installed.

    Raises:
        UserError: one is missing; says how to install it.
    """
    for package in ("pycocotools", "defusedxml", "pydantic"):
        if find_spec(package) is None:
            raise UserError(f"converting annotations needs {package}: pip install 'dlaseg[convert]'")
