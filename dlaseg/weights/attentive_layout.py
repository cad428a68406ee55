"""How the original names tensors of attentive networks (https://github.com/SysCV/dla-afa), and our names for them."""

import re
from collections.abc import Iterable, Mapping

Names = dict[str, str]
"""What names begin with in the original, and in ours. `{k}` is a number; `{i}` is one that is less by 1 in ours."""


def _nested(theirs: str, ours: str, parts: Mapping[str, str]) -> Names:
    return {theirs + inner: ours + rest for inner, rest in parts.items()}


# Convolution and norm; behind the norm, the activation. `1` is a pair of these two, or the in-place norm that is both.
_LEVEL = {"0.": "0.", "1.0.": "1."}
_TWO_LEVELS = {"0.": "0.0.", "1.0.": "0.1.", "2.": "1.0.", "3.0.": "1.1."}
_SPATIAL = _nested("conv.", "conv1.", _LEVEL) | _nested("conv_inner.", "conv2.", _LEVEL) | {"final.0.": "final."}
_CHANNEL = _nested("conv1.", "reduce.", _LEVEL) | {"conv2.0.": "expand."}
_IDA = (
    _nested("proj_{i}.", "proj.{i}.", _LEVEL)
    | {"up_{i}.": "up.{i}."}
    | _nested("sa_{i}.", "node.{i}.spatial.", _SPATIAL)
    | _nested("ca_{i}.", "node.{i}.channel.", _CHANNEL)
)
_OBJECTS = (
    _nested("f_pixel.", "pixel.", _TWO_LEVELS)
    | _nested("f_object.", "object.", _TWO_LEVELS)
    | _nested("f_down.", "down.", _LEVEL)
    | _nested("f_up.", "up.", _LEVEL)
)
_NAMES = (
    {"backbone.base.": "backbone."}
    | _nested("backbone.afa_dla_up.afa_ida_{k}.", "decoder.ida.{k}.", _IDA)
    | _nested("backbone.level_sa.", "fusion.spatial.", _SPATIAL)
    | _nested("backbone.level_ca.", "fusion.channel.", _CHANNEL)
    | _nested("backbone.proj_{i}.", "fusion.proj.{i}.", _LEVEL)
    | {"fc.0.": "head.", "fc_{i}.0.": "auxiliary.{i}."}
    | _nested("scale_space_attn.", "rendering.", _SPATIAL)
    | _nested("ocr.conv3x3_ocr.", "head.pixels.", _LEVEL)
    | _nested("ocr.aux_head.", "head.regions.hidden.", _LEVEL)
    | {"ocr.aux_head.2.": "head.regions.classifier."}
    | _nested("ocr.ocr_distri_head.object_context_block.", "head.attention.", _OBJECTS)
    | _nested("ocr.ocr_distri_head.conv_bn_dropout.", "head.join.", _LEVEL)
    | {"ocr.cls_head.": "head.classifier."}
)

_NUMBER = "0|[1-9][0-9]?"  # no two spellings mean the same part
_UNUSED = re.compile(r"backbone\.base\.fc\..*|up(_[1-4])?\.weight")
"""The classifier of the backbone, and the frozen kernels that upsample logits."""


def has_attention(names: Iterable[str]) -> bool:
    """Whether tensors are those of the original's attentive network."""
    return any(name.startswith("backbone.afa_dla_up.") for name in names)


def from_attentive(name: str) -> str | None:
    """Our name for a tensor of the original's; None for one that no forward pass uses."""
    return None if _UNUSED.fullmatch(name) else _renamed(name, _FROM, -1)


def to_attentive(name: str) -> str:
    """The reverse of `from_attentive`."""
    return _renamed(name, _TO, 1)


def _patterns(names: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """What names begin with, longest first, as patterns, and what they become."""
    patterns = []
    for old, new in sorted(names.items(), key=lambda pair: -len(pair[0])):
        pattern = re.escape(old)
        for letter in "ki":
            pattern = pattern.replace(rf"\{{{letter}\}}", f"(?P<{letter}>{_NUMBER})")
        patterns.append((re.compile(pattern), new))
    return patterns


_FROM = _patterns(_NAMES)
_TO = _patterns({ours: theirs for theirs, ours in _NAMES.items()})


def _renamed(name: str, patterns: Iterable[tuple[re.Pattern[str], str]], step: int) -> str:
    for pattern, new in patterns:
        if match := pattern.match(name):
            numbers = match.groupdict()
            index = int(numbers.get("i", 0)) + step
            return new.format(k=numbers.get("k"), i=index) + name[match.end() :]
    return name
