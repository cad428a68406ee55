"""Parameters and multiply-adds of any network.

Apart from `networks`, because torch's counter of operations brings 80 MB of imports into a process whose memory is
measured.
"""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from dlaseg.benchmarking.others import OtherNetwork
from dlaseg.models.base import SegmentationModel
from dlaseg.models.cost import network_cost


def count_parameters(model: SegmentationModel) -> int:
    """The parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: SegmentationModel, height: int, width: int) -> int:
    """Multiply-adds of one image; of other packages' networks, matrix products count as well as convolutions."""
    if not isinstance(model, OtherNetwork):
        return network_cost(model, height, width).macs
    skeleton = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        skeleton.coarse_logits(torch.empty(1, 3, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations
