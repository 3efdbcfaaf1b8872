"""Array and dictionary transforms that MONAI lacks."""

from medssl_monai.transforms.color import RandColorJitter, RandColorJitterd, RandGrayscale, RandGrayscaled
from medssl_monai.transforms.crop import RandResizedCrop, RandResizedCropd
from medssl_monai.transforms.ranges import MatchChannels, MatchChannelsd, ToUnitRange, ToUnitRanged
from medssl_monai.transforms.serving import AsScoresd, DescribeInputd, ScaleLogitsd
from medssl_monai.transforms.views import TwoViews, TwoViewsd

__all__ = [
    "AsScoresd",
    "DescribeInputd",
    "MatchChannels",
    "MatchChannelsd",
    "RandColorJitter",
    "RandColorJitterd",
    "RandGrayscale",
    "RandGrayscaled",
    "RandResizedCrop",
    "RandResizedCropd",
    "ScaleLogitsd",
    "ToUnitRange",
    "ToUnitRanged",
    "TwoViews",
    "TwoViewsd",
]
