"""``medssl bundle check``: everything that can be wrong with a bundle, ours or anybody's, in one list."""

from medssl_monai.apps.bundle_check.check import check_bundle
from medssl_monai.apps.bundle_check.house import overlay_problems
from medssl_monai.apps.bundle_check.metadata import SCHEMA_MD5, SCHEMA_NAME, SCHEMA_URL, find_schema
from medssl_monai.apps.bundle_check.report import BundleReport, Problem

__all__ = [
    "BundleReport",
    "Problem",
    "SCHEMA_MD5",
    "SCHEMA_NAME",
    "SCHEMA_URL",
    "check_bundle",
    "find_schema",
    "overlay_problems",
]
