"""What classes weigh in the loss, so that small ones are not drowned by large ones."""

from statistics import median

from dlaseg.data.statistics import SplitStatistics


def median_frequency(found: SplitStatistics) -> list[float]:
    """Median frequency balancing: a class weighs the median of all classes' frequencies over its own.

    A class's frequency is its share of the pixels of the images that show it: Eigen and Fergus, Predicting Depth,
    Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture, ICCV 2015,
    https://arxiv.org/abs/1411.4734. Of the scored pixels here, since ignored ones cost nothing however many there are.

    Args:
        found: what the label maps of the training split show.

    Returns:
        One positive number a class. 1 for a class that no image shows, as if it were the median: no pixel will be
        weighed with it, label smoothing alone has a use for it.

    Example:
        Class 0 fills 60 of 100 pixels, class 1 20 of the 50 of the one image that shows it, class 2 20 of 100.

        >>> pixels, images, image_pixels = (60, 20, 20, 0), (2, 1, 2, 0), (100, 50, 100, 0)
        >>> median_frequency(SplitStatistics("train", {".": 2}, {(5, 10): 2}, pixels, images, image_pixels, ignored=0))
        [0.6666666666666667, 1.0, 2.0, 1.0]
    """
    frequencies = [own / whole if whole else None for own, whole in zip(found.pixels, found.image_pixels, strict=True)]
    shown = [frequency for frequency in frequencies if frequency is not None]
    return [1.0 if frequency is None else median(shown) / frequency for frequency in frequencies]
