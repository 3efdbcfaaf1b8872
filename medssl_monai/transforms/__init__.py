"""Array and dictionary transforms that MONAI lacks."""

from medssl_monai.transforms.batched import BatchedViews, EpisodeViews
from medssl_monai.transforms.blur import RandGaussianBlur, RandGaussianBlurd
from medssl_monai.transforms.color import RandColorJitter, RandColorJitterd, RandGrayscale, RandGrayscaled
from medssl_monai.transforms.contrastive_views import mr_views, rgb_views
from medssl_monai.transforms.crop import RandResizedCrop, RandResizedCropd
from medssl_monai.transforms.episodes import DrawEpisode, DrawEpisoded, DropSlicesd, EpisodeSlicesd
from medssl_monai.transforms.label_maps import RestoreLabelMapd
from medssl_monai.transforms.ranges import MatchChannels, MatchChannelsd, ToUnitRange, ToUnitRanged
from medssl_monai.transforms.scan_geometry import CheckScand, ScanSpacingd, scan_transforms
from medssl_monai.transforms.serving import AsScoresd, DescribeInputd, ScaleLogitsd
from medssl_monai.transforms.slices import RandSlice, SampleSlices, SlicesFirst, SlicesLast, normal_chances
from medssl_monai.transforms.slices_dictionary import RandSliced, SampleSlicesd, SlicesFirstd, SlicesLastd
from medssl_monai.transforms.superpixels import Superpixels, Superpixelsd, body_mask
from medssl_monai.transforms.views import TwoViews, TwoViewsd

__all__ = [
    "AsScoresd",
    "BatchedViews",
    "CheckScand",
    "DescribeInputd",
    "DrawEpisode",
    "DrawEpisoded",
    "DropSlicesd",
    "EpisodeSlicesd",
    "EpisodeViews",
    "MatchChannels",
    "MatchChannelsd",
    "RandColorJitter",
    "RandColorJitterd",
    "RandGaussianBlur",
    "RandGaussianBlurd",
    "RandGrayscale",
    "RandGrayscaled",
    "RandResizedCrop",
    "RandResizedCropd",
    "RandSlice",
    "RandSliced",
    "RestoreLabelMapd",
    "SampleSlices",
    "SampleSlicesd",
    "ScaleLogitsd",
    "ScanSpacingd",
    "SlicesFirst",
    "SlicesFirstd",
    "SlicesLast",
    "SlicesLastd",
    "Superpixels",
    "Superpixelsd",
    "ToUnitRange",
    "ToUnitRanged",
    "TwoViews",
    "TwoViewsd",
    "body_mask",
    "mr_views",
    "normal_chances",
    "rgb_views",
    "scan_transforms",
]
