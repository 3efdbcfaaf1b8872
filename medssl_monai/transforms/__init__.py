"""Array and dictionary transforms that MONAI lacks."""

from medssl_monai.transforms.ranges import MatchChannels, MatchChannelsd, ToUnitRange, ToUnitRanged
from medssl_monai.transforms.views import TwoViews, TwoViewsd

__all__ = [
    "MatchChannels",
    "MatchChannelsd",
    "ToUnitRange",
    "ToUnitRanged",
    "TwoViews",
    "TwoViewsd",
]
