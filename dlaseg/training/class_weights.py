"""Class weights of the loss, which balance rare and frequent classes."""

from statistics import median

from dlaseg.data.statistics import SplitStatistics


def median_frequency(statistics: SplitStatistics) -> list[float]:
    """Median frequency balancing: weight of a class = median of all classes' frequencies / frequency of the class.

    The frequency of a class is its share of the pixels of the images that show it: Eigen and Fergus, Predicting Depth,
    Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture, ICCV 2015,
    https://arxiv.org/abs/1411.4734. Only scored pixels are counted, since ignored pixels do not contribute to the loss.

    Args:
        statistics: pixel counts of the training split.

    Returns:
        One positive number for each class. A class that no image shows has weight 1, as if its frequency were the
        median; only label smoothing uses that weight.

    Example:
        Class 0 fills 60 of 100 pixels; class 1 fills 20 of the 50 pixels of the one image that shows it; class 2 fills
        20 of 100 pixels.

        >>> pixels, images, image_pixels = (60, 20, 20, 0), (2, 1, 2, 0), (100, 50, 100, 0)
        >>> median_frequency(SplitStatistics("train", {".": 2}, {(5, 10): 2}, pixels, images, image_pixels, ignored=0))
        [0.6666666666666667, 1.0, 2.0, 1.0]
    """
    frequencies = [
        pixels / image_pixels if image_pixels else None
        for pixels, image_pixels in zip(statistics.pixels, statistics.image_pixels, strict=True)
    ]
    present = [frequency for frequency in frequencies if frequency is not None]
    return [1.0 if frequency is None else median(present) / frequency for frequency in frequencies]
