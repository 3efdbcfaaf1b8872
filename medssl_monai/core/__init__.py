"""Ground floor: errors that advise, registries, stateless randomness, hashes, atomic files, shipped resources."""

from medssl_monai.core.determinism import set_deterministic
from medssl_monai.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MedSSLError,
    OutputError,
    did_you_mean,
)
from medssl_monai.core.files import FolderLock, atomic_path, make_folder, read_json, write_json, write_text
from medssl_monai.core.hashing import (
    file_digest,
    hash_case,
    hash_key,
    sampled_digest,
    source_digest,
    text_digest,
)
from medssl_monai.core.randomness import derive_seed, generator, permutation, seed_torch, seed_transform
from medssl_monai.core.registry import Registry
from medssl_monai.core.resources import bundle_dir, overlay_path, share_dir
from medssl_monai.core.slices import draw_slices, find_slice_axis, slice_probabilities

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FolderLock",
    "MedSSLError",
    "OutputError",
    "Registry",
    "atomic_path",
    "bundle_dir",
    "derive_seed",
    "did_you_mean",
    "draw_slices",
    "file_digest",
    "find_slice_axis",
    "generator",
    "hash_case",
    "hash_key",
    "make_folder",
    "overlay_path",
    "permutation",
    "read_json",
    "sampled_digest",
    "seed_torch",
    "seed_transform",
    "set_deterministic",
    "share_dir",
    "slice_probabilities",
    "source_digest",
    "text_digest",
    "write_json",
    "write_text",
]
