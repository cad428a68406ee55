"""What the kinds of COCO files (https://cocodataset.org/#format-data) have in common: categories and images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlaseg.data.convert.annotations import AnnotatedImage, AnnotatedObject, Source, located
from dlaseg.data.convert.documents import Entry, check, id_of, read_json, shown
from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.data.convert.splits import folders_of, split_of_file, wrong_order
from dlaseg.data.patterns import files_below
from dlaseg.errors import UserError


class Document(Entry):
    """The whole file."""

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


class Category(Entry):
    """A class."""

    id: int
    name: str


class Image(Entry):
    """An image."""

    id: int | str
    file_name: str
    height: int | None = None
    width: int | None = None


class CocoFile:
    """A COCO file: its categories and images, and its annotations as they stand.

    Args:
        source: names the file.

    Attributes:
        path: the file.
        categories: names of the classes by category id, in the order of the ids.
        images: by id.
        annotations: entries of the file, unchecked.

    Raises:
        UserError: a broken file; names it and the entry.
    """

    def __init__(self, source: Source):
        self.path = source.path
        document = check(Document, read_json(source.path), str(source.path))
        self.annotations = document.annotations
        names: dict[int, str] = {}
        for entry in document.categories:
            category = check(Category, entry, self.where("category", entry))
            if category.id in names:
                raise UserError(f"{self.where('category', entry)}: two categories have this id: correct one")
            names[category.id] = category.name
        self.categories = dict(sorted(names.items()))
        self.images: dict[int | str, Image] = {}
        for entry in document.images:
            image = check(Image, entry, self.where("image", entry))
            if image.id in self.images:
                raise UserError(f"{self.where('image', entry)}: two images have this id: correct one")
            self.images[image.id] = image
        # COCO and CVAT keep the files in a folder `annotations` beside the folders of images
        beside = self.path.parent.parent if self.path.parent.name == "annotations" else self.path.parent
        self._folder = ImageFolder(source.images or beside)
        self._split = source.split or split_of_file(source.path)  # None: nothing says it
        self._other_splits = source.other_splits
        self._places: list[set[str]] = []  # folders of each image, below that of all images

    def where(self, kind: str, entry: Any) -> str:
        """The place of an entry, for messages."""
        return f"{self.path}: {kind} {id_of(entry)}"

    def check_ids(self, where: str, image_id: int | str, *category_ids: int) -> None:
        """Raises a UserError if an annotation refers to an image or to categories that the file does not have."""
        if image_id not in self.images:
            raise UserError(f"{where}: image_id {shown(image_id)}: no image has this id: correct the entry")
        for category_id in category_ids:
            if category_id not in self.categories:
                raise UserError(f"{where}: category_id {category_id}: no category has this id: correct the entry")

    def annotated(self, image: Image, objects: Iterable[AnnotatedObject]) -> AnnotatedImage:
        """The image of an entry with its objects.

        Raises:
            UserError: there is no such file, or several.
        """
        where = f"{self.path}: image {shown(image.id)}"
        # The images of instances_train2017.json lie in train2017, and those of another split may have the same names
        subsets = [self.path.stem, self.path.stem.partition("_")[2], *(folders_of(self._split) if self._split else ())]
        with located(where):
            file, name = self._folder.find(image.file_name, subsets=subsets)
        self._places.append(set(file.relative_to(self._folder.root).parts[:-1]))
        size = None if image.height is None or image.width is None else (image.height, image.width)
        return AnnotatedImage(name, file, objects, where, size, self._split or "train")

    def check_order(self) -> None:
        """Raises a UserError if all images lie in folders that are named by the split of another input."""
        if self._split is None or any(not place.isdisjoint(folders_of(self._split)) for place in self._places):
            return
        for other in self._other_splits:
            if self._places and not any(place.isdisjoint(folders_of(other)) for place in self._places):
                raise wrong_order(self._split, self.path, f"its images lie in folders named {other}", other)


def find_files(folder: Path) -> list[Path]:
    """The annotation files of a folder, by the names that COCO, CVAT and Roboflow give them.

    Raises:
        UserError: there are none.
    """
    files = [
        path
        for path in files_below(folder)
        if path.suffix == ".json" and path.name.startswith(("instances_", "_annotations.coco"))
    ]
    if not files:
        raise UserError(
            f"{folder}: no instances_*.json or _annotations.coco.json in it: name the JSON files themselves, and their "
            "splits with --split"
        )
    return files
